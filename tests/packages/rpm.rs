//! RPM's databases against `rpm -qa`. The packages are built with rpmbuild and installed with `rpm --justdb`; the SQLite
//! database is RPM's own, changed with sqlite3; the Berkeley DB ones are made of the same headers with db_load.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use guestctl::block::HostFile;
use guestctl::inspect::{Guest, Package, packages};

use super::support::{have, shell};
use super::{TreeFs, assert_same, complete, list, some};

/// Subpackages in the test's repository; enough for a b-tree of two levels.
const SUBPACKAGES: usize = 40;

/// The tags that are compared, ended by characters that none of them holds.
const FORMAT: &str = concat!(
    "%{NAME}\u{1f}%{EPOCH}\u{1f}%{VERSION}\u{1f}%{RELEASE}\u{1f}%{ARCH}\u{1f}%{VENDOR}\u{1f}%{URL}\u{1f}%{SOURCERPM}\u{1f}",
    "%{SUMMARY}\u{1f}%{DESCRIPTION}\u{1f}%{LONGSIZE}\u{1e}"
);

/// What `rpm -qa` says of the database in `directory`.
fn rpm_qa(directory: &Path, backend: &str) -> Vec<Package> {
    let mut command = Command::new("rpm");
    command.arg("--define").arg(format!("_db_backend {backend}")).arg("--dbpath").arg(directory);
    let output = command.args(["-qa", "--qf", FORMAT]).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut packages: Vec<Package> = text.split_terminator('\u{1e}').map(from_query).collect();
    packages.sort();
    packages
}

fn from_query(record: &str) -> Package {
    let fields: Vec<&str> = record.split('\u{1f}').map(|field| if field == "(none)" { "" } else { field }).collect();
    let [name, epoch, version, release, arch, vendor, url, source, summary, description, size] = fields[..] else {
        panic!("{record}");
    };
    Package {
        name: name.to_owned(),
        epoch: epoch.parse().unwrap_or(0),
        version: version.to_owned(),
        release: release.to_owned(),
        arch: arch.to_owned(),
        publisher: some(vendor),
        url: some(url),
        // All of the test's packages have one source.
        source_package: (source == "test-source-1.0-1.src.rpm").then(|| "test-source".to_owned()),
        summary: some(summary),
        description: some(description),
        installed_size: size.parse().ok(),
        ..Package::default()
    }
}

/// The packages of the database in the host's `directory`.
fn ours(directory: &Path) -> Vec<Package> {
    complete(list(TreeFs::new().host_directory("/var/lib/rpm", directory)))
}

/// The directory of a database that RPM wrote, built once and kept between runs. `None` where tools are missing.
fn repository() -> Option<&'static Path> {
    static REPOSITORY: OnceLock<PathBuf> = OnceLock::new();
    if !["rpm", "rpmbuild", "sqlite3"].into_iter().all(have) {
        return None;
    }
    Some(REPOSITORY.get_or_init(|| {
        let (spec, target) = (spec(), Path::new(env!("CARGO_TARGET_TMPDIR")));
        let mut hasher = DefaultHasher::new();
        spec.hash(&mut hasher);
        let kept = target.join(format!("packages-rpm-{:016x}", hasher.finish()));
        if !kept.is_dir() {
            let directory = tempfile::tempdir_in(target).unwrap();
            std::fs::write(directory.path().join("test.spec"), spec).unwrap();
            shell(
                directory.path(),
                "rpmbuild --quiet -bb --define \"_topdir $PWD/top\" --define \"_dbpath $PWD/none\" test.spec >build.log 2>&1
                 rpm --dbpath \"$PWD/db\" --initdb
                 rpm --dbpath \"$PWD/db\" -i --justdb --nodeps --ignorearch --ignoreos top/RPMS/*/*.rpm",
            );
            // Another run may have been first; its database is as good.
            let _ = std::fs::rename(directory.path().join("db"), &kept);
        }
        kept
    }))
}

