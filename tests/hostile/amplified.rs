//! Small files that describe terabytes: tables that lead to one place again and again, tables in holes of a sparse file.
//! Every command that goes through a whole disk must refuse them, or be done with them as fast as with any small file.
//! Sparse images of the same size that `qemu-img` makes must be taken, and fast.

use crate::commands::READ;
use crate::disk::Disk;
use crate::qcow2;
use crate::support::{have, shell};
use crate::{Suite, vdi_vhd_vhdx, vmdk};

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

fn suite(name: &'static str, extension: &'static str, base: Disk) -> Suite {
    let mut suite = Suite::new(name, base, if extension == "qcow2" { READ } else { READ.split_at(6).0 });
    suite.extension = extension;
    suite
}

/// A qcow2 image of version 3 with clusters of `1 << bits` bytes: header, L1 table of `l1` entries in cluster 1 and on,
/// and room behind it. No counts: what reads the disk needs none.
fn header(bits: u32, size: u64, l1: usize, zstd: bool) -> Disk {
    let mut disk = Disk::from(vec![0; (1 << bits) + l1 * 8]);
    disk.put(0, b"QFI\xfb");
    for (at, len, value) in [
        (4, 4, 3),
        (20, 4, u64::from(bits)),
        (24, 8, size),
        (36, 4, l1 as u64),
        (40, 8, 1 << bits),
        (48, 8, 1 << bits),
        (56, 4, 1),
        (72, 8, u64::from(zstd) << 3),
        (96, 4, 4),
        (100, 4, 112),
        (104, 1, zstd.into()),
    ] {
        disk.be(at, len, value);
    }
    disk
}

/// Puts `bytes` at the next cluster of the file and tells where that is.
fn append(disk: &mut Disk, bits: u32, bytes: &[u8]) -> u64 {
    let at = disk.bytes.len().next_multiple_of(1 << bits);
    disk.bytes.resize((at + bytes.len()).next_multiple_of(1 << bits), 0);
    disk.len = disk.bytes.len() as u64;
    disk.put(at, bytes);
    at as u64
}

/// Words as a table.
fn table(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(u64::to_be_bytes).collect()
}

#[test]
fn qcow2() {
    let mut suite = suite("qcow2, amplified", "qcow2", qcow2::clean());
    suite.add("4 Mi L1 entries, one L2 table of nothing", |disk| {
        *disk = header(16, 1 << 50, 4 << 20, false);
        let l2 = append(disk, 16, &[0; 65_536]);
        (0..4 << 20).for_each(|entry| disk.be(65_536 + entry * 8, 8, l2));
    });
    suite.add("2 TiB, one L2 table of one cluster", |disk| {
        *disk = header(16, 2 << 40, 4096, false);
        let data = append(disk, 16, &[0x5a; 65_536]);
        let l2 = append(disk, 16, &table((0..8192).map(|_| data | COPIED)));
        (0..4096).for_each(|entry| disk.be(65_536 + entry * 8, 8, l2 | COPIED));
    });
    for (name, sparse) in [("", 0), (", in a sparse file", 1u64 << 42)] {
        suite.add(format!("512 GiB, L2 tables of one cluster{name}"), move |disk| {
            *disk = header(21, 512 << 30, 1, false);
            let data = append(disk, 21, &[0x5a; 4096]);
            let l2 = append(disk, 21, &table((0..256 << 10).map(|_| data)));
            disk.be(2 << 20, 8, l2);
            disk.len += sparse;
        });
        suite.add(format!("32 GiB, one compressed cluster{name}"), move |disk| {
            *disk = header(16, 32 << 30, 64, false);
            let mut packed = vec![0; 4096];
            let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
            let len = compressor.deflate_compress(&[0x5a; 65_536], &mut packed).unwrap() as u64;
            let data = append(disk, 16, &packed[..len as usize]);
            for entry in 0..64 {
                let l2 = append(disk, 16, &table((0..8192).map(|_| COMPRESSED | ((len - 1) / 512) << 54 | data)));
                disk.be(65_536 + entry * 8, 8, l2);
            }
            disk.len += sparse;
        });
        suite.add(format!("512 GiB, one cluster of zstd{name}"), move |disk| {
            *disk = header(21, 512 << 30, 1, true);
            let packed = zstd::bulk::compress(&vec![0x5a; 2 << 20], 1).unwrap();
            let data = append(disk, 21, &packed);
            let l2 = append(disk, 21, &table((0..256 << 10).map(|_| COMPRESSED | data)));
            disk.be(2 << 20, 8, l2);
            disk.len += sparse;
        });
    }
    suite.add("L2 tables in a hole", |disk| {
        // 32 TiB: 1 MiB of L1 table, 128 Ki of L2 tables that were never stored.
        *disk = header(16, 64 << 40, 128 << 10, false);
        let first = append(disk, 16, &[]);
        (0..128 << 10).for_each(|entry| disk.be(65_536 + entry * 8, 8, first + entry as u64 * 65_536));
        disk.len = first + (128 << 10) * 65_536;
    });
    suite.add("clusters in a hole", |disk| {
        *disk = header(21, 512 << 30, 1, false);
        let l2 = append(disk, 21, &table((0..256u64 << 10).map(|cluster| (cluster * 7919 % (256 << 10) + 8) << 21)));
        disk.be(2 << 20, 8, l2);
        disk.len = 600 << 30;
    });
    suite.refused = 70;
    suite.run();
}

