# Images and conversions beside qemu-img with its best flags; sourced by peers.sh.

have qemu-img || return 0
fast=$(mktemp -d -p "${GUESTCTL_BENCH_DIR:-/dev/shm}")
in=$work/in
mkdir "$in"
best="-m 16 -W"

# The inputs are the peer's own.
# shellcheck disable=SC2086
{
    qemu-img convert $best -f raw -O qcow2 "$image" "$in/plain.qcow2"
    qemu-img convert $best -c -f raw -O qcow2 "$image" "$in/zlib.qcow2"
    qemu-img convert $best -c -o compression_type=zstd -f raw -O qcow2 "$image" "$in/zstd.qcow2"
    qemu-img convert -f raw -O vmdk "$image" "$in/sparse.vmdk"
    qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$image" "$in/stream.vmdk"
}

for question in "info --output=json" "map --output=json" "check --output=json"; do
    pick='import json, sys
x = json.load(sys.stdin)
print(x if isinstance(x, list) else [x.get(k) for k in ("format", "virtual-size", "total-clusters", "allocated-clusters", "image-end-offset")])'
    bash -c "'$guestctl' $question '$in/plain.qcow2'" | python3 -c "$pick" >"$work/x"
    bash -c "qemu-img $question '$in/plain.qcow2'" | python3 -c "$pick" >"$work/y"
    same "$question" "$work/x" "$work/y"
    compare "${question%% *} qcow2" "qemu-img ${question%% *}" "$runs" \
        "'$guestctl' $question '$in/plain.qcow2'" "qemu-img $question '$in/plain.qcow2'" 20
done

# into WHAT FORMAT RUNS IN OURS-OPTIONS THEIRS-OPTIONS: both convert, both results are compared with the source first
into() {
    local what=$1 format=$2 n=$3 from=$4 ours theirs
    ours="'$guestctl' convert -q -O $format $5 '$from' '$fast/ours'"
    theirs="qemu-img convert -O $format $6 '$from' '$fast/theirs'"
    bash -c "$ours"
    bash -c "$theirs"
    for result in ours theirs; do
        qemu-img compare -q -f raw -F "$format" "$image" "$fast/$result" || { echo "$what: $result differs" >&2; exit 1; }
    done
    local a b
    a=$(stat -c %s "$fast/ours")
    b=$(stat -c %s "$fast/theirs")
    compare "$what" "qemu-img $6" "$n" "$ours" "$theirs"
    [ "$format" = raw ] || awk -v a="$a" -v b="$b" \
        'BEGIN { printf "%-22s %12d   %-24s %12d   %6.1f%%\n", "  bytes", a, "", b, 100 * a / b }'
    rm -f "$fast/ours" "$fast/theirs"
}
few=$(((runs + 2) / 3))
into "raw to qcow2" qcow2 "$runs" "$image" "-f raw" "$best -f raw"
into "qcow2 to raw" raw "$runs" "$in/plain.qcow2" "-f qcow2" "$best -f qcow2"
into "vmdk to qcow2" qcow2 "$runs" "$in/sparse.vmdk" "-f vmdk" "$best -f vmdk"
into "zlib qcow2 to raw" raw "$few" "$in/zlib.qcow2" "-f qcow2" "$best -f qcow2"
into "zstd qcow2 to raw" raw "$few" "$in/zstd.qcow2" "-f qcow2" "$best -f qcow2"
into "stream vmdk to raw" raw "$few" "$in/stream.vmdk" "-f vmdk" "$best -f vmdk"
into "raw to zlib qcow2" qcow2 "$few" "$image" "-c -f raw" "-c $best -f raw"
into "raw to zlib qcow2" qcow2 1 "$image" "-c -f raw" "-c -f raw"
into "raw to zstd qcow2" qcow2 "$few" "$image" "--compression zstd -f raw" "-c -o compression_type=zstd $best -f raw"
into "raw to zstd qcow2" qcow2 "$few" "$image" "--compression zstd -f raw" "-c -o compression_type=zstd -f raw"
compare "compare raw, qcow2" "qemu-img compare" "$runs" \
    "'$guestctl' compare -q -f raw -F qcow2 '$image' '$in/plain.qcow2'" "qemu-img compare -q -f raw -F qcow2 '$image' '$in/plain.qcow2'"

# On a filesystem that shares storage: no data moves.
if [ "$(id -u)" = 0 ] && have mkfs.xfs && mkdir -p "$work/mnt"; then
    truncate -s 12G "$work/xfs"
    mkfs.xfs -q -m reflink=1 "$work/xfs"
    mount -o loop "$work/xfs" "$work/mnt"
    mounted=yes
    cp --sparse=always "$image" "$work/mnt/in"
    sync
    for format in raw qcow2; do
        "$guestctl" convert --json -f raw -O "$format" "$work/mnt/in" "$work/mnt/out" |
            python3 -c 'import json, sys; done = json.load(sys.stdin); sys.exit(done["read"] != 0)' || echo "data was read"
        qemu-img compare -q -f raw -F "$format" "$image" "$work/mnt/out"
        compare "raw to $format, XFS" "cp --reflink=always" "$runs" \
            "rm -f '$work/mnt/out'; '$guestctl' convert -q -f raw -O $format '$work/mnt/in' '$work/mnt/out'" "rm -f '$work/mnt/copy'; cp --reflink=always '$work/mnt/in' '$work/mnt/copy'"
    done
    umount "$work/mnt"
    mounted=
    rm "$work/xfs"
fi
rm -rf "$in" "$fast"