/// Packages with what RPM's tags can hold: epochs, long and empty texts, hundreds of files.
fn spec() -> String {
    let mut spec = concat!(
        "%global debug_package %{nil}\n%global _build_id_links none\n%global __os_install_post %{nil}\n",
        "%global __find_provides %{nil}\n%global __find_requires %{nil}\n%global _use_internal_dependency_generator 0\n",
        "Name: test-source\nVersion: 1.0\nRelease: 1\nSummary: Source\nLicense: MIT\nURL: https://example.org/\n",
        "Vendor: Example Ünïon\n%description\nThe source.\n",
        "%install\nmkdir -p %{buildroot}/opt/many\ncd %{buildroot}/opt/many\n",
        "for n in $(seq 800); do echo $n >file-with-a-rather-long-name-$n; done\n",
        "%package -n many\nSummary: Hundreds of files\nBuildArch: noarch\n",
        "%description -n many\nTheir names take many\n\noverflow pages.\n",
        "%files -n many\n/opt/many\n",
    )
    .to_owned();
    for number in 0..SUBPACKAGES {
        let version = format!("{number}.0~rc{number}^git");
        spec +=
            &format!("%package -n sub{number}\nSummary: Number {number}\nVersion: {version}\nRelease: {number}.el9\n");
        if number % 3 == 0 {
            spec += &format!("Epoch: {number}\n");
        }
        if number % 2 == 0 {
            spec += "BuildArch: noarch\n";
        }
        let text = "Words and words. ".repeat(number * 4);
        spec += &format!("%description -n sub{number}\n{text}\n%files -n sub{number}\n");
    }
    spec
}

/// A copy of RPM's database, and the directory that keeps it.
fn database() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    shell(directory.path(), &format!("cp -a {}/. .", repository()?.display()));
    Some(directory)
}

fn sqlite3(directory: &Path, commands: &str) {
    std::fs::write(directory.join("commands"), format!("PRAGMA synchronous=OFF;\n{commands}")).unwrap();
    shell(directory, "sqlite3 -bail rpmdb.sqlite <commands >sqlite3.log; rm commands sqlite3.log");
}

/// The headers in an SQLite database by their numbers.
pub(super) fn headers() -> Option<Vec<(u32, Vec<u8>)>> {
    let output = shell(database()?.path(), "sqlite3 rpmdb.sqlite 'select hnum, hex(blob) from Packages'");
    let hex =
        |text: &str| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
    let text = String::from_utf8(output.stdout).unwrap();
    Some(
        text.lines()
            .map(|line| line.split_once('|').unwrap())
            .map(|(key, blob)| (key.parse().unwrap(), hex(blob)))
            .collect(),
    )
}

/// What RPM says of its own database.
pub(super) fn expected() -> Vec<Package> {
    rpm_qa(database().unwrap().path(), "sqlite")
}

#[test]
fn rpms_own_database_reads_as_rpm_says() {
    let Some(database) = database() else { return };
    let theirs = rpm_qa(database.path(), "sqlite");
    assert_eq!(theirs.len(), SUBPACKAGES + 1);
    assert!(theirs.iter().any(|package| package.epoch == 39));
    assert_same(&ours(database.path()), &theirs, "");
}

#[test]
fn removed_packages_are_gone_before_and_after_a_rebuild() {
    let Some(database) = database() else { return };
    shell(database.path(), "rpm --dbpath \"$PWD\" -e --justdb --nodeps sub7 sub8 many");
    let theirs = rpm_qa(database.path(), "sqlite");
    assert_eq!(theirs.len(), SUBPACKAGES - 2);
    assert_same(&ours(database.path()), &theirs, "");
    shell(database.path(), "rpmdb --dbpath \"$PWD\" --rebuilddb");
    assert_same(&ours(database.path()), &theirs, "");
}

#[test]
fn public_keys_are_listed_as_rpm_lists_them() {
    let Some(database) = database() else { return };
    if !have("gpg") {
        return;
    }
    let gpg = "gpg --quiet --batch --homedir \"$PWD/gnupg\"";
    let script = format!(
        "mkdir -m 700 gnupg; {gpg} --passphrase '' --quick-generate-key 'Test <test@example.org>' rsa2048 sign never 2>/dev/null
         {gpg} --armor --export >key.asc; rpm --dbpath \"$PWD\" --import key.asc; rm -r gnupg key.asc"
    );
    shell(database.path(), &script);
    let ours = ours(database.path());
    assert_same(&ours, &rpm_qa(database.path(), "sqlite"), "");
    assert_eq!(ours.iter().filter(|package| package.name == "gpg-pubkey").count(), 1);
}

#[test]
fn every_page_size_and_a_deep_tree_read_as_rpm_says() {
    for page_size in [512, 1_024, 4_096, 8_192, 65_536] {
        let Some(database) = database() else { return };
        sqlite3(
            database.path(),
            &format!(
                "PRAGMA journal_mode=DELETE; PRAGMA page_size={page_size};
                 INSERT INTO Packages (blob) SELECT a.blob FROM Packages a, Packages b WHERE length(a.blob) < 10000 LIMIT 900;
                 VACUUM;"
            ),
        );
        let theirs = rpm_qa(database.path(), "sqlite");
        assert_eq!(theirs.len(), SUBPACKAGES + 1 + 900);
        assert_same(&ours(database.path()), &theirs, &format!("page size {page_size}"));
    }
}

