# NBD both ways beside qemu-nbd and nbdcopy; sourced by peers.sh.

have qemu-nbd || return 0
have nbdcopy || return 0
fast=$(mktemp -d -p "${GUESTCTL_BENCH_DIR:-/dev/shm}")

# until_socket FILE
until_socket() { for _ in $(seq 100); do [ ! -S "$1" ] || return 0; sleep 0.05; done; echo "no $1" >&2; exit 1; }

"$guestctl" serve --socket "$work/ours.sock" -f raw "$image" 2>/dev/null &
qemu-nbd -r -t -e 16 -f raw -k "$work/theirs.sock" "$image" &
until_socket "$work/ours.sock"
until_socket "$work/theirs.sock"
ours="nbd+unix:///?socket=$work/ours.sock" theirs="nbd+unix:///?socket=$work/theirs.sock"
for server in "$ours" "$theirs"; do
    nbdcopy "$server" "$fast/copy"
    qemu-img compare -q -f raw -F raw "$image" "$fast/copy"
done
rm "$fast/copy"
compare "serve, to nbdcopy" "qemu-nbd" "$runs" "nbdcopy '$ours' null:" "nbdcopy '$theirs' null:"
compare "serve, every byte" "qemu-nbd" "$runs" "nbdcopy --no-extents '$ours' null:" "nbdcopy --no-extents '$theirs' null:"

client() { # SERVER URI
    "$guestctl" convert -q -f raw -O raw "$2" "$fast/ours"
    qemu-img compare -q -f raw -F raw "$image" "$fast/ours"
    compare "client, from $1" "nbdcopy" "$runs" \
        "'$guestctl' convert -q -f raw -O raw '$2' '$fast/ours'" "nbdcopy '$2' '$fast/theirs'"
    rm -f "$fast/ours" "$fast/theirs"
}
client qemu-nbd "$theirs"
if have nbdkit; then
    nbdkit -r -f -U "$work/nbdkit.sock" file "$image" &
    until_socket "$work/nbdkit.sock"
    client nbdkit "nbd+unix:///?socket=$work/nbdkit.sock"
fi
rm -rf "$fast"
