//! Each compression's own program unpacks what we pack, and the packed bytes do not depend on the number of threads.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use guestctl::ops::StreamCompression;

use super::program::{guestctl, program};
use super::support::{have, shell};

const PROGRAMS: [(&str, &[&str]); 5] =
    [("gzip", &["1", "12"]), ("bzip2", &["1", "9"]), ("xz", &["0", "9"]), ("zstd", &["1", "19"]), ("lz4", &["1"])];

/// An image with more in it than the longest piece has bytes; `None` without the tool that makes it.
fn image(at: &Path) -> Option<()> {
    if !have("mke2fs") {
        return None;
    }
    std::fs::create_dir(at.join("tree")).unwrap();
    let text: Vec<u8> =
        (0..150_000u32).flat_map(|n| format!("line {}\n", n.wrapping_mul(2_654_435_761)).into_bytes()).collect();
    std::fs::write(at.join("tree/text"), &text).unwrap();
    std::fs::write(at.join("tree/random"), super::corners::pattern(1_000_000, 5)).unwrap();
    shell(at, "truncate -s 9M tree/zeroes; mke2fs -q -F -t ext4 -d tree fs.raw 64M");
    Some(())
}

fn tar_out(at: &Path, more: &[&str]) -> Vec<u8> {
    let output = program()
        .args(["tar-out", "-q", "-m", "/dev/sda", "--no-sparse"])
        .args(more)
        .args(["fs.raw", "/"])
        .current_dir(at)
        .output()
        .unwrap();
    assert!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn own_programs_unpack_it_and_threads_do_not_show() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    let plain = tar_out(at, &[]);
    assert!(plain.len() > 10 << 20);
    for (name, levels) in PROGRAMS {
        if !have(name) {
            continue;
        }
        let mut sizes = Vec::new();
        for level in std::iter::once(None).chain(levels.iter().copied().map(Some)) {
            let mut options = vec!["--compress", name, "-j", "1"];
            options.extend(level.iter().flat_map(|level| ["--level", *level]));
            let packed = tar_out(at, &options);
            options[3] = "5";
            assert!(tar_out(at, &options) == packed, "{name} {level:?}: threads show");
            let mut child = std::process::Command::new(name)
                .args(["-d", "-c"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let feeder = std::thread::spawn({
                let packed = packed.clone();
                move || stdin.write_all(&packed)
            });
            let output = child.wait_with_output().unwrap();
            feeder.join().unwrap().unwrap();
            assert!(output.status.success() && output.stdout == plain, "{name} {level:?}");
            sizes.push(packed.len());
        }
        assert!(sizes.iter().all(|size| *size < plain.len() / 4 * 3), "{name}: {sizes:?} of {}", plain.len());
        if let [_, fast, best] = sizes[..] {
            assert!(best < fast, "{name}: {sizes:?}");
        }
    }
}

#[test]
fn the_archives_name_decides() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let begins = |name: &str| {
        let path = at.join(name);
        let demo = super::demo();
        guestctl(["tar-out".as_ref(), "-q".as_ref(), demo.as_os_str(), "/etc".as_ref(), path.as_os_str()]).bytes();
        std::fs::read(path).unwrap()[..4].to_vec()
    };
    assert_eq!(begins("a.tar"), b"./\0\0");
    assert_eq!(begins("a.tgz")[..2], [0x1f, 0x8b]);
    assert_eq!(begins("a.tar.bz2")[..3], *b"BZh");
    assert_eq!(begins("a.TAR.XZ")[..4], *b"\xfd7zX");
    assert_eq!(begins("a.tar.zst")[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    assert_eq!(begins("a.tar.lz4")[..4], [0x04, 0x22, 0x4d, 0x18]);
}

#[test]
fn what_there_is_not_is_refused() {
    let demo = super::demo();
    let run =
        |more: &[&str]| guestctl(["tar-out", "-q"].iter().chain(more).copied().chain([demo.to_str().unwrap(), "/etc"]));
    run(&["--compress", "none", "--level", "3"]).fails(2, "guestctl: error: a level needs a compression\n");
    for (kind, level) in [("gzip", "13"), ("gzip", "0"), ("bzip2", "10"), ("xz", "10"), ("zstd", "20"), ("lz4", "2")] {
        let (from_to, _) = kind.parse::<StreamCompression>().unwrap().levels();
        let hint = format!("hint: its levels are {} to {}\n", from_to.start(), from_to.end());
        run(&["-c", kind, "--level", level]).fails(2, &format!("guestctl: error: {kind} has no level {level}\n{hint}"));
    }
    let lzop = run(&["--compress", "lzop"]);
    assert_eq!((lzop.code, lzop.out.len()), (7, 0), "{}", lzop.err);
    assert!(lzop.err.contains("lzop compression"), "{}", lzop.err);
    let zip = run(&["--compress", "zip"]);
    assert_eq!((zip.code, zip.out.len()), (2, 0));
    assert!(zip.err.contains("'zip' is no compression"), "{}", zip.err);
}