#[test]
fn reserved_bytes_and_holes_read_as_rpm_says() {
    let Some(database) = database() else { return };
    sqlite3(
        database.path(),
        "PRAGMA journal_mode=DELETE;\n.filectrl reserve_bytes 40\nVACUUM;\nDELETE FROM Packages WHERE hnum % 2 = 0;\n\
         UPDATE Packages SET hnum = hnum + 5000000000 WHERE hnum % 3 = 0;",
    );
    assert_eq!(std::fs::read(database.path().join("rpmdb.sqlite")).unwrap()[20], 40);
    let ours = ours(database.path());
    assert!(ours.len() < SUBPACKAGES && ours.len() > SUBPACKAGES / 3);
    // RPM's numbers end at 2^32; SQLite's do not, and the headers are the same.
    sqlite3(database.path(), "UPDATE Packages SET hnum = hnum - 5000000000 WHERE hnum > 5000000000;");
    assert_same(&ours, &rpm_qa(database.path(), "sqlite"), "");
}

/// A database with committed changes in its log alone; `tail` is run while the log is still there.
fn with_log(changes: &str, tail: &str) -> Option<tempfile::TempDir> {
    let database = database()?;
    let commands = format!(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=10;\n{changes}\n\
         .shell mkdir copy\n.shell cp rpmdb.sqlite rpmdb.sqlite-wal copy\n"
    );
    sqlite3(database.path(), &commands);
    let copy = tempfile::tempdir().unwrap();
    shell(copy.path(), &format!("cp {}/copy/* .; {tail}", database.path().display()));
    Some(copy)
}

/// What RPM says of a copy: it takes a log into the database and removes it.
fn rpm_qa_of_copy(directory: &Path) -> Vec<Package> {
    let copy = tempfile::tempdir().unwrap();
    shell(copy.path(), &format!("cp {}/rpmdb* .", directory.display()));
    rpm_qa(copy.path(), "sqlite")
}

const DELETE_THEN_ADD: &str = "DELETE FROM Packages WHERE hnum < 10;
    INSERT INTO Packages (blob) SELECT blob FROM Packages WHERE hnum > 20;";

#[test]
fn a_write_ahead_log_is_read_as_rpm_reads_it() {
    let Some(database) = with_log(DELETE_THEN_ADD, "true") else { return };
    let without = tempfile::tempdir().unwrap();
    shell(without.path(), &format!("cp {}/rpmdb.sqlite .", database.path().display()));
    let ours_of_all = ours(database.path());
    assert_same(&ours_of_all, &rpm_qa_of_copy(database.path()), "with the log");
    assert_same(&ours(without.path()), &expected(), "without the log");
    assert_ne!(ours_of_all.len(), expected().len());
}

#[test]
fn what_was_not_committed_does_not_count() {
    // The small cache makes SQLite write pages of the open transaction to the log.
    let open = format!("{DELETE_THEN_ADD} BEGIN; DELETE FROM Packages WHERE hnum > 12;");
    let Some(database) = with_log(&open, "true") else { return };
    let Some(committed) = with_log(DELETE_THEN_ADD, "true") else { return };
    let len = |directory: &Path| std::fs::metadata(directory.join("rpmdb.sqlite-wal")).unwrap().len();
    assert!(len(database.path()) > len(committed.path()), "nothing of the open transaction is in the log");
    let packages = ours(database.path());
    assert_same(&packages, &rpm_qa_of_copy(database.path()), "");
    assert_same(&packages, &ours(committed.path()), "");
}

#[test]
fn a_log_ends_where_it_is_torn_or_damaged() {
    let changes = "DELETE FROM Packages WHERE hnum = 1; DELETE FROM Packages WHERE hnum = 2;
        DELETE FROM Packages WHERE hnum = 3;";
    let flip =
        |at: &str| format!("printf '\\377\\252' | dd of=rpmdb.sqlite-wal bs=1 seek={at} conv=notrunc status=none");
    let size = "$(stat -c %s rpmdb.sqlite-wal)";
    for (tail, left) in [
        ("true".to_owned(), SUBPACKAGES - 2),
        (format!("truncate -s $(({size} - 1)) rpmdb.sqlite-wal"), SUBPACKAGES - 1),
        (flip(&format!("$(({size} - 100))")), SUBPACKAGES - 1),
        // The first frame's salt.
        (flip("40"), SUBPACKAGES + 1),
        // The log's magic, salt and checksum.
        (flip("0"), SUBPACKAGES + 1),
        (flip("17"), SUBPACKAGES + 1),
        (flip("24"), SUBPACKAGES + 1),
        ("truncate -s 20 rpmdb.sqlite-wal".to_owned(), SUBPACKAGES + 1),
        ("truncate -s 0 rpmdb.sqlite-wal".to_owned(), SUBPACKAGES + 1),
    ] {
        let Some(database) = with_log(changes, &tail) else { return };
        let packages = ours(database.path());
        assert_eq!(packages.len(), left, "{tail}");
        assert_same(&packages, &rpm_qa_of_copy(database.path()), &tail);
    }
}

