# network-config (version 2, block style) -> a line per interface: mac name mtu dhcp gateway address…
function emit() {
    if (mac != "") print mac, name, mtu, dhcp, gateway addresses
    mac = addresses = ""
    mtu = dhcp = gateway = "-"
}
function value() { gsub(/[]['",{}]/, " "); return $NF }
BEGIN { depth = -1 }
/^ethernets:/ { inside = 1; next }
/^[^ ]/ { inside = 0 }
!inside || /^ *(#|$)/ { next }
{ match($0, /^ */); indent = RLENGTH }
depth < 0 { depth = indent }
indent == depth {
    emit()
    name = $1
    gsub(/["':]/, "", name)
    next
}
/set-name:/ { name = value(); next }
/mtu:/ { mtu = value(); next }
/dhcp4: *(true|yes|on)/ { dhcp = "yes"; next }
/(via|gateway4):/ { gateway = value(); next }
/to:/ { next }
/macaddress:/ {
    match($0, /[0-9A-Fa-f][0-9A-Fa-f]:[0-9A-Fa-f:]+/)
    mac = tolower(substr($0, RSTART, RLENGTH))
    next
}
{
    gsub(/[]["',{}]/, " ")
    for (i = 1; i <= NF; i++) if ($i ~ /^[0-9.]+\/[0-9]+$/) addresses = addresses " " $i
}
END { emit() }
