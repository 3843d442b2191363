# Trees out of the guest: archives, copies, digests. All peers work on the kernel's own mount, which needs root. "fresh" mounts again
# before each run, so that only the image is in the page cache, as it is for guestctl; "warm" has the guest's files there as well.

if ! mount_root; then
    echo "left out: the kernel's own mount needs root and a loop device"
    return 0
fi
out=$(mktemp -d "${GUESTCTL_BENCH_DIR:-/dev/shm}/guestctl-out.XXXXXX")
trap 'rm -rf "$out"; cleanup' EXIT
mnt=$work/mnt

# The same entries with the same contents, owners, modes, times and links: GNU tar compares the archive with the mount.
"$guestctl" tar-out -q -m "$root" "$image" / "$out/ours.tar"
tar --compare --numeric-owner -f "$out/ours.tar" -C "$mnt" >"$work/differ" 2>&1 || true
if [ -s "$work/differ" ]; then
    echo "tar: the archive differs from the mount, nothing is timed" >&2
    head -5 "$work/differ" >&2
    exit 1
fi
(cd "$mnt" && find . -xdev ! -type s) | sort >"$work/x"
tar -tf "$out/ours.tar" --quoting-style=literal --show-transformed-names | sed 's,\(.\)/$,\1,; s,^\./$,.,' | sort >"$work/y"
same "tar's names" "$work/x" "$work/y"
rm "$out/ours.tar"

ours="'$guestctl' tar-out -q -m $root '$image' / -"
theirs="tar --xattrs -C '$mnt' --one-file-system -cf - ."
fresh="umount '$mnt'; mount -o ro,loop,offset=$offset '$image' '$mnt';"
compare "tar to a pipe" "tar, fresh mount" "$runs" "$ours | cat" "$fresh $theirs | cat"
compare "tar to a pipe" "tar, warm mount" "$runs" "$ours | cat" "$theirs | cat"
compressed() { # WHAT PEER OURS THEIRS: sizes too
    bash -c "$3" | wc -c >"$work/x"
    bash -c "$4" | wc -c >"$work/y"
    compare "$1" "$2" 2 "$3" "$4"
    echo "    sizes: $(cat "$work/x") and $(cat "$work/y") bytes"
}
have pigz && compressed "tar, gzip" "tar | pigz, warm" "'$guestctl' tar-out -q -m $root -c gzip '$image' / -" "$theirs | pigz"
have zstd && compressed "tar, zstd" "tar | zstd -3 -T2, warm" "'$guestctl' tar-out -q -m $root -c zstd '$image' / -" "$theirs | zstd -3 -T2 -c"

# Digests of every file.
sums="'$guestctl' checksum -q -m $root '$image' /"
bash -c "$sums" | sort >"$work/x"
(cd "$mnt" && find . -xdev -type f -print0 | xargs -0 -n 64 -P2 sha256sum) | sort >"$work/y"
same "sha256 of every file" "$work/x" "$work/y"
compare "sha256 of every file" "find | xargs -P2 sha256sum" "$runs" "$sums" "cd '$mnt' && find . -xdev -type f -print0 | xargs -0 -n 64 -P2 sha256sum"
if have b3sum; then
    compare "blake3 of every file" "find | xargs -P2 b3sum" "$runs" "'$guestctl' checksum -q -A blake3 -m $root '$image' /" \
        "cd '$mnt' && find . -xdev -type f -print0 | xargs -0 -n 2000 -P2 b3sum --num-threads 1"
fi

# The whole tree into a directory in memory.
"$guestctl" copy-out -q --preserve=all -m "$root" "$image" / "$out/t"
(cd "$mnt" && find . -xdev -mindepth 1 ! -type s -printf '%p %y %m %U %G %l %T@\n' | sort) >"$work/x"
(cd "$out/t" && find . -xdev -mindepth 1 ! -type s -printf '%p %y %m %U %G %l %T@\n' | sort) >"$work/y"
same "copy-out" "$work/x" "$work/y"
prepare="rm -rf '$out/t'; mkdir '$out/t'"
compare "copy-out to memory" "tar | tar, warm mount" "$runs" "'$guestctl' copy-out -q --preserve=all --no-sync --into '$out/t' -m $root '$image' /" \
    "$theirs | tar -C '$out/t' --xattrs -xpf -"
prepare=:
rm -rf "$out"
trap cleanup EXIT
