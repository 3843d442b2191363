//! What differs between installed systems: guests built path by path, versions judged by dpkg and rpm, fingerprints by
//! ssh-keygen.

use std::process::Command;

use guestctl::fs::{FsKind, Identity};
use guestctl::inspect::packages::version_order;
use guestctl::inspect::{
    Candidate, DifferenceKind, Differences, OperatingSystem, Package, PackageFormat, Topic, differences, inspect,
};

use super::support::{have, shell};
use super::tree_fs::TreeFs;
use super::trees::Random;

const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";

fn base() -> TreeFs {
    TreeFs::new()
        .dir("/bin")
        .file("/bin/sh", ELF)
        .file("/usr/lib/systemd/systemd", ELF)
        .link("/sbin/init", "/usr/lib/systemd/systemd")
        .file("/etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=Debian\n")
}

fn system(tree: TreeFs) -> OperatingSystem {
    let identity = Identity { kind: FsKind::Ext4, label: None, uuid: None };
    let mut systems = inspect(&[Candidate::new("/dev/sda1", Some(tree.arc()), identity)]).unwrap();
    assert_eq!(systems.len(), 1);
    systems.remove(0)
}

fn between(old: TreeFs, new: TreeFs) -> Differences {
    differences(&system(old), &system(new)).unwrap()
}

/// The differences of one topic as text: sign, name, fields.
fn told(differences: &Differences, topic: Topic) -> Vec<String> {
    let line = |difference: &guestctl::inspect::Difference| {
        let sign = match difference.change {
            DifferenceKind::Added => "+",
            DifferenceKind::Removed => "-",
            DifferenceKind::Changed => "~",
            DifferenceKind::Upgraded => "^",
            DifferenceKind::Downgraded => "v",
        };
        let fields = difference.fields.iter().map(|(field, change)| {
            format!(" {field}={}>{}", change.old.as_deref().unwrap_or("-"), change.new.as_deref().unwrap_or("-"))
        });
        format!("{sign} {}{}", difference.name, fields.collect::<String>())
    };
    differences.of(topic).iter().map(line).collect()
}

fn status(packages: &[(&str, &str, &str)]) -> String {
    let stanza = |(name, version, arch): &(&str, &str, &str)| {
        format!(
            "Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nVersion: {version}\nDescription: x\n\n"
        )
    };
    packages.iter().map(stanza).collect()
}

#[test]
fn packages_come_go_and_change_their_versions() {
    let old = status(&[
        ("bash", "5.2-1", "amd64"),
        ("gone", "1", "all"),
        ("libc6", "2.36-9", "amd64"),
        ("libc6", "2.36-9", "i386"),
        ("nano", "7.2-1", "amd64"),
        ("same", "1", "all"),
        ("tool", "1:1.0-1", "amd64"),
        ("twin", "1", "amd64"),
    ]);
    let new = status(&[
        ("bash", "5.2-1+deb12u1", "amd64"),
        ("came", "2", "all"),
        ("libc6", "2.36-10", "amd64"),
        ("libc6", "2.36-9", "i386"),
        ("nano", "7.2-1~bpo", "amd64"),
        ("same", "1", "all"),
        ("tool", "2.0-1", "all"),
        ("twin", "1", "amd64"),
        ("twin", "1", "i386"),
    ]);
    let with = |text: &str| base().file("/var/lib/dpkg/status", text);
    let differences = between(with(&old), with(&new));
    assert_eq!(
        told(&differences, Topic::Packages),
        [
            "^ bash version=5.2-1>5.2-1+deb12u1",
            "+ came arch=->all format=->deb version=->2",
            "- gone arch=all>- format=deb>- version=1>-",
            "^ libc6 version=2.36-9>2.36-10",
            "v nano version=7.2-1>7.2-1~bpo",
            "v tool arch=amd64>all version=1:1.0-1>2.0-1",
            "+ twin arch=->i386 format=->deb version=->1",
        ]
    );
    assert!(between(with(&old), with(&old)).is_empty());
    let many: String = (0..40_000).map(|n| status(&[("one", &n.to_string(), "all")])).collect();
    let begun = std::time::Instant::now();
    assert_eq!(told(&between(with(&many), with("")), Topic::Packages).len(), 40_000);
    assert!(begun.elapsed().as_secs() < 60);
}

fn package(epoch: u32, version: &str, release: &str) -> Package {
    Package { epoch, version: version.to_owned(), release: release.to_owned(), ..Package::default() }
}