#[test]
fn vdi_vhd_and_vhdx() {
    if !have("qemu-img") {
        return;
    }
    let mut vdi = suite("vdi, amplified", "vdi", vdi_vhd_vhdx::vdi().base);
    // Where the map begins, how many entries it has, and where the data begins.
    let layout = |disk: &mut Disk, map: usize, entries: usize, data: usize| {
        disk.le(340, 4, map as u64);
        disk.le(344, 4, data as u64);
        disk.le(368, 8, (entries as u64) << 20);
        disk.le(384, 4, entries as u64);
    };
    vdi.add("4 PiB, a map in a hole", move |disk| {
        layout(disk, 1 << 20, u32::MAX as usize, 512);
        disk.len = 20 << 30;
    });
    vdi.add("4 PiB, a map in a hole, and so is the first block", move |disk| {
        layout(disk, 1 << 20, u32::MAX as usize, 3 << 30);
        disk.len = 20 << 30;
    });
    for (name, len) in [("", 4u64 << 20), (", in a sparse file", 4 << 40)] {
        vdi.add(format!("1 TiB, one block{name}"), move |disk| {
            *disk = Disk::from([disk.get(0, 512), &[0; 4 << 20], &[0x5a; 1 << 20]].concat());
            layout(disk, 512, 1 << 20, 512 + (4 << 20));
            disk.len += len;
        });
    }
    vdi.refused = 100;
    vdi.run();

    let mut vhd = suite("vhd, amplified", "vhd", vdi_vhd_vhdx::vhd().base);
    // `len` bytes of disk in blocks of `block` bytes, the table at `table`.
    let layout = |disk: &mut Disk, len: u64, block: u64, table: u64| {
        for at in [0, disk.bytes.len() - 512] {
            disk.be(at + 48, 8, len);
            vdi_vhd_vhdx::seal_vhd(disk, at, 512, 64);
        }
        disk.be(512 + 16, 8, table);
        disk.be(512 + 28, 4, (len / block).min(u32::MAX.into()));
        disk.be(512 + 32, 4, block);
        vdi_vhd_vhdx::seal_vhd(disk, 512, 1024, 36);
    };
    vhd.add("2040 GiB in blocks of 512 bytes, a table in a hole", move |disk| {
        layout(disk, 2040 << 30, 512, 1 << 30);
        disk.len = 20 << 30;
    });
    for (name, sparse) in [("", 0), (", in a sparse file", 4u64 << 40)] {
        vhd.add(format!("2040 GiB, one block{name}"), move |disk| {
            let at = disk.bytes.len() as u64;
            layout(disk, 2040 << 30, 2 << 20, at);
            disk.bytes.extend((0..1020 << 10).flat_map(|_| 8u32.to_be_bytes()));
            disk.len = disk.bytes.len() as u64 + sparse;
        });
    }
    vhd.refused = 100;
    vhd.run();

    let mut vhdx = suite("vhdx, amplified", "vhdx", vdi_vhd_vhdx::vhdx().base);
    for (name, sparse) in [("", 0), (", in a sparse file", 1u64 << 40)] {
        vhdx.add(format!("1 TiB, one block{name}"), move |disk| {
            let block = disk.le_at(vdi_vhd_vhdx::bat(disk), 8);
            let at = disk.bytes.len().next_multiple_of(1 << 20);
            disk.bytes.resize(at + (9 << 20), 0);
            vdi_vhd_vhdx::give_vhdx(disk, 1 << 40, at as u64, 9 << 20);
            (0..1 << 20).for_each(|entry| disk.le(at + entry * 8, 8, block));
            disk.len = disk.bytes.len() as u64 + sparse;
        });
    }
    // Every entry says "not present".
    vhdx.add("60 TiB, a table in a hole", |disk| {
        vdi_vhd_vhdx::give_vhdx(disk, 60 << 40, 1 << 30, 512 << 20);
        disk.len = 8 << 30;
    });
    vhdx.refused = 60;
    vhdx.run();
}

