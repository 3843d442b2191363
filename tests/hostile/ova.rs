//! OVA: a tar with a description and a raw disk, built by hand.

use crate::disk::{Disk, boundaries};
use crate::fat::tiny;
use crate::{DISK, Suite};

const OVF: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="disk.img" ovf:id="file1"/></References>
<DiskSection><Info/><Disk ovf:capacity="65536" ovf:diskId="disk1" ovf:fileRef="file1"/></DiskSection>
</Envelope>
"#;

fn member(disk: &mut Disk, name: &str, content: &[u8]) {
    let at = disk.bytes.len();
    disk.bytes.resize(at + 512 + content.len().next_multiple_of(512), 0);
    disk.len = disk.bytes.len() as u64;
    disk.put(at, name.as_bytes());
    disk.put(at + 100, b"0000644\x000000000\x000000000\0");
    disk.put(at + 124, format!("{:011o}\0", content.len()).as_bytes());
    disk.put(at + 136, b"00000000000\0");
    disk.put(at + 156, b"0");
    disk.put(at + 257, b"ustar\x0000");
    disk.put(at + 512, content);
    sum(disk, at);
}

/// Repairs a header's checksum.
fn sum(disk: &mut Disk, at: usize) {
    disk.put(at + 148, b"        ");
    let sum: u32 = disk.get(at, 512).iter().map(|byte| u32::from(*byte)).sum();
    disk.put(at + 148, format!("{sum:06o}\0 ").as_bytes());
}

fn package(ovf: &str) -> Disk {
    let mut disk = Disk::default();
    member(&mut disk, "machine.ovf", ovf.as_bytes());
    member(&mut disk, "disk.img", &tiny());
    disk.bytes.resize(disk.bytes.len() + 1024, 0);
    disk.len = disk.bytes.len() as u64;
    disk
}

#[test]
fn damaged_ova() {
    let mut suite = Suite::new("ova", package(OVF), DISK);
    suite.extension = "ova";
    for (which, at) in [("description", 0), ("disk", 512 + OVF.len().next_multiple_of(512))] {
        for size in [
            "00000000000",
            "77777777777",
            "00000000001",
            "17777777777",
            "-0000000001",
            "           ",
            "99999999999",
            "abcdefghijk",
        ] {
            suite.add(format!("{which}: size {size}"), move |disk| {
                disk.put(at + 124, size.as_bytes());
                sum(disk, at);
            });
        }
        for value in boundaries(8, 0) {
            suite.add(format!("{which}: binary size {value:#x}"), move |disk| {
                disk.put(at + 124, &[0x80, 0, 0, 0]);
                disk.be(at + 128, 8, value);
                sum(disk, at);
            });
        }
        for kind in *b"\x001234567gxLKSVDMNZ" {
            suite.add(format!("{which}: type {kind:#x}"), move |disk| {
                disk.put(at + 156, &[kind]);
                sum(disk, at);
            });
        }
        for name in ["../../etc/passwd", "/etc/passwd", "", "machine.ovf", "disk.ova", "disk.vmdk.gz"] {
            suite.add(format!("{which}: called {name:?}"), move |disk| {
                disk.put(at, &[0; 100]);
                disk.put(at, name.as_bytes());
                sum(disk, at);
            });
        }
        suite.add(format!("{which}: a wrong checksum"), move |disk| disk.put(at + 148, b"777777"));
    }
    let texts = [
        ("nothing", String::new()),
        ("no XML", "<".repeat(100_000)),
        ("deep XML", "<a>".repeat(200_000)),
        ("a disk without a file", OVF.replace("file1\"/></D", "file2\"/></D")),
        ("a file of the host", OVF.replace("disk.img", "/etc/passwd")),
        ("a file above", OVF.replace("disk.img", "../disk.img")),
        ("the description as disk", OVF.replace("disk.img", "machine.ovf")),
        ("another package as disk", OVF.replace("disk.img", "http://localhost/disk.img")),
        (
            "entities that explode",
            format!(
                "<!DOCTYPE a [{}]>{OVF}",
                (1..40).map(|n| format!("<!ENTITY e{n} \"&e{};&e{};\">", n - 1, n - 1)).collect::<String>()
            ),
        ),
        (
            "an entity of the host",
            format!("<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>{}", OVF.replace("disk.img", "&x;")),
        ),
        ("100,000 disks", OVF.replace("<Info/>", &"<Disk ovf:diskId=\"d\" ovf:fileRef=\"file1\"/>".repeat(100_000))),
        ("2 MiB", format!("{OVF}{}", " ".repeat(2 << 20))),
        ("an attribute without an end", format!("<a b=\"{}", "x".repeat(500_000))),
    ];
    for (name, text) in texts {
        let disk = package(&text);
        suite.add(format!("description: {name}"), move |base| *base = disk.clone());
    }
    let mut many = Disk::default();
    (0..6_000).for_each(|number| member(&mut many, &format!("{number}.img"), b""));
    suite.add("6,000 members", move |base| *base = many.clone());
    for len in [0, 257, 262, 511, 512, 1000, 2000, 20_000] {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
    suite.refused = 40;
    suite.run();
}
