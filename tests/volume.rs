//! Partition tables and volume groups, held against sfdisk, sgdisk and lvm2.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use guestctl::block::{BlockDevice, HostFile, read_vec};
use guestctl::volume::{PartitionKind, PartitionTable, PartitionType, TableKind, lvm, scan};
use serde_json::Value;
use support::{have, root, shell};

fn disk(path: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(HostFile::open(path).unwrap())
}

fn table(path: &Path) -> PartitionTable {
    scan(&disk(path)).unwrap().unwrap()
}

/// Compares every fact that `sfdisk -J` tells.
fn agrees_with_sfdisk(path: &Path) -> PartitionTable {
    let found = table(path);
    let directory = path.parent().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let json = shell(directory, &format!("sfdisk -J {name}")).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    let expected = &json["partitiontable"];
    let label = expected["label"].as_str().unwrap();
    assert_eq!(found.kind.name(), if label == "dos" { "msdos" } else { label });
    assert_eq!(found.sector_size, 512);
    assert_eq!(found.id, expected["id"].as_str().unwrap().to_lowercase().trim_start_matches("0x"));
    let partitions = expected["partitions"].as_array().unwrap();
    assert_eq!(found.partitions.len(), partitions.len());
    for (partition, expected) in found.partitions.iter().zip(partitions) {
        let node = expected["node"].as_str().unwrap();
        assert_eq!(node, format!("{name}{}", partition.number));
        let sectors = |key: &str| expected[key].as_u64().unwrap() * 512;
        assert_eq!((partition.start, partition.size), (sectors("start"), sectors("size")), "{node}");
        match &partition.type_id {
            PartitionType::Mbr(byte) => assert_eq!(format!("{byte:x}"), expected["type"].as_str().unwrap(), "{node}"),
            PartitionType::Gpt(uuid) => {
                assert_eq!(uuid.to_uppercase(), expected["type"].as_str().unwrap(), "{node}");
                assert_eq!(partition.uuid.as_deref().unwrap().to_uppercase(), expected["uuid"].as_str().unwrap());
                assert_eq!(partition.name.as_deref(), expected["name"].as_str(), "{node}");
            }
        }
        let legacy = expected["attrs"].as_str().is_some_and(|attrs| attrs.contains("LegacyBIOSBootable"));
        assert_eq!(partition.bootable, expected["bootable"].as_bool().unwrap_or(legacy), "{node}");
    }
    found
}

