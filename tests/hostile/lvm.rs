//! LVM2: one physical volume with one logical volume, built by hand.

use crate::disk::{Disk, boundaries};
use crate::fat::tiny;
use crate::{DISK, Suite};

const LABEL: usize = 512;
const PV: usize = LABEL + 32;
const AREA: usize = 4096;
const TEXT: usize = AREA + 512;
const PV_UUID: &str = "AAAAAABBBBCCCCDDDDEEEEFFFFGGGGGG";

const GROUP: &str = r#"vg {
id = "000000-1111-2222-3333-4444-5555-666666"
seqno = 1
format = "lvm2"
status = ["RESIZEABLE", "READ", "WRITE"]
flags = []
extent_size = 128
max_lv = 0
max_pv = 0
physical_volumes {
pv0 {
id = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"
status = ["ALLOCATABLE"]
flags = []
dev_size = 4096
pe_start = 2048
pe_count = 16
}
}
logical_volumes {
data {
id = "777777-8888-9999-aaaa-bbbb-cccc-dddddd"
status = ["READ", "WRITE", "VISIBLE"]
flags = []
segment_count = 1
segment1 {
start_extent = 0
extent_count = 1
type = "striped"
stripe_count = 1
stripes = ["pv0", 0]
}
}
}
}
contents = "Text Format Volume Group"
version = 1
"#;

/// LVM's checksum: begun with a value of its own and not complemented.
fn crc(bytes: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    u64::from(!hasher.finalize())
}

fn base() -> Disk {
    let mut disk = Disk::from(vec![0; 2 << 20]);
    disk.put(LABEL, b"LABELONE");
    disk.le(LABEL + 8, 8, 1);
    disk.le(LABEL + 20, 4, 32);
    disk.put(LABEL + 24, b"LVM2 001");
    disk.put(PV, PV_UUID.as_bytes());
    disk.le(PV + 32, 8, 2 << 20);
    disk.le(PV + 40, 8, 1 << 20);
    disk.le(PV + 72, 8, AREA as u64);
    disk.le(PV + 80, 8, (1 << 20) - AREA as u64);
    disk.put(AREA + 4, b"\x20LVM2\x20x[5A%r0N*>");
    disk.le(AREA + 20, 4, 1);
    disk.le(AREA + 24, 8, AREA as u64);
    disk.le(AREA + 32, 8, (1 << 20) - AREA as u64);
    disk.le(AREA + 40, 8, 512);
    disk.put(1 << 20, &tiny());
    text(&mut disk, GROUP);
    disk
}

/// Puts the metadata text, with all checksums.
fn text(disk: &mut Disk, text: &str) {
    disk.put(TEXT, text.as_bytes());
    disk.le(AREA + 48, 8, text.len() as u64);
    disk.le(AREA + 56, 4, crc(text.as_bytes()));
    seal(disk);
}

fn seal(disk: &mut Disk) {
    let header = crc(disk.get(AREA + 4, 508));
    disk.le(AREA, 4, header);
    let label = crc(disk.get(LABEL + 20, 492));
    disk.le(LABEL + 16, 4, label);
}

#[test]
fn damaged_lvm() {
    let mut suite = Suite::new("lvm", base(), DISK);
    for (field, at, size) in [
        ("sector_xl", LABEL + 8, 8),
        ("offset_xl", LABEL + 20, 4),
        ("type", LABEL + 24, 8),
        ("pv_uuid", PV, 8),
        ("device_size_xl", PV + 32, 8),
        ("data area offset", PV + 40, 8),
        ("data area size", PV + 48, 8),
        ("metadata area offset", PV + 72, 8),
        ("metadata area size", PV + 80, 8),
        ("another metadata area", PV + 88, 8),
        ("mda magic", AREA + 4, 8),
        ("mda version", AREA + 20, 4),
        ("mda start", AREA + 24, 8),
        ("mda size", AREA + 32, 8),
        ("raw_locn offset", AREA + 40, 8),
        ("raw_locn size", AREA + 48, 8),
        ("raw_locn checksum", AREA + 56, 4),
        ("raw_locn flags", AREA + 60, 4),
    ] {
        for value in boundaries(size, suite.base.le_at(at, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                disk.le(at, size, value);
                seal(disk);
            });
        }
    }
    suite.add("an area list to the end of the sector", |disk| {
        (PV + 40..LABEL + 512 - 16).step_by(16).for_each(|at| disk.le(at, 8, AREA as u64));
        seal(disk);
    });
    numbers(&mut suite);
    structure(&mut suite);
    suite.refused = 30;
    suite.run();
}

