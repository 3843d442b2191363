//! What the guest's filesystems say is free is left out, and nothing else.

use super::{guestctl, run};
use crate::support::{have, shell};

#[test]
fn deleted_bytes_are_gone_and_files_are_whole() {
    if !have("mke2fs") || !have("debugfs") || !have("qemu-img") || !have("sfdisk") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "mkdir tree; for n in 1 2 3 4 5 6 7 8; do head -c 700000 /dev/urandom >tree/file$n; done
         head -c 20000000 /dev/urandom >tree/large; head -c 3000000 /dev/zero | tr '\\0' x >tree/text
         mke2fs -q -t ext4 -d tree fs 60M
         printf 'rm large\\nrm file3\\nrm file5\\n' | debugfs -w fs >log 2>&1
         truncate -s 64M disk; printf 'start=2048, size=122880, type=83\\n' | sfdisk -q disk
         dd if=fs of=disk bs=1M seek=1 conv=notrunc status=none
         rm tree/large tree/file3 tree/file5",
    );
    guestctl(at, "convert -f raw -O qcow2 disk all.qcow2");
    guestctl(at, "convert -f raw -O qcow2 --skip-free --verify disk used.qcow2");
    let size = |name: &str| std::fs::metadata(at.join(name)).unwrap().len();
    assert!(size("used.qcow2") + (20 << 20) < size("all.qcow2"), "{} of {}", size("used.qcow2"), size("all.qcow2"));
    shell(
        at,
        "qemu-img check -q used.qcow2; qemu-img convert -O raw used.qcow2 back
         dd if=back of=fs2 bs=1M skip=1 count=60 status=none; e2fsck -fn fs2 >fsck
         mkdir out; debugfs -R 'rdump / out' fs2 2>log; rm -r out/lost+found; diff -r tree out",
    );
    // A disk without anything that is understood stays as it is.
    shell(at, "head -c 5000000 /dev/urandom >noise; truncate -s 5242880 noise");
    guestctl(at, "convert -f raw -O raw --skip-free noise copy");
    shell(at, "cmp noise copy");
    assert_eq!(run(at, "convert -f raw -O raw --skip-free missing copy2").status.code(), Some(1));
}
