//! On a filesystem that shares storage no data moves.

use super::guestctl;
use super::layout::sparse;
use crate::support::{have, root, shell};

#[test]
fn data_is_shared_and_not_copied() {
    if !root() || !have("mkfs.xfs") || !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(at, "truncate -s 400M fs; mkfs.xfs -q -m reflink=1 fs; mkdir mnt; mount -o loop fs mnt");
    let inside = at.join("mnt");
    let result = std::panic::catch_unwind(|| {
        sparse(&inside.join("source"), 31, (60 << 20) + 512, 120);
        // Data that ends between blocks is copied, the rest is not.
        for (format, options) in
            [("raw", ""), ("qcow2", ""), ("qcow2", "-o cluster_size=4k"), ("qcow2", "-o extended_l2=on")]
        {
            let what = format!("{format} {options}");
            let done = guestctl(&inside, &format!("convert --json -f raw -O {format} {options} source out"));
            let done: serde_json::Value = serde_json::from_slice(&done).unwrap();
            let (read, cloned) = (done["read"].as_u64().unwrap(), done["cloned"].as_u64().unwrap());
            assert!(cloned > 1 << 20 && read <= 65_536, "{what}: {done}");
            let compared = shell(&inside, &format!("qemu-img compare -f raw -F {format} source out"));
            assert_eq!(compared.stdout, b"Images are identical.\n", "{what}");
            if format == "qcow2" {
                shell(&inside, "qemu-img check -q out");
                guestctl(&inside, "convert -f qcow2 -O raw out back");
                shell(&inside, "cmp source back");
            }
        }
        let copied = guestctl(&inside, "convert --no-clone --json -f raw -O raw source out");
        assert!(String::from_utf8(copied).unwrap().contains("\"cloned\": 0"));
    });
    shell(at, "umount mnt");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