/// Versions that are hard to sort.
fn words(random: &mut Random, parts: &[&str]) -> String {
    let digit = random.below(10).to_string();
    let more = (0..random.below(6)).map(|_| parts[random.below(parts.len() as u64) as usize]);
    format!("{digit}{}", more.collect::<String>())
}

#[test]
fn debian_versions_sort_as_dpkg_sorts_them() {
    if !have("dpkg") {
        return;
    }
    let mut random = Random::new(3);
    let parts = ["0", "1", "9", "10", "007", ".", "+", "~", "a", "b", "rc", "dfsg", "Z"];
    let mut script = String::new();
    let mut ours = String::new();
    for _ in 0..400 {
        let (left, right) = (words(&mut random, &parts), words(&mut random, &parts));
        script.push_str(&format!(
            "if dpkg --compare-versions '{left}' lt '{right}'; then echo Less; elif dpkg --compare-versions '{left}' eq '{right}'; then echo Equal; else echo Greater; fi\n"
        ));
        let order = version_order(PackageFormat::Deb, &package(0, &left, ""), &package(0, &right, ""));
        ours.push_str(&format!("{order:?}\n"));
    }
    let theirs = shell(std::path::Path::new("/"), &script);
    assert_eq!(ours, String::from_utf8(theirs.stdout).unwrap());
}