#[test]
fn a_rollback_journal_is_noted() {
    let Some(database) = database() else { return };
    std::fs::write(database.path().join("rpmdb.sqlite-journal"), "left").unwrap();
    let list = list(TreeFs::new().host_directory("/var/lib/rpm", database.path()));
    assert_same(&list.packages, &expected(), "");
    assert!(list.notes[0].contains("rollback journal"), "{:?}", list.notes);
}

#[test]
fn berkeley_db_reads_as_rpm_says_in_both_byte_orders_and_all_page_sizes() {
    let Some(headers) = headers() else { return };
    let Some(db_load) = ["db5.3_load", "db_load"].into_iter().find(|tool| is_installed(tool)) else {
        have("db5.3_load");
        return;
    };
    for (order, page_size) in [(1234, 512), (1234, 4_096), (1234, 65_536), (4321, 512), (4321, 4_096), (4321, 16_384)] {
        let directory = tempfile::tempdir().unwrap();
        let head =
            format!("VERSION=3\nformat=bytevalue\ntype=hash\ndb_lorder={order}\ndb_pagesize={page_size}\nHEADER=END\n");
        let mut dump = head;
        let mut add = |key: u32, value: &[u8]| {
            let key = if order == 4321 { key.to_be_bytes() } else { key.to_le_bytes() };
            dump += &format!(" {}\n {}\n", hex(&key), hex(value));
        };
        add(0, &(headers.len() as u32).to_be_bytes());
        headers.iter().for_each(|(key, header)| add(*key, header));
        // RPM's own numbers go up to 2^32; these make more buckets than one.
        (1_000..1_400).for_each(|key| add(key, &headers[1].1));
        dump += "DATA=END\n";
        std::fs::write(directory.path().join("dump"), dump).unwrap();
        shell(directory.path(), &format!("{db_load} -f dump Packages; rm dump"));
        let theirs = rpm_qa(directory.path(), "bdb_ro");
        assert_eq!(theirs.len(), headers.len() + 400);
        assert_same(&ours(directory.path()), &theirs, &format!("{order} {page_size}"));
    }
}

fn is_installed(tool: &str) -> bool {
    Command::new(tool).arg("-V").output().is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn other_kinds_of_berkeley_db_are_refused_by_name() {
    if !have("db5.3_load") {
        return;
    }
    for (arguments, feature) in [("-t btree", "the b-tree access method"), ("-t hash -c chksum=1", "page checksums")] {
        let directory = tempfile::tempdir().unwrap();
        shell(directory.path(), &format!("printf 'a\\nb\\n' | db5.3_load -T {arguments} Packages"));
        let list = list(TreeFs::new().host_directory("/var/lib/rpm", directory.path()));
        assert_eq!(list.notes.len(), 1);
        assert!(list.notes[0].contains(&format!("{feature} is not supported")), "{}", list.notes[0]);
    }
}

/// The kernel's highest resident set of this process, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// Run alone (`--ignored`), because other tests' memory counts too.
#[test]
#[ignore = "writes 200 MB; measures this process's memory"]
fn a_large_database_takes_little_memory() {
    let Some(database) = database() else { return };
    let fill = "PRAGMA journal_mode=DELETE; INSERT INTO Packages (blob) SELECT a.blob FROM Packages a, Packages b
         WHERE length(a.blob) > 100000 LIMIT 1; INSERT INTO Packages (blob) SELECT a.blob FROM Packages a, Packages b, Packages c
         WHERE length(a.blob) > 100000 LIMIT 600;";
    sqlite3(database.path(), fill);
    let file = database.path().join("rpmdb.sqlite");
    println!("{} bytes", std::fs::metadata(&file).unwrap().len());
    let mounts = TreeFs::new().device("/var/lib/rpm/rpmdb.sqlite", Arc::new(HostFile::open(&file).unwrap())).mounts();
    let start = std::time::Instant::now();
    let lists = packages(&Guest::new(&mounts)).unwrap();
    println!("{} packages in {:?}, peak {} bytes", lists[0].packages.len(), start.elapsed(), peak_memory());
    assert!(lists[0].packages.len() > 600);
    assert!(peak_memory() < 64 << 20);
}
