//! A valid ext4 whose files are hostile to inspection.

use crate::disk::Disk;
use crate::support::have;
use crate::{FILESYSTEM, Suite};

const TREE: &str =
    "mkdir -p t/bin t/sbin t/dev t/proc t/home t/root t/tmp t/usr/bin t/etc/ssh t/usr/lib t/var/lib/dpkg/status.d t/var/lib/rpm t/usr/lib/sysimage/rpm t/lib/apk/db \
    t/boot/grub t/boot/loader/entries t/etc/systemd/system/multi-user.target.wants t/var/lib/pacman/local t/etc/netplan
    printf 'NAME=Debian\\nID=debian\\nVERSION_ID=12\\n' >t/etc/os-release; echo root:x:0:0::/root:/bin/sh >t/etc/passwd
    echo host >t/etc/hostname; echo '/dev/sda / ext4 defaults 0 1' >t/etc/fstab";

/// Scripts that make one thing in the tree `t` hostile.
const TREES: &[(&str, &str)] = &[
    ("an os-release of 2 GiB", "truncate -s 2G t/etc/os-release"),
    ("an os-release of 1 TiB", "truncate -s 1T t/etc/os-release"),
    ("an os-release of 5 MB", "yes 'NAME=x' | head -c 5M >t/etc/os-release"),
    ("an os-release of one line", "head -c 4M /dev/zero | tr '\\0' x >t/etc/os-release"),
    ("an os-release that is a directory", "rm t/etc/os-release; mkdir t/etc/os-release"),
    ("an os-release that is a fifo", "rm t/etc/os-release; mkfifo t/etc/os-release"),
    ("an os-release that is a loop", "ln -sf os-release t/etc/os-release"),
    ("an os-release that climbs", "ln -sf ../../../../../../etc/os-release t/etc/os-release"),
    ("links to one another", "rm -r t/etc; ln -s usr t/etc; rm -r t/usr; ln -s etc t/usr"),
    ("a chain of 100 links", "for n in $(seq 100); do ln -s l$((n+1)) t/etc/l$n; done; ln -sf l1 t/etc/os-release"),
    (
        "links that double",
        "ln -s l1/l1 t/l0; for n in $(seq 38); do ln -s l$((n+1))/l$((n+1)) t/l$n; done; ln -sf /l0 t/etc/os-release",
    ),
    (
        "noise in os-release",
        "seq 100000 | cksum -a crc >/dev/null 2>&1; seq 90000 | tr '0-9' '\\200-\\211' >t/etc/os-release",
    ),
    (
        "an fstab of 100,000 lines",
        "for n in $(seq 1000); do echo \"/dev/sda$n /mnt/$n ext4 defaults 0 0\"; done >x; for n in $(seq 100); do cat x; done >t/etc/fstab",
    ),
    ("an fstab of 2 GiB", "truncate -s 2G t/etc/fstab"),
    ("an fstab of one line", "(printf '/dev/sda /'; head -c 3M /dev/zero | tr '\\0' a) >t/etc/fstab"),
    ("an fstab of the same mount", "yes '/dev/sda / ext4 defaults 0 1' | head -n 90000 >t/etc/fstab"),
    (
        "an fstab that nests",
        "p=; for n in $(seq 300); do p=$p/a; echo \"/dev/sda $p ext4 defaults 0 1\"; done >t/etc/fstab",
    ),
    ("an fstab with escapes", "printf '/dev/sda /\\\\\\\\000\\\\\\\\057..\\\\\\\\057.. ext4 x 0 1\\n' >t/etc/fstab"),
    ("a passwd of 300,000 users", "seq 300000 | sed 's/.*/u&:x:&:&:::/' >t/etc/passwd"),
    ("a passwd of 2 GiB", "truncate -s 2G t/etc/passwd"),
    ("a passwd of colons", "head -c 3M /dev/zero | tr '\\0' : >t/etc/passwd"),
    ("a machine-id that is a loop", "ln -s machine-id t/etc/machine-id"),
    ("a machine-id that is a fifo", "mkfifo t/etc/machine-id"),
    ("a hostname of 4 MB", "head -c 4000000 /dev/zero | tr '\\0' h >t/etc/hostname"),
    ("a dpkg status of noise", "head -c 3000000 /dev/zero | tr '\\0' '\\377' >t/var/lib/dpkg/status"),
    ("a dpkg status of newlines", "head -c 20000000 /dev/zero | tr '\\0' '\\n' >t/var/lib/dpkg/status"),
    (
        "a dpkg status of one field",
        "(printf 'Package: '; head -c 30000000 /dev/zero | tr '\\0' p) >t/var/lib/dpkg/status",
    ),
    (
        "a dpkg status of 400,000 packages",
        "seq 400000 | sed 's/.*/Package: p&\\nStatus: install ok installed\\nVersion: 1\\n/' >t/var/lib/dpkg/status",
    ),
    ("a dpkg status of 2 GiB of nothing", "truncate -s 2G t/var/lib/dpkg/status"),
    ("a dpkg status of colons", "yes : | head -c 10000000 >t/var/lib/dpkg/status"),
    (
        "an rpmdb.sqlite of noise",
        "seq 100000 >t/var/lib/rpm/rpmdb.sqlite; rm t/var/lib/dpkg -r; sed -i s/debian/fedora/ t/etc/os-release",
    ),
    (
        "an rpmdb.sqlite of 1 GiB",
        "rm t/var/lib/dpkg -r; (printf 'SQLite format 3\\0\\020\\0\\001\\001\\0\\100\\040\\040'; head -c 100 /dev/zero) >t/var/lib/rpm/rpmdb.sqlite; truncate -s 1G t/var/lib/rpm/rpmdb.sqlite",
    ),
    ("a Packages of noise", "rm t/var/lib/dpkg -r; seq 100000 >t/var/lib/rpm/Packages"),
    ("a Packages.db of noise", "rm t/var/lib/dpkg -r; seq 100000 >t/usr/lib/sysimage/rpm/Packages.db"),
    (
        "a Packages.db of 1 GiB",
        "rm t/var/lib/dpkg -r; printf 'RpmP\\0\\0\\0\\0\\1\\0\\0\\0\\377\\377\\377\\0' >t/usr/lib/sysimage/rpm/Packages.db; truncate -s 1G t/usr/lib/sysimage/rpm/Packages.db",
    ),
    (
        "an apk database of one line",
        "rm t/var/lib/dpkg -r; (printf 'P:'; head -c 20000000 /dev/zero | tr '\\0' a) >t/lib/apk/db/installed",
    ),
    (
        "an apk database of 500,000 packages",
        "rm t/var/lib/dpkg -r; seq 500000 | sed 's/.*/P:p&\\nV:1\\n/' >t/lib/apk/db/installed",
    ),
    ("a grub.cfg that nests", "(for n in $(seq 50000); do echo 'submenu x {'; done) >t/boot/grub/grub.cfg"),
    ("a grub.cfg of 2 GiB", "truncate -s 2G t/boot/grub/grub.cfg"),
    (
        "a grub.cfg of menu entries",
        "yes 'menuentry \"x\" { linux /vmlinuz root=/dev/sda }' | head -n 60000 >t/boot/grub/grub.cfg",
    ),
    ("1,000 loader entries", "for n in $(seq 1000); do echo 'linux /vmlinuz' >t/boot/loader/entries/$n.conf; done"),
    (
        "2,000 units that are loops",
        "for n in $(seq 2000); do ln -s $n.service t/etc/systemd/system/multi-user.target.wants/$n.service; done",
    ),
    (
        "1,000 pacman packages of noise",
        "rm t/var/lib/dpkg -r; for n in $(seq 1000); do mkdir t/var/lib/pacman/local/$n; printf '%%NAME%%\\n' >t/var/lib/pacman/local/$n/desc; done",
    ),
    (
        "host keys that are no keys",
        "for n in rsa dsa ecdsa ed25519; do truncate -s 1G t/etc/ssh/ssh_host_${n}_key.pub; done",
    ),
    ("netplan that nests", "head -c 1000000 /dev/zero | tr '\\0' '[' >t/etc/netplan/a.yaml"),
    (
        "control characters everywhere",
        "printf 'NAME=\"\\033[2J\\033]0;x\\007\"\\nID=a\\001b\\n' >t/etc/os-release; printf '\\033[31m' >t/etc/hostname",
    ),
];

#[test]
fn hostile_guests() {
    if !have("mke2fs") {
        return;
    }
    let base = Disk::build(&format!("{TREE}; {}", make("64M")));
    let mut suite = Suite::new("guest files", base, FILESYSTEM);
    suite.commands = &[
        "inspect --json IMAGE",
        "filesystems --json IMAGE",
        "ls -R --json -m /dev/sda IMAGE /",
        "ls -l -R IMAGE /",
        "diff --semantic --json IMAGE IMAGE",
    ];
    for &(name, script) in TREES {
        suite.add(name, move |disk| *disk = Disk::build(&format!("{TREE}; {script}; {}", make("64M"))));
    }
    suite.run();
}

/// The tree as a filesystem in the file `disk`.
fn make(size: &str) -> String {
    format!("mke2fs -q -t ext4 -b 4096 -N 4096 -O ^has_journal -d t disk {size}")
}