#[test]
fn mbr_with_logical_partitions() {
    if !have("sfdisk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "truncate -s 200M disk.img; sfdisk -q disk.img <<'E'
label: dos
label-id: 0xdeb1a12b
start=2048, size=20480, type=83, bootable
start=22528, size=102400, type=c
start=124928, size=200000, type=f
start=126976, size=10240, type=83
start=143360, size=4096, type=82
start=151552, size=50000, type=8e
start=204800, size=2048, type=7
E";
    shell(dir.path(), script);
    let path = dir.path().join("disk.img");
    let table = agrees_with_sfdisk(&path);
    let numbers: Vec<_> = table.partitions.iter().map(|partition| partition.number).collect();
    assert_eq!(numbers, [1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(table.partitions[2].kind, PartitionKind::Extended);
    assert_eq!(table.partitions[6].uuid.as_deref(), Some("deb1a12b-08"));
    assert_eq!(table.notes, [] as [String; 0]);

    shell(dir.path(), "sfdisk -q --delete disk.img 5");
    agrees_with_sfdisk(&path);
}

#[test]
fn gpt_with_names_and_attributes() {
    if !have("sgdisk") || !have("sfdisk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "truncate -s 100M disk.img
        sgdisk -n 1:2048:+1M -t 1:EF02 -n 2:0:+10M -t 2:8300 -c 2:'Wurzel äöü' -A 2:set:2 -n 7:0:0 -t 7:8E00 disk.img";
    shell(dir.path(), script);
    let path = dir.path().join("disk.img");
    let table = agrees_with_sfdisk(&path);
    assert_eq!(table.kind, TableKind::Gpt);
    assert_eq!(table.partitions[1].attributes, 4);
    let device = table.partitions[1].device(&disk(&path)).unwrap();
    assert_eq!(device.size(), 10 << 20);

    // A hybrid MBR is for other systems.
    shell(dir.path(), "sgdisk -h 2:7 disk.img");
    assert_eq!(agrees_with_sfdisk(&path), table);

    shell(dir.path(), "sgdisk -j 512 disk.img");
    assert_eq!(agrees_with_sfdisk(&path).partitions, table.partitions);
}

#[test]
fn gpt_of_a_disk_with_4096_byte_sectors() {
    if !have("fdisk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "truncate -s 100M disk.img; printf 'g\nn\n1\n\n+10M\nn\n2\n\n\nw\n' | fdisk -w always -b 4096 disk.img",
    );
    let path = dir.path().join("disk.img");
    let listing = shell(dir.path(), "fdisk -b 4096 -l -o Start,Sectors,UUID disk.img | sed '1,/^ *Start/d'").stdout;
    let listing = String::from_utf8(listing).unwrap();
    let found = table(&path);
    let lines = found.partitions.iter().map(|partition| {
        let uuid = partition.uuid.as_deref().unwrap().to_uppercase();
        format!("{} {} {uuid}", partition.start / 4096, partition.size / 4096)
    });
    let expected: Vec<_> = listing.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    assert_eq!((found.sector_size, expected.len()), (4096, 2));

    shell(dir.path(), "dd if=/dev/zero of=disk.img bs=4096 seek=1 count=1 conv=notrunc status=none");
    let repaired = table(&path);
    assert_eq!((&repaired.partitions, repaired.notes.len()), (&found.partitions, 1));
}

#[test]
fn a_damaged_primary_gpt_gives_way_to_the_backup() {
    if !have("sgdisk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), "truncate -s 50M good.img; sgdisk -n 1:2048:+10M -n 2:0:0 good.img");
    let good = table(&dir.path().join("good.img"));
    let damages = [
        ("header gone", "dd if=/dev/zero of=bad.img bs=512 seek=1 count=1 conv=notrunc status=none", "Signature"),
        ("header bit", "printf X | dd of=bad.img bs=1 seek=580 conv=notrunc status=none", "HeaderCRC32"),
        ("table byte", "printf X | dd of=bad.img bs=1 seek=1100 conv=notrunc status=none", "PartitionEntryArrayCRC32"),
        (
            "table byte, disk grown since",
            "printf X | dd of=bad.img bs=1 seek=1100 conv=notrunc status=none; truncate -s 60M bad.img",
            "PartitionEntryArrayCRC32",
        ),
    ];
    for (what, script, field) in damages {
        shell(dir.path(), &format!("cp good.img bad.img; {script}"));
        let found = table(&dir.path().join("bad.img"));
        assert_eq!(found.partitions, good.partitions, "{what}");
        assert_eq!(found.id, good.id);
        let [note] = &found.notes[..] else { panic!("{what}: {:?}", found.notes) };
        assert!(note.contains(field), "{what}: {note}");

        let backup = "dd if=/dev/zero of=bad.img bs=512 seek=102399 count=1 conv=notrunc status=none";
        shell(dir.path(), backup);
        let error = scan(&disk(&dir.path().join("bad.img"))).unwrap_err();
        assert_eq!(error.as_corrupt().unwrap().field, field, "{what}");
    }
}

#[test]
fn a_truncated_disk_keeps_the_partitions_that_are_whole() {
    if !have("sgdisk") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), "truncate -s 50M disk.img; sgdisk -n 1:2048:+10M -n 2:0:0 disk.img; truncate -s 30M disk.img");
    let table = table(&dir.path().join("disk.img"));
    assert_eq!(table.partitions.iter().map(|partition| partition.number).collect::<Vec<_>>(), [1]);
    assert_eq!(table.notes.len(), 2, "{:?}", table.notes);
}

#[test]
fn filesystems_without_a_table_have_none() {
    if !have("mkfs.vfat") || !have("mke2fs") || !have("mkfs.ntfs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for mkfs in ["mkfs.vfat", "mkfs.vfat -F 32", "mke2fs -q -F", "mkfs.ntfs -q -F -f"] {
        shell(dir.path(), &format!("rm -f fs.img; truncate -s 64M fs.img; {mkfs} fs.img 2>/dev/null"));
        assert_eq!(scan(&disk(&dir.path().join("fs.img"))).unwrap(), None, "{mkfs}");
    }
}

/// Two physical volumes on loop devices, which are taken away at the end.
struct Loops(Vec<String>);

impl Loops {
    fn new(directory: &Path, files: &[&str]) -> Self {
        let attach = |file: &&str| {
            let output = shell(directory, &format!("losetup -f --show {file}"));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        Self(files.iter().map(attach).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = std::process::Command::new("/sbin/losetup").args(["-d", device]).status();
        }
    }
}

/// Where one sector of a logical volume lies, by what `lvs` prints: (physical volume, byte).
fn expected_places(segments: &Value, extent_size: u64, loops: &[String], pe_start: u64) -> Vec<(usize, u64)> {
    let mut places = Vec::new();
    for segment in segments.as_array().unwrap() {
        let number = |key: &str| segment[key].as_str().unwrap().trim_end_matches('B').parse::<u64>().unwrap();
        let (stripes, stripe_size) = (number("stripes"), number("stripe_size"));
        let ranges: Vec<(usize, u64)> = segment["seg_pe_ranges"]
            .as_str()
            .unwrap()
            .split(' ')
            .map(|range| {
                let (device, extents) = range.split_once(':').unwrap();
                let first: u64 = extents.split('-').next().unwrap().parse().unwrap();
                (loops.iter().position(|name| name == device).unwrap(), pe_start + first * extent_size)
            })
            .collect();
        for sector in 0..number("seg_size") / 512 {
            let at = sector * 512;
            let (stripe, offset) = match stripes {
                1 => (0, at),
                _ => ((at / stripe_size) % stripes, at / stripe_size / stripes * stripe_size + at % stripe_size),
            };
            let (device, start) = ranges[stripe as usize];
            places.push((device, start + offset));
        }
    }
    places
}

#[test]
fn logical_volumes_lie_where_lvm2_says() {
    if !have("pvcreate") || !have("losetup") || !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), "truncate -s 64M pv0; truncate -s 64M pv1");
    let loops = Loops::new(dir.path(), &["pv0", "pv1"]);
    let [a, b] = &loops.0[..] else { panic!() };
    let setup = format!(
        "cfg='devices{{filter=[\"a|^{a}$|\",\"a|^{b}$|\",\"r|.*|\"] use_devicesfile=0}} \
         global{{use_lvmlockd=0 use_lvmpolld=0}} backup{{backup=0 archive=0}} \
         activation{{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0}}'
        lvm() {{ command lvm \"$@\"; }}
        L='--driverloaded n'"
    );
    let create = format!(
        "{setup}
        lvm pvcreate -qq -ff -y $L --config \"$cfg\" {a} {b}
        lvm vgcreate -qq $L --config \"$cfg\" -s 1M my-group {a} {b}
        mk() {{ lvm lvcreate -qq -an -Zn -Wn $L --config \"$cfg\" \"$@\"; }}
        mk -L 8M -n two-parts my-group {a}
        mk -L 4M -n between my-group {a}
        lvm lvextend -qq $L --config \"$cfg\" -L +6M my-group/two-parts {a}
        lvm lvextend -qq $L --config \"$cfg\" -L +5M my-group/two-parts {b}
        mk -L 16M -i 2 -I 64k -n striped my-group
        mk --addtag colour -L 8M -n plain my-group
        mk -L 8M -n broken --type error my-group
        sync"
    );
    shell(dir.path(), &create);
    let report = format!(
        "{setup}
        lvm lvs $L --config \"$cfg\" --units b --segments --reportformat json -a \
            -o lv_name,lv_uuid,vg_uuid,seg_start,seg_size,stripes,stripe_size,seg_pe_ranges,segtype --sort lv_name,seg_start"
    );
    let report: Value = serde_json::from_slice(&shell(dir.path(), &report).stdout).unwrap();
    let rows = report["report"][0]["seg"].as_array().unwrap().clone();
    let loop_names = loops.0.clone();
    drop(loops);

    // Every sector of the data area gets its own place as its content.
    let (pe_start, files) = (1u64 << 20, ["pv0", "pv1"].map(|name| dir.path().join(name)));
    for (index, file) in files.iter().enumerate() {
        let mut bytes = std::fs::read(file).unwrap();
        for (sector, chunk) in bytes.chunks_mut(512).enumerate().skip((pe_start / 512) as usize) {
            chunk[..8].copy_from_slice(&(index as u64).to_le_bytes());
            chunk[8..16].copy_from_slice(&(sector as u64 * 512).to_le_bytes());
        }
        std::fs::write(file, bytes).unwrap();
    }

    let candidates = |files: &[PathBuf]| -> Vec<(String, Arc<dyn BlockDevice>)> {
        files.iter().map(|path| (path.display().to_string(), disk(path))).collect()
    };
    let groups = lvm::scan(&candidates(&files)).unwrap();
    let [group] = &groups[..] else { panic!("{groups:?}") };
    assert_eq!((group.name.as_str(), group.extent_size), ("my-group", 1 << 20));
    assert_eq!(group.uuid, rows[0]["vg_uuid"].as_str().unwrap());
    assert_eq!(group.notes, [] as [String; 0]);
    assert_eq!(group.unsupported, [("broken".to_owned(), "error".to_owned())]);
    let mut names: Vec<_> = group.logical_volumes.iter().map(|volume| volume.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["between", "plain", "striped", "two-parts"]);
    for volume in &group.logical_volumes {
        let mine = rows.iter().filter(|row| row["lv_name"] == volume.name).cloned().collect::<Vec<_>>();
        assert_eq!(volume.uuid, mine[0]["lv_uuid"].as_str().unwrap());
        let expected = expected_places(&Value::Array(mine), group.extent_size, &loop_names, pe_start);
        assert_eq!(volume.device.size(), expected.len() as u64 * 512, "{}", volume.name);
        let bytes = read_vec(&volume.device, 0, volume.device.size() as usize).unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        for (sector, &(device, offset)) in expected.iter().enumerate() {
            let found = (word(sector * 512) as usize, word(sector * 512 + 8));
            assert_eq!(found, (device, offset), "{} sector {sector}", volume.name);
        }
        // The host range of each run must name the same place.
        let size = volume.device.size();
        let mut at = 0;
        while at < size {
            let range = volume.device.host_range(at..size).unwrap();
            assert_eq!(range.offset, expected[(at / 512) as usize].1, "{} at {at}", volume.name);
            at += range.len;
        }
    }
    let plain = group.logical_volumes.iter().find(|volume| volume.name == "plain").unwrap();
    assert_eq!(plain.tags, ["colour"]);
    assert_eq!(plain.mapper_path(), "/dev/mapper/my--group-plain");

    // Without the second volume only what lies wholly on the first is there.
    let groups = lvm::scan(&candidates(&files[..1])).unwrap();
    let mut names: Vec<_> = groups[0].logical_volumes.iter().map(|volume| volume.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.contains(&"between") && !names.contains(&"striped") && !names.contains(&"two-parts"), "{names:?}");
    assert!(groups[0].notes.iter().any(|note| note.contains("is missing")), "{:?}", groups[0].notes);

    // A copy of a physical volume is not used twice; a damaged one still serves the group its peer describes.
    let copy = dir.path().join("copy");
    std::fs::copy(&files[0], &copy).unwrap();
    let groups = lvm::scan(&candidates(&[files[0].clone(), files[1].clone(), copy.clone()])).unwrap();
    assert_eq!((groups[0].logical_volumes.len(), groups[0].notes.len()), (4, 1));
    shell(dir.path(), "printf X | dd of=pv0 bs=1 seek=4200 conv=notrunc status=none");
    let groups = lvm::scan(&candidates(&files)).unwrap();
    assert_eq!((groups[0].logical_volumes.len(), groups[0].notes.len()), (4, 1), "{:?}", groups[0].notes);
    let error = lvm::scan(&candidates(&files[..1])).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "checksum_xl");
}
