#!/usr/bin/env bash
# Times guestctl beside what a user would run instead, on one image: the same work, the results compared first, the
# runs taken in turn (A B A B …) so that a machine whose speed drifts slows both, medians and their ratio printed.
#
#   benches/peers.sh IMAGE [RUNS] [PART…]
#
# IMAGE is a raw disk with one ext4 root partition in it (a partition table, or the bare filesystem). Parts: inside (files
# and facts), out (archives, trees, digests), convert, nbd, cache; all without one. Converted images go to $GUESTCTL_BENCH_DIR, else to /dev/shm: memory, where
# fsync(2) costs nothing, because qemu-img does without it. Peers that are not installed are named and left out; the
# kernel's mount needs root. guestctl is built as it is meant to be shipped: one static, position-independent program, which
# starts in 1.4 ms where one that loads shared libraries takes 1.8 ms (Debian 12, OpenSSL built in both times). About 0.7 ms
# of either are the program's 30,000 relocations, which touch 600 KiB of constant data (strace -r shows the gap before the
# last mprotect). What a question about an image takes beyond its start: info 0.5 ms, map 1.0 ms, of which ten reads of
# 64 KiB are the most.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

image=$(realpath "${1:?usage: benches/peers.sh IMAGE [RUNS] [PART...]}")
runs=${2:-7}
parts=("${@:3}")
[ ${#parts[@]} -gt 0 ] || parts=(inside out convert nbd cache)
here=$(cd "$(dirname "$0")/.." && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --quiet --release --target "$host" --bin guestctl --manifest-path "$here/Cargo.toml"
guestctl=${CARGO_TARGET_DIR:-$here/target}/$host/release/guestctl
work=$(mktemp -d)
fast=
mounted=
cleanup() {
    [ -z "$mounted" ] || umount "$work/mnt"
    pkill -P $$ 2>/dev/null || true
    rm -rf "$work" ${fast:+"$fast"}
}
trap cleanup EXIT
cat "$image" >/dev/null # into the page cache

# What is to be done before each run and not timed.
prepare=:
# seconds COMMAND [TIMES]: the wall time of one of so many runs in a row, output thrown away
seconds() {
    local times=${2:-1} begin
    # Both begin without an old output: taking it away is no part of the work.
    [ -z "$fast" ] || rm -f "$fast/ours" "$fast/theirs"
    eval "$prepare"
    begin=$EPOCHREALTIME
    bash -c "for _ in \$(seq $times); do $1; done" >/dev/null 2>"$work/stderr" || { echo "failed: $1" >&2; cat "$work/stderr" >&2; exit 1; }
    local end=$EPOCHREALTIME
    awk -v a="$begin" -v b="$end" -v n="$times" 'BEGIN { printf "%.6f\n", (b - a) / n }'
}
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# compare WHAT PEER RUNS OURS THEIRS [TIMES]: short work is done TIMES times in a row, so that starting a shell is no part of it
compare() {
    local what=$1 peer=$2 n=$3 ours=$4 theirs=$5 times=${6:-1}
    seconds "$ours" "$times" >/dev/null
    seconds "$theirs" "$times" >/dev/null
    : >"$work/a"
    : >"$work/b"
    for _ in $(seq "$n"); do
        seconds "$ours" "$times" >>"$work/a"
        seconds "$theirs" "$times" >>"$work/b"
    done
    local a b
    a=$(median <"$work/a")
    b=$(median <"$work/b")
    awk -v what="$what" -v peer="$peer" -v a="$a" -v b="$b" \
        'BEGIN { printf "%-22s %9.1f ms   %-24s %9.1f ms   %6.2fx\n", what, a * 1000, peer, b * 1000, b / a }'
}
same() { # WHAT FILE FILE
    cmp -s "$2" "$3" || { echo "$1: the results differ, nothing is timed" >&2; diff "$2" "$3" | head -5 >&2; exit 1; }
}
# The root filesystem: its name in the guest, and where it begins.
root=$("$guestctl" inspect --json --no-applications "$image" | python3 -c 'import json,sys; print(json.load(sys.stdin)["operating_systems"][0]["root"])')
offset=0
case $root in
/dev/sda?*) offset=$(sfdisk -J "$image" | python3 -c 'import json,sys
n = int(sys.argv[1])
print([p["start"] for p in json.load(sys.stdin)["partitiontable"]["partitions"] if int("".join(c for c in p["node"][-3:] if c.isdigit())) == n][0] * 512)' "${root#/dev/sda}") ;;
esac
mount_root() { # the kernel's own mount, at $work/mnt
    [ -z "$mounted" ] || return 0
    [ "$(id -u)" = 0 ] && mkdir -p "$work/mnt" && mount -o "ro,loop,offset=$offset" "$image" "$work/mnt" && mounted=yes
}
have() { command -v "$1" >/dev/null || { echo "left out: $1 is not installed"; false; }; }

echo "$("$guestctl" version | head -1), $(nproc) processors, $(uname -sr), $image, $runs runs each"
printf '%-22s %12s   %-24s %12s   %7s\n' work guestctl peer time ratio
for part in "${parts[@]}"; do
    # shellcheck source=/dev/null
    source "$here/benches/peers/$part.sh"
done
