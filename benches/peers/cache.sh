# The cache: imports, restores and remembered results, each on a filesystem of its own in memory (a loop device on a file in
# $GUESTCTL_BENCH_DIR, else /dev/shm), which needs root. The peers of a restore copy a tree that lies beside the store; "floor"
# is benches/floor.rs, the bare loop of system calls on as many threads.

if [ "$(id -u)" != 0 ]; then
    echo "left out: filesystems of the cache's own need root"
    return 0
fi
memory=${GUESTCTL_BENCH_DIR:-/dev/shm}
floor=$(cargo build --quiet --release --bench floor --manifest-path "$here/Cargo.toml" --message-format=json |
    python3 -c 'import json, sys
print([m["executable"] for m in map(json.loads, sys.stdin) if m.get("target", {}).get("name") == "floor" and m.get("executable")][-1])')
disk=
unmake() {
    umount "$work/mnt" 2>/dev/null || true
    [ -z "$disk" ] || { umount "$disk" 2>/dev/null || true; rm -f "$memory/guestctl-cache.img"; }
    disk=
}
trap 'unmake; cleanup' EXIT
facts() { (cd "$1" && find . -xdev ! -type s ! -type d -printf '%p %y %m %U %G %s %l %T@\n' -o -type d -printf '%p %y %m %U %G %T@\n' | sort); }

# row WHAT PEER OURS-FILE PEER-FILE: medians of seconds
row() {
    awk -v what="$1" -v peer="$2" -v a="$(median <"$3")" -v b="$(median <"$4")" \
        'BEGIN { printf "%-22s %9.1f ms   %-24s %9.1f ms   %6.2fx\n", what, a * 1000, peer, b * 1000, b / a }'
}
# timed FILE COMMAND: adds its seconds to FILE; what is written is on the disk before
timed() {
    sync
    local begin=$EPOCHREALTIME
    bash -c "$2" >/dev/null 2>"$work/stderr" || { echo "failed: $2" >&2; cat "$work/stderr" >&2; exit 1; }
    awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.6f\n", b - a }' >>"$1"
}

for fs in xfs btrfs ext4; do
    have "mkfs.$fs" || continue
    truncate -s 8G "$memory/guestctl-cache.img"
    case $fs in
    ext4) mkfs.ext4 -q -F "$memory/guestctl-cache.img" ;;
    *) "mkfs.$fs" -q "$memory/guestctl-cache.img" >/dev/null 2>&1 ;;
    esac
    disk=$work/disk
    mkdir -p "$disk" "$work/mnt"
    mount -o loop "$memory/guestctl-cache.img" "$disk"
    cp --sparse=always "$image" "$disk/image.raw"
    cat "$disk/image.raw" >/dev/null
    export GUESTCTL_CACHE_DIR=$disk/cache
    sleep 3 # a file that has just been written has no remembered digest

    # Import, beside the kernel's mount and a digest of every file.
    add="'$guestctl' cache add -q -m $root '$disk/image.raw'"
    digests="mount -o ro,loop,offset=$offset '$disk/image.raw' '$work/mnt'; cd '$work/mnt'; find . -xdev -type f -print0 | xargs -0 -n 2000 -P$(nproc) b3sum --num-threads 1; cd /; umount '$work/mnt'"
    : >"$work/a"
    : >"$work/b"
    for _ in $(seq 3); do
        rm -rf "$disk/cache"
        "$guestctl" cache init >/dev/null
        before=$(stat -f -c '%f * %S' "$disk")
        timed "$work/a" "$add"
        sync
        after=$(stat -f -c '%f * %S' "$disk")
        have b3sum && timed "$work/b" "$digests"
    done
    [ ! -s "$work/b" ] || row "cache add, $fs" "mount, find | b3sum" "$work/a" "$work/b"
    echo "    the filesystem has $(((before - after) >> 20)) MiB less room, the files have $("$guestctl" cache stats --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["logical_bytes"] >> 20)') MiB"

    # Restore, compared with the kernel's own view first.
    restore="'$guestctl' cache restore -q --preserve=all image.raw '$disk/out'"
    mount -o "ro,loop,offset=$offset" "$disk/image.raw" "$work/mnt"
    "$guestctl" cache restore -q --preserve=all image.raw "$disk/seed" >/dev/null
    facts "$work/mnt" >"$work/x"
    facts "$disk/seed" >"$work/y"
    same "cache restore, $fs" "$work/x" "$work/y"
    (cd "$work/mnt" && find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/x"
    (cd "$disk/seed" && find . -xdev -type f -print0 | sort -z | xargs -0 sha256sum) >"$work/y"
    same "cache restore, $fs" "$work/x" "$work/y"
    umount "$work/mnt"
    way=reflink cp=always
    [ "$fs" != ext4 ] || way=copy cp=never
    for name in ours floor cp tar; do : >"$work/$name"; done
    for _ in $(seq "$runs"); do
        for name in ours floor cp tar; do
            rm -rf "$disk/out"
            case $name in
            ours) timed "$work/ours" "$restore" ;;
            floor) sync && "$floor" "$disk/seed" "$disk/out" $way "$(nproc)" | cut -d' ' -f1 >>"$work/floor" ;;
            cp) timed "$work/cp" "cp -a --reflink=$cp '$disk/seed' '$disk/out'" ;;
            tar)
                [ -f "$memory/guestctl-seed.tar" ] || tar --xattrs -C "$disk/seed" -cf "$memory/guestctl-seed.tar" .
                timed "$work/tar" "mkdir '$disk/out'; tar --xattrs -C '$disk/out' -xpf '$memory/guestctl-seed.tar'"
                ;;
            esac
        done
    done
    row "cache restore, $fs" "floor" "$work/ours" "$work/floor"
    row "cache restore, $fs" "cp -a --reflink=$cp" "$work/ours" "$work/cp"
    row "cache restore, $fs" "tar -x" "$work/ours" "$work/tar"
    rm -rf "$disk/out" "$memory/guestctl-seed.tar"
    if [ "$fs" = btrfs ]; then
        snapshot="'$guestctl' cache restore -q --preserve=all --strategy snapshot image.raw '$disk/out'"
        bash -c "$snapshot" >/dev/null
        facts "$disk/seed" >"$work/x"
        facts "$disk/out" >"$work/y"
        same "cache restore, snapshot" "$work/x" "$work/y"
        : >"$work/ours"
        : >"$work/cp"
        for _ in $(seq "$runs"); do
            for name in ours cp; do
                btrfs -q subvolume delete "$disk/out" 2>/dev/null || rm -rf "$disk/out"
                [ $name = cp ] || timed "$work/ours" "$snapshot"
                [ $name = ours ] || timed "$work/cp" "cp -a --reflink=always '$disk/seed' '$disk/out'"
            done
        done
        row "restore by snapshot" "cp -a --reflink=always" "$work/ours" "$work/cp"
    fi

    # Once, not for each filesystem: a sibling on one backing file, and results that are remembered.
    if [ "$fs" = xfs ]; then
        rm -rf "$disk/seed"
        cp --reflink=always "$disk/image.raw" "$disk/changed.raw"
        dd if=/dev/urandom of="$work/new" bs=1M count=20 status=none
        # A guest's own change, made without mounting: a new file, written by e2fsprogs.
        dd if="$disk/changed.raw" of="$disk/part" bs=1M iflag=skip_bytes skip="$offset" conv=sparse status=none
        debugfs -w -R "write $work/new new-file" "$disk/part" >/dev/null 2>&1
        dd if="$disk/part" of="$disk/changed.raw" bs=1M oflag=seek_bytes seek="$offset" conv=notrunc,sparse status=none
        rm "$disk/part"
        "$guestctl" --no-cache convert -q -O qcow2 -B image.raw -F raw "$disk/changed.raw" "$disk/sibling.qcow2"
        rm "$disk/changed.raw"
        sleep 3
        : >"$work/a"
        : >"$work/b"
        for _ in $(seq 3); do
            rm -rf "$disk/cache"
            "$guestctl" cache init >/dev/null
            timed "$work/b" "$add"
            timed "$work/a" "'$guestctl' cache add -q --allow-same-dir -m $root '$disk/sibling.qcow2'"
        done
        row "cache add, a sibling" "the first image" "$work/a" "$work/b"
        "$guestctl" inspect --json "$disk/image.raw" >"$work/x"
        "$guestctl" --no-cache inspect --json "$disk/image.raw" >"$work/y"
        same "inspect, remembered" "$work/x" "$work/y"
        compare "inspect, remembered" "inspect --no-cache" "$runs" "'$guestctl' inspect --json '$disk/image.raw'" \
            "'$guestctl' --no-cache inspect --json '$disk/image.raw'" 20
    fi
    unset GUESTCTL_CACHE_DIR
    unmake
done
trap cleanup EXIT
