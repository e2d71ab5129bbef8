# Translates a NoCloud seed into calls of the shell functions of /usr/lib/micro/boot.
#
#   awk -f seed.awk meta-data network-config user-data
#
# It reads as much YAML as seeds have: mappings and lists, in blocks and in braces, quoted and plain words,
# texts after | and >. No anchors, no tags. Each value is handed on with its path: users/2/name, where
# items of lists have numbers that no other item has.

BEGIN { quote = "'" }

FNR == 1 {
    end_text()
    file = FILENAME
    sub(/.*\//, "", file)
    depth = 0
    pending = ""
}

# user-data of several parts: cloud-configs are read one after the other, and nothing else is
FNR == 1 {
    boundary = ""
    if ($0 ~ /^Content-Type: multipart\//) {
        boundary = $0
        sub(/.*boundary="?/, "", boundary)
        sub(/"?[ \r]*$/, "", boundary)
        header = 1
    }
}

boundary != "" && index($0, "--" boundary) == 1 {
    end_text()
    pending = ""
    depth = 0
    header = 1
    skipped = 0
    next
}

boundary != "" && header {
    if ($0 ~ /^\r?$/) header = 0
    else if (/^Content-Type:/ && !/text\/cloud-config(;|$)/ || /^Content-Transfer-Encoding: base64/) skipped = 1
    next
}

boundary != "" && skipped { next }

# the lines of a text after | or >
in_text {
    match($0, /^ */)
    if (RLENGTH > text_indent || /^ *$/) {
        if (text_margin == 0) text_margin = RLENGTH + 1
        text = text substr($0, text_margin) "\n"
        next
    }
    end_text()
}

/^ *(#|$)/ || /^(---|\.\.\.)/ { next }

{
    sub(/[ \t\r]+$/, "")
    pending = pending == "" ? $0 : pending " " $0
    if (open_brackets(pending) > 0) next # goes on in the next line
    take(pending)
    pending = ""
}

END {
    end_text()
    write()
}

function end_text() {
    if (in_text) {
        in_text = 0
        value(text_path, text)
    }
}

# how many brackets are open at the end, outside of quotes
function open_brackets(line, i, c, inside, count) {
    if (line !~ /[[{]/) return 0
    count = 0
    inside = ""
    for (i = 1; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (inside != "") {
            if (inside == "\"" && c == "\\") i++
            else if (c == inside) inside = ""
        } else if ((c == "\"" || c == quote) && substr(line, i - 1, 1) ~ /[][{},: ]/) inside = c
        else if (c ~ /[[{]/) count++
        else if (c ~ /[]}]/) count--
    }
    return count
}

# one line: where it stands in the tree, and what stands there
function take(line, indent, name) {
    match(line, /^ */)
    indent = RLENGTH
    line = substr(line, indent + 1)
    while (line ~ /^-( |$)/) {
        enter(indent + 0.5, ++items) # a list may stand as far left as the key it belongs to
        match(line, /^- */)
        indent += RLENGTH
        line = substr(line, RLENGTH + 1)
        if (line == "") return
    }
    while (depth && level[depth] >= indent) depth--
    if (match(line, /^("[^"]*"|'[^']*'|[^][{}"', ][^][{}"',]*) *:( |$)/) && line !~ /^[[{]/) {
        name = substr(line, 1, RLENGTH)
        if (match(name, /:( .*)?$/)) line = substr(line, RSTART + 1)
        sub(/: ?$/, "", name)
        if (name ~ /: /) {
            # the key ends at the first colon before a space
            line = substr(name, index(name, ": ") + 1) ":" line
            name = substr(name, 1, index(name, ": ") - 1)
        }
        gsub(/^["' ]+|["' ]+$/, "", name)
        enter(indent, name)
    }
    sub(/^ +/, "", line)
    if (line == "" || line ~ /^#/) return
    if (line ~ /^[|>][-+0-9]*( *#.*)?$/) {
        in_text = 1
        text = ""
        text_margin = 0
        text_indent = depth ? int(level[depth]) : 0
        text_path = path()
        return
    }
    rest = line
    parse(path(), 0)
}

function enter(indent, name) {
    while (depth && level[depth] >= indent) depth--
    level[++depth] = indent
    part[depth] = name
}

function path(i, joined) {
    joined = part[1]
    for (i = 2; i <= depth; i++) joined = joined "/" part[i]
    return joined
}

# takes one value off the front of `rest`; within brackets a plain word ends at a comma or bracket
function parse(at, within, name) {
    sub(/^ +/, "", rest)
    if (rest ~ /^\[/) {
        rest = substr(rest, 2)
        while (more("]")) parse(at "/" (++items), 1)
    } else if (rest ~ /^\{/) {
        rest = substr(rest, 2)
        while (more("}")) {
            name = word(2)
            sub(/^ *: */, "", rest)
            parse(at "/" name, 1)
        }
    } else value(at, word(within))
}

function more(closing) {
    sub(/^[ ,]+/, "", rest)
    if (rest == "") return 0
    if (substr(rest, 1, 1) != closing) return 1
    rest = substr(rest, 2)
    return 0
}

# takes a word off the front of `rest`; within: 1 in brackets, 2 a key in braces
function word(within, found, c, i) {
    if (rest ~ /^'/) {
        found = ""
        for (i = 2; i <= length(rest); i++) {
            c = substr(rest, i, 1)
            if (c == quote) {
                if (substr(rest, i + 1, 1) != quote) break
                i++
            }
            found = found c
        }
        rest = substr(rest, i + 1)
        return found
    }
    if (rest ~ /^"/) {
        found = ""
        for (i = 2; i <= length(rest); i++) {
            c = substr(rest, i, 1)
            if (c == "\"") break
            if (c == "\\") {
                c = substr(rest, ++i, 1)
                if (c == "n") c = "\n"
                else if (c == "t") c = "\t"
            }
            found = found c
        }
        rest = substr(rest, i + 1)
        return found
    }
    if (within == 2) match(rest, /^([^:,{}]|:[^ ,}])*/)
    else if (within) match(rest, /^[^],}[{]*/)
    else {
        found = rest
        sub(/ +#.*/, "", found)
        rest = ""
        return found
    }
    found = substr(rest, 1, RLENGTH)
    rest = substr(rest, RLENGTH + 1)
    sub(/ +$/, "", found)
    return found
}

# what the seed says, by path
function value(at, what, p, n) {
    sub(/^\//, "", at)
    n = split(at, p, "/")
    if (file == "meta-data") {
        if (at == "instance-id") instance = what
        else if (at == "local-hostname") host = what
    } else if (file == "network-config") {
        if (p[1] == "network") {
            sub(/^network\//, "", at)
            n = split(at, p, "/")
        }
        if (p[1] == "ethernets" && n > 2) of_interface(p[2], p, n, what)
    } else if (at == "hostname") host = what
    else if (p[1] == "ssh_authorized_keys") keys = keys call("key", what)
    else if (p[1] == "users" && p[3] == "name") user_of[p[2]] = what
    else if (p[1] == "users" && p[3] == "ssh_authorized_keys") keys_of[p[2]] = keys_of[p[2]] call("key", what)
    else if (p[1] ~ /^(boot|run)cmd$/ && n > 1) {
        if (!(p[2] in command)) {
            commands[++command_count] = p[2]
            called[p[2]] = p[1]
        }
        command[p[2]] = n > 2 ? command[p[2]] " " quoted(what) : " sh -c " quoted(what)
    }
    if (p[1] == "users" && file == "user-data" && !(p[2] in seen) && n > 2) {
        seen[p[2]] = 1
        users[++user_count] = p[2]
    }
}

function of_interface(name, p, n, what) {
    if (!(name in renamed)) {
        interfaces[++interface_count] = name
        renamed[name] = name
    }
    if (p[3] == "match" && p[4] == "macaddress") mac[name] = tolower(what)
    else if (p[3] == "set-name") renamed[name] = what
    else if (p[3] == "mtu") mtu[name] = what
    else if (p[3] == "dhcp4") dhcp[name] = what ~ /^(true|yes|on)$/
    else if (p[3] == "addresses") settings[name] = settings[name] call("address", what)
    else if (p[3] == "gateway4") routes[name] = routes[name] call("route", "default", what)
    else if (p[3] == "nameservers" && p[4] == "addresses") settings[name] = settings[name] call("dns", "nameserver", what)
    else if (p[3] == "nameservers" && p[4] == "search") settings[name] = settings[name] call("dns", "search", what)
    else if (p[3] == "routes") {
        if (!((name, p[4]) in hop)) {
            hop[name, p[4]] = ""
            hops[++hop_count] = name SUBSEP p[4]
        }
        if (p[5] == "to") goal[name, p[4]] = what == "0.0.0.0/0" ? "default" : what
        else if (p[5] == "via") hop[name, p[4]] = what
        else if (p[5] == "metric") metric[name, p[4]] = what
    }
}

function quoted(what) {
    gsub(quote, quote "\\" quote quote, what)
    return quote what quote
}

function call(name, first, second, third) {
    return name " " quoted(first) " " quoted(second) " " quoted(third) "\n"
}

function write(i, name, p) {
    printf "%s", call("instance", instance)
    if (host != "") printf "%s", call("name_guest", host)
    for (i = 1; i <= hop_count; i++) {
        split(hops[i], p, SUBSEP)
        if (hop[hops[i]] != "") routes[p[1]] = routes[p[1]] call("route", goal[hops[i]], hop[hops[i]], metric[hops[i]])
    }
    for (i = 1; i <= interface_count; i++) {
        name = interfaces[i]
        printf "%s%s", call("interface", renamed[name], mac[name]), call("bring_up", mtu[name])
        printf "%s%s", settings[name], routes[name]
        if (dhcp[name]) print "dhcp"
    }
    for (i = 1; i <= command_count; i++) if (called[commands[i]] == "bootcmd") print "bootcmd" command[commands[i]]
    print "set_up() {\n:"
    for (i = 1; i <= user_count; i++) if (user_of[users[i]] != "") {
        printf "%s%s", call("user", user_of[users[i]]), keys_of[users[i]] (i == 1 ? keys : "")
    }
    if (!user_count && keys != "") printf "%s%s", call("user", "root"), keys
    for (i = 1; i <= command_count; i++) if (called[commands[i]] == "runcmd") print "runcmd" command[commands[i]]
    print "}"
}
