//! libnbd's and QEMU's clients against `guestctl serve`.

use std::process::{Command, Stdio};

use super::support::{have, shell};
use super::{GUESTCTL, Served, make_disks};

const URI: &str = "'nbd+unix:///?socket=s'";

#[test]
fn every_client_reads_the_same_bytes() {
    if !(have("qemu-img") && have("nbdcopy")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    for image in ["dense.raw", "disk.raw", "disk.qcow2", "packed.qcow2"] {
        let served = Served::start(directory, image);
        shell(
            directory,
            &format!(
                "nbdcopy --allocated {URI} a; cmp a dense.raw
                 nbdcopy --connections=1 --requests=1 --request-size=4096 {URI} b; cmp b dense.raw
                 qemu-img compare -q -f raw -F raw {URI} dense.raw
                 qemu-img convert -f raw -O raw {URI} c; cmp c dense.raw
                 rm a b c"
            ),
        );
        assert_eq!(served.stop(), Some(0));
        assert!(!directory.join("s").exists(), "the socket is removed");
    }
}

#[test]
fn the_description_is_true() {
    if !(have("qemu-img") && have("nbdinfo")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    let json = |uri: &str| -> serde_json::Value {
        serde_json::from_slice(&shell(directory, &format!("nbdinfo --json --no-content {uri}")).stdout).unwrap()
    };
    let served = Served::start(directory, "disk.qcow2 --description shelf");
    let info = json(URI);
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    let export = &info["exports"][0];
    for (key, value) in [
        ("is_read_only", true),
        ("can_multi_conn", true),
        ("can_flush", true),
        ("can_df", true),
        ("can_cache", true),
        ("can_trim", false),
        ("can_zero", false),
        ("can_fast_zero", false),
    ] {
        assert_eq!(export[key], value, "{key}");
    }
    assert_eq!(export["export-size"], 8 << 20);
    assert_eq!(export["description"], "shelf");
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation", "qemu:allocation-depth"]));
    let map = shell(directory, &format!("nbdinfo --json --map {URI}")).stdout;
    let map: Vec<serde_json::Value> = serde_json::from_slice(&map).unwrap();
    let runs: Vec<_> = map.iter().map(|run| (run["offset"].as_u64().unwrap(), run["type"].as_u64().unwrap())).collect();
    assert_eq!(runs[..4], [(0, 3), (1 << 20, 0), (3 << 20, 3), (5 << 20, 0)]);
    assert!(runs[4].0 <= (5 << 20) + 131_072 && runs[4..].iter().all(|(_, kind)| kind & 2 != 0), "{runs:?}");
    drop(served);
    std::fs::remove_file(directory.join("s")).unwrap();

    let _served = Served::start(directory, "--temporary --max-connections 1 disk.raw");
    let export = &json(URI)["exports"][0];
    for (key, value) in [("is_read_only", false), ("can_multi_conn", false), ("can_fua", true), ("can_zero", true)] {
        assert_eq!(export[key], value, "{key}");
    }
}

#[test]
fn depths_are_those_of_qemu() {
    if !(have("qemu-img") && have("qemu-nbd") && have("nbdinfo")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(
        directory,
        "qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2
         qemu-io -f qcow2 -c 'write 2M 64k' -c 'write -z 6M 128k' top.qcow2 >/dev/null",
    );
    let _served = Served::start(directory, "--allow-same-dir top.qcow2");
    let depths = format!("nbdinfo --map=qemu:allocation-depth {URI} | awk '{{print $1, $2, $3}}'");
    let ours = shell(directory, &depths).stdout;
    let theirs = shell(
        directory,
        "nbdinfo --map=qemu:allocation-depth -- [ qemu-nbd -A -r -f qcow2 top.qcow2 ] | awk '{print $1, $2, $3}'",
    )
    .stdout;
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&theirs));
}

#[test]
fn clients_write_where_they_may() {
    if !(have("qemu-img") && have("qemu-io")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    let script = "-c 'write -P 7 4k 100k' -c 'write -f -P 9 5000 11' -c 'write -z 1M 300k' -c 'write -z -u 2M 64k' \
                  -c 'discard 7M 64k' -c flush -c 'read -P 7 4k 512' -c 'read -P 9 5000 11' -c 'read -P 0 1M 300k'";
    shell(directory, &format!("cp dense.raw model.raw; qemu-io -f raw {script} model.raw >/dev/null"));

    let served = Served::start(directory, "disk.raw");
    let refused = format!("! qemu-io -f raw -c 'write 0 512' {URI} >/dev/null 2>&1");
    shell(directory, &refused);
    drop(served);
    std::fs::remove_file(directory.join("s")).unwrap();

    for (options, image, changed) in
        [("--temporary", "disk.qcow2", false), ("--writable", "disk.raw", true), ("--writable", "disk.qcow2", true)]
    {
        let served = Served::start(directory, &format!("{options} {image}"));
        shell(
            directory,
            &format!(
                "qemu-io -f raw {script} {URI} | grep -c 'ops;' | grep -qx 8
                 qemu-img compare -q -f raw -F raw {URI} model.raw"
            ),
        );
        assert_eq!(served.stop(), Some(0));
        let expected = if changed { "model.raw" } else { "dense.raw" };
        shell(directory, &format!("qemu-img compare -q -F raw {image} {expected}"));
        if image == "disk.qcow2" {
            shell(directory, "qemu-img check -q disk.qcow2");
        }
    }
}

#[test]
fn exports_have_names_parts_and_snapshots() {
    if !(have("qemu-img") && have("nbdinfo") && have("sfdisk")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    let served = Served::start(directory, "disk.qcow2 other=disk.raw");
    let listed = shell(directory, &format!("nbdinfo --list {URI} | grep ^export")).stdout;
    assert_eq!(String::from_utf8_lossy(&listed), "export=\"disk\":\nexport=\"other\":\n");
    shell(
        directory,
        "for name in '' disk other; do nbdinfo --size \"nbd+unix:///$name?socket=s\" | grep -qx 8388608; done
         ! nbdinfo 'nbd+unix:///nothing?socket=s' 2>/dev/null",
    );
    drop(served);

    shell(
        directory,
        "rm s; qemu-img snapshot -c before disk.qcow2; qemu-io -f qcow2 -c 'write -P 5 0 1M' disk.qcow2 >/dev/null
         printf '2048,2048\\n8192,4096\\n' | sfdisk -q disk.raw",
    );
    let served = Served::start(directory, "--snapshot before disk.qcow2");
    shell(directory, &format!("qemu-img compare -q -f raw -F raw {URI} dense.raw"));
    drop(served);
    shell(directory, "rm s; dd if=disk.raw of=part bs=512 skip=8192 count=4096 status=none");
    let _served = Served::start(directory, "--partition 2 -x second disk.raw");
    shell(directory, "qemu-img compare -q -f raw -F raw 'nbd+unix:///second?socket=s' part");
    let failed = Command::new(GUESTCTL).args(["serve", "--partition", "3", "disk.raw"]).current_dir(directory).output();
    assert_eq!(failed.unwrap().status.code(), Some(2));
}

#[test]
fn a_socket_may_be_passed_and_the_last_client_may_end_it() {
    if !(have("qemu-img") && have("nbdcopy")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(directory, &format!("nbdcopy -- [ {GUESTCTL} serve disk.qcow2 ] out; cmp out dense.raw"));
    let mut served = Served::start(directory, "--exit-with-last-client --pid-file pid disk.qcow2");
    shell(directory, &format!("test $(cat pid) = {}; nbdcopy {URI} out2; cmp out2 dense.raw", served.0.id()));
    assert_eq!(served.0.wait().unwrap().code(), Some(0));
    assert!(!directory.join("s").exists() && !directory.join("pid").exists());
}

#[test]
fn tcp_is_for_this_host_unless_told_otherwise() {
    if !(have("qemu-img") && have("nbdinfo")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    let serve = |listen: &str| {
        let mut command = Command::new(GUESTCTL);
        command.args(["serve", "--json", "--listen", listen, "disk.qcow2"]).current_dir(directory);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let refused = serve("0.0.0.0:0").output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--insecure"));
    let mut served = Served(serve("127.0.0.1:0").spawn().unwrap());
    let mut line = String::new();
    let stdout = served.0.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let exports: serde_json::Value = serde_json::from_str(&line).unwrap();
    let uri = exports[0]["uri"].as_str().unwrap();
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    shell(directory, &format!("qemu-img compare -q -f raw -F raw '{uri}' dense.raw"));
    if have("nbd-client") {
        let port = uri.rsplit(':').next().unwrap().trim_end_matches('/');
        let listed = shell(directory, &format!("nbd-client -l 127.0.0.1 {port} 2>&1")).stdout;
        assert!(String::from_utf8_lossy(&listed).contains("Negotiation"), "{}", String::from_utf8_lossy(&listed));
    }
}