/// Every number of the text at its edges.
fn numbers(suite: &mut Suite) {
    for line in GROUP.lines().filter(|line| line.ends_with(|last: char| last.is_ascii_digit())) {
        let (key, _) = line.split_once(" = ").unwrap();
        for value in [
            "0",
            "1",
            "-1",
            "2147483648",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "99999999999999999999",
            "x",
            "\"1\"",
            "[]",
            "1.5",
        ] {
            let changed = GROUP.replace(line, &format!("{key} = {value}"));
            suite.add(format!("{key} = {value}"), move |disk| text(disk, &changed));
        }
        let missing = GROUP.replace(line, "");
        suite.add(format!("no {key}"), move |disk| text(disk, &missing));
    }
}

fn structure(suite: &mut Suite) {
    let mut replace = |name: &str, old: &str, new: &str| {
        let changed = GROUP.replace(old, new);
        assert_ne!(changed, GROUP, "{name}");
        suite.add(name, move |disk| text(disk, &changed));
    };
    replace("extents past the volume", r#"["pv0", 0]"#, r#"["pv0", 16]"#);
    replace("extents past all numbers", r#"["pv0", 0]"#, r#"["pv0", 18446744073709551615]"#);
    replace("a volume on itself", r#"["pv0", 0]"#, r#"["data", 0]"#);
    replace("a missing volume", r#"["pv0", 0]"#, r#"["pv9", 0]"#);
    replace("a stripe without a place", r#"["pv0", 0]"#, r#"["pv0"]"#);
    replace("no stripes", r#"["pv0", 0]"#, "[]");
    replace("a name that climbs", "data {", "../../etc {");
    replace("an unknown kind", "striped", "thin");
    replace("a mirror of itself", "type = \"striped\"", "type = \"mirror\"\nmirrors = [\"data\", 0]");
    replace("braces that do not close", "}\n}\n}\n}", "");
    replace("a string that does not close", "format = \"lvm2\"", "format = \"lvm2");
    replace("a NUL", "format", "for\0mat");
    replace("what is no UTF-8 in a name", "data {", "d\u{fffd}ta {");
    let deep = "a {".repeat(100_000);
    suite.add("sections 100,000 deep", move |disk| text(disk, &deep));
    let lists = format!("a = {}", "[".repeat(200_000));
    suite.add("lists 200,000 deep", move |disk| text(disk, &lists));
    let long = format!("a = \"{}\"", "\\\\".repeat(200_000));
    suite.add("one long string", move |disk| text(disk, &long));
    let keys: String = (0..80_000).map(|key| format!("k{key}=1\n")).collect();
    suite.add("80,000 keys", move |disk| text(disk, &keys));
    let same = "k=1\n".repeat(200_000);
    suite.add("200,000 times the same key", move |disk| text(disk, &same));
    let volume = |name: &str| {
        format!(
            "{name} {{\nid=\"x\"\nstatus=[\"VISIBLE\"]\nsegment_count=1\nsegment1 {{\nstart_extent=0\nextent_count=1\ntype=\"striped\"\nstripe_count=1\nstripes=[\"pv0\",0]\n}}\n}}\n"
        )
    };
    let volumes: String = (0..8_000).map(|number| volume(&format!("v{number}"))).collect();
    let many = GROUP.replace("logical_volumes {", &format!("logical_volumes {{\n{volumes}"));
    suite.add("8,000 logical volumes on the same extent", move |disk| text(disk, &many));
    let segments: String = (2..10_000)
        .map(|number| format!("segment{number} {{\nstart_extent={}\nextent_count=1\ntype=\"striped\"\nstripe_count=1\nstripes=[\"pv0\",0]\n}}\n", number - 1))
        .collect();
    let many = GROUP.replace("segment_count = 1", &format!("segment_count = 9999\n{segments}"));
    suite.add("10,000 segments", move |disk| text(disk, &many));
    let stripes = GROUP
        .replace("stripe_count = 1", "stripe_count = 50000\nstripe_size = 128")
        .replace("extent_count = 1", "extent_count = 50000")
        .replace(r#"["pv0", 0]"#, &format!("[{}\"pv0\", 0]", "\"pv0\", 0, ".repeat(49_999)));
    suite.add("50,000 stripes", move |disk| text(disk, &stripes));
    let volumes: String =
        (0..20_000).map(|number| format!("p{number} {{\nid=\"{number}\"\npe_start=1\npe_count=1\n}}\n")).collect();
    let many = GROUP.replace("physical_volumes {", &format!("physical_volumes {{\n{volumes}"));
    suite.add("20,000 physical volumes", move |disk| text(disk, &many));
}