#[test]
fn rpm_versions_sort_as_rpm_sorts_them() {
    if !have("rpm") {
        return;
    }
    let mut random = Random::new(4);
    let parts = ["0", "1", "9", "10", "007", ".", "_", "~", "^", "a", "b", "rc", "git", "Z"];
    let pairs: Vec<(String, String)> =
        (0..2000).map(|_| (words(&mut random, &parts), words(&mut random, &parts))).collect();
    let mut lua = String::new();
    for (left, right) in &pairs {
        lua.push_str(&format!("print(rpm.vercmp('{left}','{right}')..' ')"));
    }
    let output = Command::new("rpm").args(["--eval", &format!("%{{lua:{lua}}}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<i32> =
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(|order| order.parse().unwrap()).collect();
    assert_eq!(theirs.len(), pairs.len());
    for ((left, right), theirs) in pairs.iter().zip(theirs) {
        let ours = version_order(PackageFormat::Rpm, &package(0, left, ""), &package(0, right, ""));
        assert_eq!(ours as i32, theirs, "{left} {right}");
    }
}

#[test]
fn users_groups_and_services_change() {
    let old = base()
        .file(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/bash\ndemo:x:1000:1000:Demo:/home/demo:/bin/sh\nold:x:5:5::/:/bin/false\n",
        )
        .file("/etc/shadow", "root:$6$a$b:1::::::\ndemo:$6$c$d:1::::::\nold:!:1::::::\n")
        .file("/etc/group", "root:x:0:\nsudo:x:27:demo,zoe\nusers:x:100:\n")
        .link("/etc/systemd/system/multi-user.target.wants/ssh.service", "/usr/lib/systemd/system/ssh.service")
        .link("/etc/systemd/system/multi-user.target.wants/cron.service", "/usr/lib/systemd/system/cron.service");
    let new = base()
        .file(
            "/etc/passwd",
            "root:x:0:0::/root:/bin/bash\ndemo:x:1000:1000:Demo:/home/demo:/bin/zsh\nnew:x:6:6::/:/bin/sh\n",
        )
        .file("/etc/shadow", "root:$6$a$OTHER:1::::::\ndemo:$6$c$d:1::::::\nnew::1::::::\n")
        .file("/etc/group", "root:x:0:\nsudo:x:27:zoe,adam,demo\nwheel:x:10:\n")
        .link("/etc/systemd/system/multi-user.target.wants/ssh.service", "/usr/lib/systemd/system/ssh.service")
        .link("/etc/systemd/system/cron.service", "/dev/null")
        .link("/etc/systemd/system/timers.target.wants/fstrim.timer", "/usr/lib/systemd/system/fstrim.timer");
    let differences = between(old, new);
    assert_eq!(
        told(&differences, Topic::Users),
        [
            "~ demo shell=/bin/sh>/bin/zsh",
            "+ new gecos=-> gid=->6 home=->/ password=->empty shell=->/bin/sh uid=->6",
            "- old gecos=>- gid=5>- home=/>- password=locked>- shell=/bin/false>- uid=5>-",
            "~ root password=set>set to another",
        ]
    );
    assert_eq!(
        told(&differences, Topic::Groups),
        ["~ sudo members=demo, zoe>adam, demo, zoe", "- users gid=100>-", "+ wheel gid=->10"]
    );
    assert_eq!(
        told(&differences, Topic::Services),
        [
            "~ cron.service state=enabled>masked wanted_by=multi-user.target>-",
            "+ fstrim.timer state=->enabled wanted_by=->timers.target",
        ]
    );
    let json = serde_json::to_string(&differences).unwrap();
    assert!(!json.contains("$6$") && !json.contains("OTHER"), "no hash comes out: {json}");
    let names: Vec<String> = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json)
        .unwrap()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for topic in Topic::ALL {
        assert!(names.contains(&topic.name().to_owned()), "every topic has its array");
    }
}

#[test]
fn settings_follow_their_precedence() {
    let old = base()
        .file("/etc/sysctl.conf", "vm.swappiness = 10\n")
        .file("/usr/lib/sysctl.d/50-default.conf", "kernel.sysrq = 16\nnet.ipv4.ip_forward=0\n")
        .file("/usr/lib/sysctl.d/60-masked.conf", "kernel.masked = 1\n")
        .file("/etc/hostname", "one\n")
        .file("/etc/timezone", "Europe/Berlin\n")
        .file("/etc/fstab", "UUID=1 / ext4 defaults 0 1\n/dev/sdb1 /srv xfs noatime 0 2\n")
        .file("/boot/grub/grub.cfg", "menuentry 'a' {\n linux /boot/vmlinuz-6.1.0-1-amd64 root=UUID=1 ro quiet\n initrd /boot/initrd.img-6.1.0-1-amd64\n}\n")
        .file("/boot/vmlinuz-6.1.0-1-amd64", "x")
        .file("/etc/network/interfaces", "auto lo\n");
    let new = base()
        // A later name wins, /etc replaces a file of the same name, a link to nothing leaves one out, and sysctl.conf is last.
        .file("/usr/lib/sysctl.d/50-default.conf", "kernel.sysrq = 16\nnet.ipv4.ip_forward=0\n")
        .file("/usr/lib/sysctl.d/60-masked.conf", "kernel.masked = 1\n")
        .link("/etc/sysctl.d/60-masked.conf", "/dev/null")
        .file("/etc/sysctl.d/99-net.conf", "net/ipv4/ip_forward = 1\nvm.swappiness=5\n")
        .file("/etc/sysctl.conf", "vm.swappiness = 60\n")
        .file("/etc/hostname", "two\n")
        .file("/etc/timezone", "Europe/Berlin\n")
        .file("/etc/fstab", "UUID=1 / ext4 defaults,ro 0 1\ntmpfs /tmp tmpfs size=1G 0 0\n")
        .file("/boot/grub/grub.cfg", "menuentry 'a' {\n linux /boot/vmlinuz-6.1.0-2-amd64 root=UUID=2 ro console=ttyS0\n initrd /boot/initrd.img-6.1.0-2-amd64\n}\n")
        .file("/boot/vmlinuz-6.1.0-2-amd64", "x")
        .file("/etc/network/interfaces", "auto lo eth0\n");
    let differences = between(old, new);
    assert_eq!(
        told(&differences, Topic::Sysctl),
        [
            "- kernel.masked source=/usr/lib/sysctl.d/60-masked.conf>- value=1>-",
            "~ net.ipv4.ip_forward source=/usr/lib/sysctl.d/50-default.conf>/etc/sysctl.d/99-net.conf value=0>1",
            "~ vm.swappiness value=10>60",
        ]
    );
    assert_eq!(told(&differences, Topic::System), ["~ hostname value=one>two"]);
    assert_eq!(
        told(&differences, Topic::Mounts),
        [
            "~ / options=defaults>defaults,ro",
            "- /srv device=/dev/sdb1>- options=noatime>- source=/etc/fstab>- type=xfs>-",
            "+ /tmp device=->tmpfs options=->size=1G source=->/etc/fstab type=->tmpfs",
        ]
    );
    assert_eq!(
        told(&differences, Topic::KernelArguments),
        ["+ console value=->ttyS0", "- quiet", "~ root value=UUID=1>UUID=2"]
    );
    let kernels = told(&differences, Topic::Kernels);
    assert!(
        kernels.len() == 2 && kernels[0].starts_with("- 6.1.0-1-amd64") && kernels[1].starts_with("+ 6.1.0-2-amd64"),
        "{kernels:?}"
    );
    let network = told(&differences, Topic::Network);
    assert!(network.len() == 1 && network[0].starts_with("~ /etc/network/interfaces sha256="), "{network:?}");
}

#[test]
fn keys_have_the_fingerprints_of_ssh_keygen() {
    if !have("ssh-keygen") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for (name, kind) in [("a", "ed25519"), ("b", "ecdsa"), ("c", "rsa"), ("d", "ed25519")] {
        let script = format!("ssh-keygen -q -t {kind} -N '' -C 'key {name}' -f {name}; ssh-keygen -lf {name}.pub");
        let said = String::from_utf8(shell(directory.path(), &script).stdout).unwrap();
        let fingerprint = said.split_whitespace().nth(1).unwrap().to_owned();
        keys.push((std::fs::read_to_string(directory.path().join(format!("{name}.pub"))).unwrap(), fingerprint));
    }
    let [a, b, c, d] = &keys[..] else { unreachable!() };
    let passwd = "root:x:0:0::/root:/bin/sh\ndemo:x:1000:1000::/home/demo:/bin/sh\n";
    let seed = |key: &str| format!("#cloud-config\nssh_authorized_keys:\n  - {key}\n");
    let old = base()
        .file("/etc/passwd", passwd)
        .file("/etc/ssh/ssh_host_ed25519_key.pub", &a.0)
        .file("/root/.ssh/authorized_keys", format!("# mine\n{}", a.0))
        .file("/home/demo/.ssh/authorized_keys", format!("{}{}", b.0, c.0))
        .file("/etc/cloud/cloud.cfg", "datasource_list: [ NoCloud ]\n")
        .file("/var/lib/cloud/seed/nocloud/user-data", seed(a.0.trim()));
    let new = base()
        .file("/etc/passwd", passwd)
        .file("/etc/ssh/ssh_host_ed25519_key.pub", &d.0)
        .file("/root/.ssh/authorized_keys", format!("no-pty,command=\"ls\" {}", a.0))
        .file("/home/demo/.ssh/authorized_keys", &b.0)
        .file("/home/demo/.ssh/authorized_keys2", &d.0)
        .file("/etc/cloud/cloud.cfg", "datasource_list: [ NoCloud, None ]\n")
        .file("/var/lib/cloud/seed/nocloud/user-data", seed(d.0.trim()));
    let differences = between(old, new);
    assert_eq!(told(&differences, Topic::SshHostKeys), [format!("~ ed25519 fingerprint={}>{}", a.1, d.1)]);
    let mut expected = [
        format!("- demo {} comment=key c>- source=/home/demo/.ssh/authorized_keys>- type=ssh-rsa>-", c.1),
        format!("+ demo {} comment=->key d source=->/home/demo/.ssh/authorized_keys2 type=->ssh-ed25519", d.1),
        format!("~ root {} options=->no-pty,command=\"ls\"", a.1),
    ];
    expected.sort_by_key(|line| line[2..].to_owned());
    assert_eq!(told(&differences, Topic::AuthorizedKeys), expected);
    let cloud = told(&differences, Topic::CloudInit);
    let begins = |start: &str| cloud.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(begins("~ datasources value=NoCloud>NoCloud, None"), 1, "{cloud:?}");
    assert_eq!(begins("~ /var/lib/cloud/seed/nocloud/user-data sha256="), 1, "{cloud:?}");
    assert_eq!((begins(&format!("- key {}", a.1)), begins(&format!("+ key {}", d.1))), (1, 1), "{cloud:?}");
}

#[test]
fn hostile_guests_end() {
    // Names that repeat, keys without an end, directories of settings.
    let arguments = "a=1 ".repeat(20_000);
    let tree = || {
        let mut tree = base()
            .file("/etc/passwd", "x:x:1:1::/:/bin/sh\n".repeat(60_000))
            .file("/boot/grub/grub.cfg", format!("menuentry 'a' {{\n linux /boot/vmlinuz-6.1 {arguments}\n}}\n"))
            .file("/boot/vmlinuz-6.1", "x")
            .file("/etc/sysctl.conf", "a.b = 1\n".repeat(300_000))
            .file("/etc/fstab", "/dev/x /same ext4 defaults 0 0\n".repeat(4_000));
        for n in 0..3_000 {
            tree = tree.file(&format!("/etc/sysctl.d/{n}.conf"), format!("k.{n} = 1\n"));
        }
        tree
    };
    let begun = std::time::Instant::now();
    let differences = between(tree(), base());
    assert!(told(&differences, Topic::Sysctl).len() > 2_000);
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}
