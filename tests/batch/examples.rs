//! The examples run on the demo guest and say what they should.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::{Yard, demo};

/// An example, built by now where all tests are; else it is built here.
fn example(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_guestctl")).with_file_name("examples").join(name);
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--locked", "--all-features", "--example", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(command.status().unwrap().success());
    }
    path
}

fn run(command: &mut Command) -> (String, Output) {
    let output = command.output().unwrap();
    (String::from_utf8(output.stdout.clone()).unwrap(), output)
}

#[test]
fn bulk_export_writes_the_archives_of_tar_out() {
    let yard = Yard::new(["a.qcow2", "b.qcow2"]);
    yard.write("bad.qcow2", b"QFI\xfb nothing");
    let mut command = Command::new(example("bulk_export"));
    let (out, output) = run(command.current_dir(yard.path("")).args(["out", "a.qcow2", "bad.qcow2", "b.qcow2"]));
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<_> = out.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(lines, ["a.qcow2", "b.qcow2"]);
    yard.alone(&["tar-out", "-q", "-c", "zstd", "a.qcow2", "/", "alone"]);
    let alone = std::fs::read(yard.path("alone")).unwrap();
    for name in ["a", "b"] {
        assert!(std::fs::read(yard.path("out").join(format!("{name}.qcow2.tar.zst"))).unwrap() == alone);
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.qcow2"));
}

#[test]
fn benchmark_prints_a_table() {
    let (out, output) = run(Command::new(example("benchmark")).arg(demo()).arg("1"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let works: Vec<_> = out.lines().map(|line| line[..20].trim_end()).collect();
    let expected = [
        "work",
        "launch",
        "inspect and mount",
        "read a file",
        "read the disk",
        "SHA-256 of the disk",
        "tar of the tree",
    ];
    assert_eq!(works, expected);
    let disk = out.lines().find(|line| line.starts_with("read the disk")).unwrap();
    assert!(disk.contains(&(88 << 20).to_string()), "{disk}");
}

#[test]
fn metrics_are_prometheus_text() {
    let yard = Yard::new(["a.qcow2"]);
    let mut command = Command::new(example("metrics"));
    let (out, output) = run(command.current_dir(yard.path("")).args(["a.qcow2", "missing.qcow2", "a.qcow2"]));
    assert!(output.status.success());
    let passwd = yard.alone(&["cat", "a.qcow2", "/etc/passwd"]).len();
    for line in [
        "# TYPE guestctl_operations_total counter".to_owned(),
        "guestctl_operations_total{operation=\"mount\"} 2".to_owned(),
        "guestctl_failures_total{operation=\"add_drive\"} 1".to_owned(),
        format!("guestctl_bytes_total{{operation=\"read_file\"}} {}", 2 * passwd),
    ] {
        assert!(out.lines().any(|found| found == line), "{line} is not in\n{out}");
    }
    // Every line is a comment, or a name with a label and a number.
    for line in out.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("guestctl_") && name.ends_with("\"}"), "{line}");
        value.parse::<f64>().unwrap();
    }
}
