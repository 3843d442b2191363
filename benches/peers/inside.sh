# Files and facts inside the guest; sourced by peers.sh.

if have debugfs; then
    "$guestctl" cat "$image" /etc/passwd >"$work/x"
    debugfs -R "cat /etc/passwd" "$image?offset=$offset" >"$work/y" 2>/dev/null
    same "one file" "$work/x" "$work/y"
    compare "one file" "debugfs cat" "$runs" "'$guestctl' cat '$image' /etc/passwd" "debugfs -R 'cat /etc/passwd' '$image?offset=$offset'"
fi

list="'$guestctl' ls -R --json '$image' / -m $root"
if have fls; then
    # fls shows names alone and rewrites bytes above ASCII, so the ASCII paths of what is allocated are compared.
    "$guestctl" find -0 -m "$root" "$image" / | python3 -c 'import sys
print("\n".join(sorted(p.decode() for p in sys.stdin.buffer.read().split(b"\0") if p and all(32 <= b < 127 for b in p))))' >"$work/x"
    fls -r -p -u -o $((offset / 512)) "$image" 2>/dev/null | python3 -c 'import sys
names = (line.rstrip(b"\n").split(b"\t", 1)[1] for line in sys.stdin.buffer if b"\t" in line)
print("\n".join(sorted(n.decode() for n in names if all(32 <= b < 127 for b in n) and not n.startswith(b"$OrphanFiles"))))' >"$work/y"
    # fls also folds a newline in a name into the listing; a name that is cut there is left out on both sides.
    comm -12 "$work/x" "$work/y" >"$work/common"
    if [ $(($(wc -l <"$work/x") - $(wc -l <"$work/common"))) -le 2 ]; then
        compare "list with metadata" "fls -r (names only)" "$runs" "$list" "fls -r -p -o $((offset / 512)) '$image'"
    else
        echo "fls lists $(wc -l <"$work/y") paths, guestctl $(wc -l <"$work/x"): not timed"
    fi
fi
if have 7z; then
    dd if="$image" of="$work/root.ext4" bs=1M iflag=skip_bytes,count_bytes skip="$offset" conv=sparse status=none
    compare "list with metadata" "7z l" "$runs" "$list" "7z l '$work/root.ext4'"
    rm -f "$work/root.ext4"
fi
if mount_root; then
    "$guestctl" find -0 -m "$root" "$image" / | sort -z >"$work/x"
    (cd "$work/mnt" && find . -mindepth 1 -xdev -printf '%P\0') | sort -z >"$work/y"
    same "find on the kernel's mount" "$work/x" "$work/y"
    compare "list with metadata" "find -printf, mounted" "$runs" "$list" "find '$work/mnt' -xdev -printf '%p %y %m %U %G %s %n %i %T@ %l\n'"

    big=$(cd "$work/mnt" && find . -xdev -type f -printf '%b %P\n' | sort -n | tail -1 | cut -d' ' -f2-)
    "$guestctl" ls --json --checksum sha256 -m "$root" "$image" "/$big" | python3 -c 'import json,sys; print(json.loads(sys.stdin.readline())["sha256"])' >"$work/x"
    sha256sum <"$work/mnt/$big" | cut -d' ' -f1 >"$work/y"
    same "sha256 of /$big" "$work/x" "$work/y"
    compare "sha256, largest file" "sha256sum, mounted" "$runs" "'$guestctl' ls --json --checksum sha256 -m $root '$image' '/$big'" "sha256sum '$work/mnt/$big'"
else
    echo "left out: the kernel's own mount needs root and a loop device"
fi

if have virt-inspector; then
    export LIBGUESTFS_BACKEND=direct
    "$guestctl" inspect --xml "$image" >"$work/ours.xml"
    virt-inspector --no-icon -a "$image" >"$work/theirs.xml"
    facts='import sys, xml.etree.ElementTree as E
system = E.parse(sys.argv[1]).getroot()[0]
for name in "root name arch distro product_name major_version package_format hostname osinfo".split():
    print(name, system.findtext(name))
print(sorted(a.findtext("name") for a in system.find("applications")))'
    python3 -c "$facts" "$work/ours.xml" >"$work/x"
    python3 -c "$facts" "$work/theirs.xml" >"$work/y"
    same inspect "$work/x" "$work/y"
    compare "inspect" "virt-inspector" 1 "'$guestctl' inspect --xml '$image'" "virt-inspector --no-icon -a '$image'"
fi
if have virt-ls; then
    compare "list with metadata" "virt-ls -lR" 1 "$list" "virt-ls -a '$image' -lR /"
fi
