//! Check, repair, snapshot, resize, rebase and commit through the program, judged by QEMU's tools.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program, and it says what it skips")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{have, shell};

fn tools() -> bool {
    have("qemu-img") && have("qemu-io")
}

/// Runs `script` in a new directory; `guestctl` is the program, `same A B` compares a qcow2 disk with raw bytes and checks
/// the image, `io IMAGE COMMAND...` writes.
fn run(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let functions = format!(
        "guestctl() {{ {} \"$@\"; }}
        img() {{ qemu-img \"$@\" >/dev/null; }}
        io() {{ file=$1; shift; for c in \"$@\"; do qemu-io -f qcow2 -c \"$c\" \"$file\" >/dev/null; done; }}
        same() {{ img check -f qcow2 $1; img compare -f qcow2 -F raw $1 $2; }}
        fails() {{ code=$1; shift; r=0; guestctl \"$@\" 2>message || r=$?; [ $r -eq $code ] || {{ echo $r; exit 99; }} >&2; }}
        ",
        env!("CARGO_BIN_EXE_guestctl")
    );
    shell(directory.path(), &format!("{functions}{script}"));
    directory
}

const KINDS: [&str; 6] = [
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=4k,refcount_bits=4",
    "extended_l2=on",
    "refcount_bits=8",
    "compat=1.1",
];

#[test]
fn snapshots_are_made_applied_and_deleted() {
    if !tools() {
        return;
    }
    for options in KINDS {
        run(&format!(
            "img create -f qcow2 -o {options} d 3M; io d 'write -P 1 0 1M' 'write -P 2 2M 64k'
            img convert -O raw d one; guestctl snapshot -c one d; same d one
            io d 'write -P 3 500k 100k' 'write -z 0 64k'; img convert -O raw d two
            guestctl snapshot -c two d; same d two
            io d 'write -P 4 1500k 600k'
            img convert -l one -O raw d now; cmp now one; img convert -l two -O raw d now; cmp now two
            guestctl snapshot -a one d; same d one
            io d 'write -P 5 1000k 600k'
            guestctl snapshot -a 2 d; same d two
            guestctl snapshot --json d | grep -q '\"name\": \"two\"'
            fails 2 snapshot -a three d
            guestctl snapshot -d one d; same d two; img convert -l two -O raw d now; cmp now two
            guestctl snapshot -d two d; same d two; guestctl snapshot --json d | grep -q '^\\[\\]'"
        ));
    }
    // Compressed clusters share their host clusters, and QEMU's snapshots are as good as ours.
    run("dd if=/dev/zero bs=64k count=40 status=none | tr '\\0' x > raw; img convert -c -O qcow2 raw d
        img snapshot -c one d; io d 'write -P 3 500k 100k'; guestctl snapshot -c two d; io d 'write -P 3 900k 100k'
        guestctl snapshot -a one d; same d raw; guestctl snapshot -d two d; guestctl snapshot -d one d; same d raw");
}

#[test]
fn a_snapshot_that_the_counts_have_no_room_for_changes_nothing() {
    if !tools() {
        return;
    }
    run("img create -f qcow2 -o refcount_bits=1 d 3M; io d 'write -P 1 0 1M'; cp d before
        fails 4 snapshot -c one d; cmp d before; grep -q refcount_bits message");
}

#[test]
fn disks_grow_and_shrink() {
    if !tools() {
        return;
    }
    for options in KINDS {
        run(&format!(
            "img create -f qcow2 -o {options} d 3M; io d 'write -P 1 0 1M' 'write -P 2 2900k 60k'; img convert -O raw d r
            guestctl resize d +7M; truncate -s 10M r; same d r
            guestctl resize d 10G; img check d; fails 2 resize d 1001k; guestctl resize --shrink d 1001k
            truncate -s 1001k r; same d r; guestctl resize d 2M; truncate -s 2M r; same d r
            guestctl resize --shrink d -- -1M; truncate -s 1M r; same d r"
        ));
    }
    run("img create -f qcow2 d 3M; io d 'write -P 1 0 1M'; img snapshot -c one d; img convert -O raw d one
        guestctl resize d 600M; io d 'write -P 7 550M 1M'; img check d; guestctl resize --shrink d 512k; img check d
        guestctl snapshot -a one d; same d one");
    // What lies below an overlay's end does not come into sight.
    run("dd if=/dev/zero bs=64k count=40 status=none | tr '\\0' x > raw
        for v in compat=0.10 compat=1.1; do
            img create -f qcow2 -o $v -b raw -F raw d 1M; img convert -O raw d r; fails 5 resize d 5M
            guestctl resize --allow-same-dir d 5M; truncate -s 5M r; same d r
        done");
    run("printf hello > r; guestctl resize -f raw r 4k; [ $(stat -c %s r) = 4096 ]; fails 2 resize -f raw r 5
        guestctl resize -f raw --shrink r 5; [ $(cat r) = hello ]
        guestctl resize -f raw --preallocation falloc r 1M; [ $(stat -c %b r) -ge 2048 ]
        guestctl resize -f raw --preallocation full r 2M; [ $(stat -c %b r) -ge 4096 ]");
    run("img create -f qcow2 -o data_file=data d 1M; fails 5 resize d 2M; guestctl resize --allow-same-dir d 2M
        [ $(stat -c %s data) = 2097152 ]; img check d");
}

#[test]
fn overlays_are_committed() {
    if !tools() {
        return;
    }
    for (make, format) in
        [("img create -f qcow2 base 3M; io base 'write -P 1 0 1M'", "qcow2"), ("truncate -s 3M base", "raw")]
    {
        run(&format!(
            "{make}; img create -f qcow2 -b base -F {format} top 4M
            io top 'write -P 3 0 100k' 'write -z 64k 64k' 'write -P 9 3500k 100k'; img convert -O raw top expected
            fails 5 commit top; cp top kept
            guestctl commit -d --allow-same-dir top; cmp top kept
            guestctl commit --allow-backing . top; img compare -f {format} -F raw base expected; same top expected
            [ $(qemu-img map --output=json top | grep -c '\"depth\": 0') = 0 ]"
        ));
    }
    run("img create -f qcow2 d 1M; fails 2 commit d");
}

#[test]
fn overlays_are_put_onto_other_backing_files() {
    if !tools() {
        return;
    }
    for options in ["compat=0.10", "compat=1.1", "cluster_size=512"] {
        run(&format!(
            "dd if=/dev/zero bs=64k count=40 status=none | tr '\\0' x > base
            img create -f qcow2 -o {options} -b base -F raw d 5M; io d 'write -P 3 1M 100k'; img convert -O raw d r
            img create -f qcow2 other 2M; io other 'write -P 77 0 3k' 'write -P 120 4k 1M'
            fails 5 rebase -b other -F qcow2 d
            guestctl rebase --allow-same-dir -b other -F qcow2 d; same d r; qemu-img info d | grep -q 'backing file: other'
            guestctl rebase --allow-same-dir -b '' d; same d r; ! qemu-img info d | grep -q backing
            guestctl rebase -u -b other -F qcow2 d; qemu-img info d | grep -q 'backing file: other'; img check d"
        ));
    }
}

#[test]
fn writers_keep_one_another_out() {
    if !tools() {
        return;
    }
    // A fifo holds qemu-io's commands back, so that it has the image open.
    run("img create -f qcow2 d 1M; mkfifo commands; qemu-io d < commands >/dev/null & exec 3>commands
        n=0; until ! qemu-img info d >/dev/null 2>&1 || [ $n = 100 ]; do sleep 0.05; n=$((n + 1)); done
        fails 5 snapshot -c one d; grep -q 'in use by another process' message; fails 5 check -r all d
        guestctl check d 2>message; grep -q 'another process is writing' message
        echo quit >&3; exec 3>&-; wait; guestctl snapshot -c one d");
    let directory = run("img create -f qcow2 d 1M");
    let path = directory.path().join("d");
    let held = guestctl::block::open_writable(&path, &guestctl::block::OpenOptions::default()).unwrap();
    let refused = Command::new("qemu-img").args(["snapshot", "-c", "one"]).arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Failed to get"), "{refused:?}");
    let refused = Command::new("qemu-img").arg("info").arg(&path).output().unwrap();
    assert!(!refused.status.success());
    drop(held);
    shell(directory.path(), "qemu-img info d");
}

/// Exit code and JSON of a check by our program and by QEMU's.
fn checks(directory: &Path) -> [(i32, Value); 2] {
    [env!("CARGO_BIN_EXE_guestctl"), "qemu-img"].map(|program| {
        let output =
            Command::new(program).args(["check", "--output=json", "d"]).current_dir(directory).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{program}: {text} {output:?}"));
        (output.status.code().unwrap(), json)
    })
}

#[test]
fn checks_say_what_qemu_says_and_repairs_satisfy_it() {
    if !tools() {
        return;
    }
    let directory = run("img create -f qcow2 d 64M; io d 'write 0 8M'; img snapshot -c s d; io d 'write 5M 2M'
        img bitmap --add d b; cp d kept");
    let path = directory.path().join("d");
    let [ours, theirs] = checks(directory.path());
    assert_eq!(ours, theirs);
    let word = |at: u64| {
        let mut word = [0; 8];
        std::fs::File::open(&path).unwrap().read_exact_at(&mut word, at).unwrap();
        u64::from_be_bytes(word)
    };
    let l2 = word(word(40)) & 0x00ff_ffff_ffff_fe00;
    let block = word(word(48));
    let mut seed = 1u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for round in 0..60 {
        shell(directory.path(), "cp kept d");
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for _ in 0..=random(3) {
            if random(2) == 0 {
                let entries = [0, 0x5_0000 | 1 << 63, 0x6_0000, 1, 1 << 62 | 0x5_0000, 0x7_0200, 1 << 63 | 0x4000_0000];
                let entry: u64 = entries[random(7) as usize];
                file.write_all_at(&entry.to_be_bytes(), l2 + 8 * random(128)).unwrap();
            } else {
                file.write_all_at(&[0, random(4) as u8], block + 2 * random(180)).unwrap();
            }
        }
        let [ours, theirs] = checks(directory.path());
        assert_eq!(ours, theirs, "round {round}");
        for what in ["leaks", "all"] {
            let output = Command::new(env!("CARGO_BIN_EXE_guestctl")).args(["check", "-r", what]).arg(&path).output();
            let code = output.unwrap().status.code().unwrap();
            let [ours, theirs] = checks(directory.path());
            assert_eq!(ours, theirs, "round {round}, repaired {what}");
            assert_eq!(code, theirs.0, "round {round}, repaired {what}");
        }
        // All that is left is what no repair can know.
        let left = checks(directory.path())[1].1["corruptions"].as_u64().unwrap_or(0);
        assert!(left <= 3, "round {round}: {left}");
    }
    let raw = run("truncate -s 1M d; fails 63 check -f raw d");
    drop(raw);
}

#[test]
fn images_that_were_not_closed_are_repaired_before_they_are_written() {
    if !tools() {
        return;
    }
    // The dirty bit, and counts that say nothing is in use.
    let directory =
        run("img create -f qcow2 -o lazy_refcounts=on d 3M; io d 'write -P 1 0 1M'; img convert -O raw d one");
    let path = directory.path().join("d");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 48).unwrap();
    let table = u64::from_be_bytes(word);
    file.read_exact_at(&mut word, table).unwrap();
    file.write_all_at(&[0; 20], u64::from_be_bytes(word) + 12).unwrap();
    file.write_all_at(&[1], 79).unwrap();
    let options = guestctl::block::OpenOptions::default();
    let disk = guestctl::block::open_writable(&path, &options).unwrap();
    disk.write_all_at(&[1; 4096], 1000).unwrap();
    disk.flush().unwrap();
    drop(disk);
    shell(directory.path(), "qemu-img check d && qemu-img compare -f qcow2 -F raw d one");
    // The corrupt bit refuses, and the file stays as it is.
    file.write_all_at(&[2], 79).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = guestctl::block::open_writable(&path, &options).unwrap_err();
    assert_eq!((error.exit_code(), error.as_corrupt().unwrap().field), (8, "incompatible_features"));
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
