"""What a depot has a shell of another host do: each in one go, as every way there takes its time.

Arguments come as arguments. What is found out is printed as words with a zero after each, the kind first.
"""

from __future__ import annotations

#: Folder of all projects, store, project, programs that are needed.
LOOK = r"""
hosted=$1 store=$2 project=$3
shift 3
for each; do command -v "$each" >/dev/null || printf 'missing\0%s\0' "$each"; done
for each in "$store" "${store%/*}" /var/lib /; do
    if [ -d "$each" ]; then
        printf 'room\0%s\0' "$(df --output=avail -B1 -- "$each" | tail -n 1)"
        break
    fi
done
[ ! -d "$store" ] || find "$store" -maxdepth 1 -type f \
    \( -name '*.part' -printf 'part\0%f %b\0' -o -printf 'stored\0%f\0' \)
cd -- "$hosted/$project" 2>/dev/null || exit 0
if [ -e .kvm-compose/home ]; then printf 'home\0%s\0' "$(cat .kvm-compose/home)"; fi
if [ -e .kvm-compose/delivered.json ]; then printf 'notes\0%s\0' "$(cat .kvm-compose/delivered.json)"; fi
[ -d artefacts ] || exit 0
find -L artefacts -type f -printf 'file\0artefacts/%P\0'
find artefacts -type l -printf 'link\0artefacts/%P\0%l\0'
"""

#: Folder of all projects, store, project, home. As root; the project's folder is of whoever asked for that.
OPEN = """\
folder=$1/$3 private=$1/$3/.kvm-compose
install -d -m 755 -- "$1" "$2" || exit
install -d -m 755 -o "${SUDO_UID:-0}" -- "$folder" "$private" || exit
find "$folder" -type d -exec chown "${SUDO_UID:-0}" {} + || exit
printf %s "$4" >"$private/home.part" && mv -fT -- "$private/home.part" "$private/home"
"""

#: As dd(1); nobody else reads what is on its way.
DD = 'umask 077 && exec dd "$@"'

#: How FINISH and UNPACK end when something else has arrived than was sent.
OTHER_CONTENT = 65
#: Part, name, mode, length, digest, whether the name tells the content: then it may be there meanwhile, from
#: another main host.
FINISH = """\
umask 022
if [ "$6" = yes ] && [ -e "$2" ]; then rm -f -- "$1"; exit; fi
truncate -s "$4" -- "$1" || exit
sum=$(sha256sum <"$1") || exit
if [ "${sum%% *}" != "$5" ]; then rm -f -- "$1"; exit 65; fi
mkdir -p -- "${2%/*}" && chmod "$3" "$1" && sync "$1" && mv -fT -- "$1" "$2"
"""

#: Folder of the project, then the paths of files 0, 1, … of the archive that comes in; "sums" ends it. What
#: is noted of files that were there goes first ("before"), what is noted of new ones comes last ("after").
UNPACK = """\
umask 022
cd -- "$1/.kvm-compose" || exit
shift
rm -rf incoming && mkdir -m 700 incoming && cd incoming && tar -x --no-same-owner -f - || exit
sha256sum --status -c sums || exit 65
mv -fT before ../delivered.json || exit
number=0
for path; do
    goal=../../$path
    mkdir -p -- "${goal%/*}" && mv -fT -- "$number" "$goal" || exit
    number=$((number + 1))
done
sync -f . && mv -fT after ../delivered.json && rm -rf ../incoming
"""

#: Path, length: when the connection breaks the end comes too early, and looks like any.
WRITE = 'cat >"$1.part" && [ "$(stat -c %s -- "$1.part")" = "$2" ] && mv -fT -- "$1.part" "$1"'

#: Goal, path, goal, path, …
LINK = """\
umask 022
while [ $# -gt 0 ]; do
    mkdir -p -- "${2%/*}" && ln -sfT -- "$1" "$2" || exit
    shift 2
done
"""

#: Folder of all projects, store, contents: which of them no link leads to are removed.
SWEEP = """\
hosted=$1 store=$2
shift 2
used=$(find "$hosted" -type l -printf '%l\\n') || exit
for each; do
    case "
$used
" in *"
$store/$each
"*) ;; *) rm -f -- "$store/$each" ;; esac
done
"""
