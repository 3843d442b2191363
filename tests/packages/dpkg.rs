//! dpkg's status against dpkg-query, and what dpkg would merge.

use std::path::Path;
use std::process::Command;

use guestctl::inspect::Package;

use super::support::have;
use super::{TreeFs, assert_same, complete, list, some};

const STATUS: &str = "/var/lib/dpkg/status";

/// The fields that dpkg-query shows, ended by a character that none of them holds.
const FORMAT: &str = concat!(
    "${Package}\u{1f}${Version}\u{1f}${Architecture}\u{1f}${Maintainer}\u{1f}${Homepage}\u{1f}${source:Package}\u{1f}",
    "${Installed-Size}\u{1f}${Description}\u{1f}${db:Status-Status}\u{1e}"
);

/// What dpkg-query says of the installed packages in `admindir`.
fn dpkg_query(admindir: &Path) -> Vec<Package> {
    let mut command = Command::new("dpkg-query");
    command.arg("--admindir").arg(admindir).args(["-W", "-f", FORMAT]).env("LC_ALL", "C.UTF-8");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut packages: Vec<Package> = text.split_terminator('\u{1e}').filter_map(from_query).collect();
    packages.sort();
    packages
}

fn from_query(record: &str) -> Option<Package> {
    let fields: Vec<&str> = record.split('\u{1f}').collect();
    let [name, version, arch, maintainer, homepage, source, size, description, "installed"] = fields[..] else {
        return None;
    };
    let (epoch, version) = version.split_once(':').unwrap_or(("0", version));
    let (version, release) = version.rsplit_once('-').unwrap_or((version, ""));
    let (summary, description) = description.split_once('\n').unwrap_or((description, ""));
    let lines = description.lines().map(|line| if line == " ." { "" } else { &line[1..] });
    Some(Package {
        name: name.to_owned(),
        epoch: epoch.parse().unwrap(),
        version: version.to_owned(),
        release: release.to_owned(),
        arch: arch.to_owned(),
        publisher: some(maintainer),
        url: some(homepage),
        // dpkg-query gives the package's own name when there is no field.
        source_package: some(source).filter(|source| source != name),
        summary: some(summary),
        description: some(&lines.collect::<Vec<_>>().join("\n")),
        installed_size: size.parse().ok().map(|kib: u64| kib * 1_024),
        ..Package::default()
    })
}

#[test]
fn the_hosts_status_reads_as_dpkg_query_says() {
    if !have("dpkg-query") {
        return;
    }
    let Ok(status) = std::fs::read(STATUS) else {
        super::support::skipped(format_args!("needs {STATUS}"));
        return;
    };
    // A copy, so that a package manager at work does not come between the two readings.
    let admindir = tempfile::tempdir().unwrap();
    std::fs::write(admindir.path().join("status"), &status).unwrap();
    std::fs::create_dir(admindir.path().join("info")).unwrap();
    let mut ours = complete(list(TreeFs::new().file(STATUS, status)));
    let theirs = dpkg_query(admindir.path());
    assert!(!theirs.is_empty());
    for package in &mut ours {
        // A field that says no more than the package's name is shown like none at all.
        package.source_package.take_if(|source| *source == package.name);
    }
    assert_same(&ours, &theirs, STATUS);
}

#[test]
fn corner_cases_read_as_dpkg_query_says() {
    if !have("dpkg-query") {
        return;
    }
    let status = concat!(
        "Package: plain\nStatus: install ok installed\nMaintainer: A <a@example.org>\nArchitecture: all\nVersion: 1\n",
        "Description: one line\n\n",
        "Package: libboth\nStatus: install ok installed\nMaintainer: A <a@example.org>\nArchitecture: amd64\n",
        "Multi-Arch: same\nSource: both (4)\nVersion: 1:2.0-a-b-3~x\nDescription: ü\n first\n .\n  indented\n .\n last\n\n",
        "Package: libboth\nStatus: hold ok installed\nMaintainer: A <a@example.org>\nArchitecture: i386\n",
        "Multi-Arch: same\nVersion: 1:2.0-a-b-3~x\nDescription: ü\n\n",
        "Package: gone\nStatus: deinstall ok config-files\nMaintainer: A <a@example.org>\nArchitecture: amd64\n",
        "Version: 1\nConffiles:\n /etc/gone 0123456789abcdef0123456789abcdef\nDescription: gone\n\n",
        "Package: half\nStatus: install reinstreq half-installed\nMaintainer: A <a@example.org>\nArchitecture: amd64\n",
        "Version: 1\nDescription: half\n\n",
    );
    let admindir = tempfile::tempdir().unwrap();
    std::fs::write(admindir.path().join("status"), status).unwrap();
    std::fs::write(admindir.path().join("arch"), "amd64\ni386\n").unwrap();
    std::fs::create_dir(admindir.path().join("info")).unwrap();
    let ours = complete(list(TreeFs::new().file(STATUS, status)));
    assert_eq!(ours, dpkg_query(admindir.path()));
    assert_eq!(ours.len(), 3);
}

#[test]
fn unmerged_updates_count_as_dpkg_query_says() {
    let stanza = |name: &str, state: &str, version: &str| {
        let rest = "Maintainer: A <a@example.org>\nArchitecture: amd64\nDescription: x\n";
        format!("Package: {name}\nStatus: {state}\nVersion: {version}\n{rest}")
    };
    let status = ["a", "b", "c"].map(|name| stanza(name, "install ok installed", "1")).join("\n");
    let updates = [
        ("0000", stanza("a", "install ok unpacked", "2")),
        ("0001", stanza("a", "install ok installed", "2")),
        ("0002", stanza("b", "install reinstreq half-installed", "1")),
        ("0003", stanza("d", "install ok installed", "7")),
        ("tmp.i", stanza("c", "install ok installed", "9")),
    ];
    let mut tree = TreeFs::new().file(STATUS, &*status);
    for (name, update) in &updates {
        tree = tree.file(&format!("/var/lib/dpkg/updates/{name}"), &**update);
    }
    let packages = complete(list(tree));
    let found: Vec<_> = packages.iter().map(|package| (&*package.name, &*package.version)).collect();
    assert_eq!(found, [("a", "2"), ("c", "1"), ("d", "7")]);
    if have("dpkg-query") {
        let admindir = tempfile::tempdir().unwrap();
        for directory in ["info", "updates"] {
            std::fs::create_dir(admindir.path().join(directory)).unwrap();
        }
        std::fs::write(admindir.path().join("status"), status).unwrap();
        for (name, update) in &updates {
            std::fs::write(admindir.path().join("updates").join(name), update).unwrap();
        }
        assert_same(&packages, &dpkg_query(admindir.path()), "updates");
    }
}