#[test]
fn vmdk() {
    if !have("qemu-img") {
        return;
    }
    let mut suite = suite("vmdk, amplified", "vmdk", vmdk::sparse().base);
    // A disk of `tables` grain tables; the directory is appended.
    let enlarge = |disk: &mut Disk, tables: u64, entry: &dyn Fn(u64) -> u64| {
        let at = disk.bytes.len().next_multiple_of(512);
        disk.bytes.resize(at + tables as usize * 4, 0);
        disk.len = disk.bytes.len() as u64;
        disk.le(12, 8, tables * 512 * 128);
        disk.le(56, 8, at as u64 / 512);
        (0..tables).for_each(|table| disk.le(at + table as usize * 4, 4, entry(table)));
        let text = disk.bytes.windows(3).position(|word| word == b"RW ").unwrap();
        let end = text + disk.bytes[text..].iter().position(|byte| *byte == b'\n').unwrap();
        let line = format!("RW {} SPARSE \"disk\"", tables * 512 * 128);
        // The longer number takes the place of what follows the line.
        let rest: Vec<u8> = disk.bytes[end..end + 300].to_vec();
        disk.put(text, line.as_bytes());
        disk.put(text + line.len(), &rest);
    };
    let first = |disk: &Disk| {
        let directory = disk.le_at(56, 8) as usize * 512;
        disk.le_at(directory, 4)
    };
    suite.add("4 Mi directory entries, one table", move |disk| {
        let table = first(disk);
        enlarge(disk, 4 << 20, &|_| table);
    });
    suite.add("4 Mi tables in a hole", move |disk| {
        let base = (1u64 << 30) / 512;
        enlarge(disk, 4 << 20, &|table| base + table * 4);
        disk.len = 12 << 30;
    });
    for (name, sparse) in [("", 0), (", in a sparse file", 1u64 << 40)] {
        suite.add(format!("128 GiB of one grain{name}"), move |disk| {
            let at = disk.bytes.len().next_multiple_of(512);
            let tables = 4096;
            let grain = disk.le_at(first(disk) as usize * 512, 4);
            disk.bytes.resize(at, 0);
            disk.bytes.extend((0..tables * 512).flat_map(|_| (grain as u32).to_le_bytes()));
            enlarge(disk, tables, &|table| at as u64 / 512 + table * 4);
            disk.len += sparse;
        });
    }
    suite.refused = 70;
    suite.run();
}

/// Images that are as large, and honest: 64 TiB with a few clusters at both ends, and one that has all its tables.
#[test]
fn large_sparse_images_are_taken() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    for (format, size, options, extension) in [
        ("qcow2", "64T", "cluster_size=64k", "qcow2"),
        ("qcow2", "64T", "cluster_size=2M", "qcow2"),
        ("qcow2", "32G", "preallocation=metadata", "qcow2"),
        ("vdi", "8T", "static=off", "vdi"),
        ("vdi", "64G", "static=on", "vdi"),
        ("vpc", "1T", "subformat=dynamic", "vhd"),
        ("vhdx", "8T", "subformat=dynamic", "vhdx"),
        ("vmdk", "8T", "subformat=monolithicSparse", "vmdk"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        shell(dir.path(), &format!("qemu-img create -q -f {format} -o {options} disk.{extension} {size}"));
        if !options.contains("preallocation") && !options.contains("static=on") {
            let write = format!("qemu-io -f {format} -c 'write -P 7 1M 3M' -c 'write -P 8 30G 64k' disk.{extension}");
            shell(dir.path(), &format!("{write} >/dev/null"));
        }
        let path = dir.path().join(format!("disk.{extension}"));
        let json = |tool: &str, command: &str| -> serde_json::Value {
            let output = std::process::Command::new(tool).args(command.split(' ')).arg(&path).output().unwrap();
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let map = "map --output=json";
        // QEMU has no map of VHDX: all is data to it.
        let known = format != "vhdx";
        let (ours, theirs) = (json(env!("CARGO_BIN_EXE_guestctl"), map), json("qemu-img", map));
        assert!(!known || ours == theirs, "{format} {options}: {ours} and not {theirs}");
        // What only measures and compares; writing terabytes of holes is the host's affair.
        let commands: &[&str] = &[
            "map --json IMAGE",
            "measure --json -O qcow2 IMAGE",
            "compare IMAGE IMAGE",
            "convert -q -O qcow2 IMAGE OUT",
            "info --json IMAGE",
        ];
        let verdict = crate::run::judge(&path, commands);
        assert_eq!(verdict.failures, [] as [String; 0], "{format} {options}");
        assert!(!verdict.refused, "{format} {options}: {}", verdict.message);
        println!("{format:<6} {size:>4} {options:<36} {:>5} ms {:>6} KiB", verdict.cpu_ms, verdict.memory_kib);
    }
}
