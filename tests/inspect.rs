//! Inspection of guests that are built path by path: distributions, namespaces, boot, hostile files.

#[path = "support/distributions.rs"]
mod distributions;
#[path = "support/tree_fs.rs"]
mod tree_fs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use distributions::DISTRIBUTIONS;
use guestctl::fs::{Filesystem, FsKind, Identity};
use guestctl::inspect::{
    BootloaderKind, Candidate, Firmware, InitSystem, KernelKind, MachineId, NetworkKind, OperatingSystem, Password,
    ServiceState, inspect,
};
use tree_fs::TreeFs;

const ROOT_X86_64: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
const USR_X86_64: &str = "8484680c-9521-48c6-9c11-b0720656f69e";
const ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
const XBOOTLDR: &str = "bc13c2ff-59e6-4262-a352-b275fd6f7172";
const SWAP: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
const HOME: &str = "933ac7e1-2eb4-4f13-b844-0e14e2aef915";

/// The ELF header of an x86-64 program, as far as anyone looks.
const ELF_X86_64: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
const ELF_AARCH64: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xb7\0";

fn candidate(mountable: &str, fs: Option<Arc<dyn Filesystem>>, kind: FsKind) -> Candidate {
    Candidate::new(mountable, fs, Identity { kind, label: None, uuid: None })
}

fn ext4(mountable: &str, tree: TreeFs) -> Candidate {
    candidate(mountable, Some(tree.arc()), FsKind::Ext4)
}

fn with_uuid(mut candidate: Candidate, uuid: &str) -> Candidate {
    candidate.identity.uuid = Some(uuid.to_owned());
    candidate
}

fn with_label(mut candidate: Candidate, label: &str) -> Candidate {
    candidate.identity.label = Some(label.to_owned());
    candidate
}

fn with_type(mut candidate: Candidate, partition_type: &str) -> Candidate {
    candidate.partition_type = Some(partition_type.to_owned());
    candidate
}

fn only(tree: TreeFs) -> OperatingSystem {
    one(&[ext4("/dev/sda1", tree)])
}

fn one(candidates: &[Candidate]) -> OperatingSystem {
    let mut systems = inspect(candidates).expect("readable candidates");
    assert_eq!(systems.len(), 1, "{systems:?}");
    systems.remove(0)
}

/// What every root has.
fn base() -> TreeFs {
    TreeFs::new().dir("/bin").file("/etc/fstab", "").file("/bin/sh", ELF_X86_64)
}

fn mountpoints(system: &OperatingSystem) -> Vec<(String, String)> {
    system.mountpoints.iter().map(|(path, device)| (path.to_string(), device.clone())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(path, device)| ((*path).to_owned(), (*device).to_owned())).collect()
}

#[test]
fn every_distribution_is_known_by_its_release_files() {
    for case in DISTRIBUTIONS {
        let tree = case.files.iter().fold(base(), |tree, (path, text)| tree.file(path, text));
        let system = only(tree);
        let name = case.files[0].1;
        assert_eq!(system.os_type, "linux");
        assert_eq!(system.distro.as_ref().map_or("unknown", |distro| &distro.value), case.distro, "{name}");
        assert_eq!(system.product_name.as_ref().map(|product| product.value.as_str()), case.product, "{name}");
        assert_eq!((system.major_version(), system.minor_version()), case.version, "{name}");
        assert_eq!(system.codename.as_ref().map(|codename| codename.value.as_str()), case.codename, "{name}");
        let packaging = (system.package_format.as_deref(), system.package_management.as_deref());
        assert_eq!(packaging, case.packaging, "{name}");
        assert_eq!(system.osinfo, case.osinfo, "{name}");
        assert_eq!(system.arch.as_ref().map(|arch| arch.value.as_str()), Some("x86_64"), "{name}");
        assert_eq!(system.notes, [""; 0], "{name}");
    }
}

#[test]
fn values_name_the_file_they_came_from() {
    let system = only(
        base()
            .file("/usr/lib/os-release", "ID=debian\nPRETTY_NAME=Debian\nVERSION_ID=12\n")
            .link("/etc/os-release", "../usr/lib/os-release")
            .file("/etc/debian_version", "12.5\n"),
    );
    assert_eq!(system.distro.unwrap().source, "/etc/os-release");
    assert_eq!(system.version.unwrap().source, "/etc/debian_version");
    assert_eq!(system.os_release.unwrap().value["PRETTY_NAME"], "Debian");
}

/// A Debian cloud image: GPT, BIOS boot partition, ESP, one root.
fn debian_root() -> TreeFs {
    TreeFs::new()
        .link("/bin", "usr/bin")
        .link("/sbin", "usr/sbin")
        .link("/lib", "usr/lib")
        .file("/usr/bin/bash", ELF_X86_64)
        .link("/usr/sbin/init", "../lib/systemd/systemd")
        .file("/usr/lib/systemd/systemd", ELF_X86_64)
        .file("/usr/lib/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n")
        .link("/etc/os-release", "../usr/lib/os-release")
        .file("/etc/debian_version", "12.5\n")
        .file(
            "/etc/fstab",
            "# /etc/fstab\nPARTUUID=aa-01 / ext4 rw,discard 0 1\nUUID=1234-ABCD /boot/efi vfat defaults 0 0\n\
             UUID=swap-1 none swap sw 0 0\n/dev/sdb1 /data ext4 nofail 0 2\nproc /proc proc defaults 0 0\n\
             LABEL=gone /gone ext4 defaults 0 0\n",
        )
        .dir("/data")
        .dir("/boot/efi")
        .dir("/boot/grub/i386-pc")
        .file(
            "/boot/grub/grub.cfg",
            "set default=\"0\"\nmenuentry 'Debian' {\n linux /boot/vmlinuz-6.1.0-17-amd64 root=PARTUUID=aa-01 ro console=tty0\n}\n",
        )
        .file("/boot/vmlinuz-6.1.0-9-amd64", "nine")
        .file("/boot/vmlinuz-6.1.0-18-amd64", "eighteen")
        .file("/boot/vmlinuz-6.1.0-17-amd64", "seventeen")
        .file("/boot/initrd.img-6.1.0-17-amd64", "initrd")
        .file("/boot/config-6.1.0-17-amd64", "")
        .dir("/usr/lib/modules/6.1.0-17-amd64")
        .file("/etc/hostname", "bookworm-cloud\n")
        .link("/etc/localtime", "/usr/share/zoneinfo/Europe/Berlin")
        .file("/etc/timezone", "Etc/UTC\n")
        .file("/etc/default/locale", "LANG=C.UTF-8\n")
        .file("/etc/default/keyboard", "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"de\"\n")
        .file(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\ndebian:x:1000:1000:Debian:/home/debian:/bin/bash\n",
        )
        .file("/etc/shadow", "root:*:19700:0:99999:7:::\nsshd:!:19700::::::\ndebian:$y$j9T$secret:19700:0:99999:7:::\n")
        .file("/etc/group", "root:x:0:\nsudo:x:27:debian\ndebian:x:1000:\n")
        .file("/etc/machine-id", "uninitialized\n")
        .file("/etc/ssh/ssh_host_ed25519_key.pub", "")
        .file("/etc/ssh/ssh_host_rsa_key.pub", "")
        .file("/etc/ssh/ssh_host_rsa_key", "")
        .file("/etc/cloud/cloud.cfg", "users:\n - default\n")
        .file("/etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [ NoCloud, Ec2, None ]\n")
        .file("/var/lib/cloud/seed/nocloud/meta-data", "")
        .file("/etc/netplan/90-default.yaml", "")
        .file("/etc/network/interfaces", "")
        .file("/etc/network/interfaces.d/50-cloud-init", "")
        .link("/etc/systemd/system/multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service")
        .link("/etc/systemd/system/timers.target.wants/fstrim.timer", "/lib/systemd/system/fstrim.timer")
        .link("/etc/systemd/system/graphical.target.wants/ssh.service", "/lib/systemd/system/ssh.service")
        .link("/etc/systemd/system/cups.service", "/dev/null")
        .link("/etc/systemd/system/sshd.service", "/lib/systemd/system/ssh.service")
}

fn debian() -> [Candidate; 4] {
    let mut root = with_type(ext4("/dev/sda1", debian_root()), ROOT_X86_64);
    root.partuuid = Some("AA-01".to_owned());
    let esp = TreeFs::new().file("/EFI/debian/grub.cfg", "configfile x\n").file("/EFI/BOOT/BOOTX64.EFI", "MZ");
    let esp = with_uuid(candidate("/dev/sda15", Some(esp.arc()), FsKind::Vfat), "1234-ABCD");
    [
        root,
        with_type(candidate("/dev/sda14", None, FsKind::Unknown), "21686148-6449-6e6f-744e-656564454649"),
        with_type(esp, ESP),
        with_uuid(candidate("/dev/sda2", None, FsKind::Swap), "swap-1"),
    ]
}

#[test]
fn a_debian_guest_is_described_whole() {
    let system = one(&debian());
    assert_eq!(system.root, "/dev/sda1");
    assert_eq!(mountpoints(&system), pairs(&[("/", "/dev/sda1"), ("/boot/efi", "/dev/sda15")]));
    let filesystems: Vec<_> = system
        .filesystems
        .iter()
        .map(|fs| (fs.mountable.as_str(), fs.fs_type.as_str(), fs.mountpoints.join(" ")))
        .collect();
    assert_eq!(
        filesystems,
        [
            ("/dev/sda1", "ext4", "/".to_owned()),
            ("/dev/sda15", "vfat", "/boot/efi".to_owned()),
            ("/dev/sda2", "swap", String::new()),
        ]
    );
    assert_eq!(
        system.notes,
        ["fstab: /dev/sdb1 for /data is not in this image", "fstab: LABEL=gone for /gone is not in this image"]
    );
    assert_eq!(system.hostname.as_ref().unwrap().value, "bookworm-cloud");
    assert_eq!(system.timezone.as_ref().unwrap().value, "Europe/Berlin");
    assert_eq!(system.timezone.as_ref().unwrap().source, "/etc/localtime");
    assert_eq!(system.locale.as_ref().unwrap().value, "C.UTF-8");
    assert_eq!(system.keymap.as_ref().unwrap().value, "de");
    assert_eq!(system.machine_id.value, MachineId::Uninitialized);
    let keys: Vec<_> = system.ssh_host_keys.iter().map(|key| key.key_type.as_str()).collect();
    assert_eq!(keys, ["ed25519", "rsa"]);
    let network: Vec<_> = system.network_files.iter().map(|file| (file.kind, file.path.as_str())).collect();
    assert_eq!(
        network,
        [
            (NetworkKind::Ifupdown, "/etc/network/interfaces"),
            (NetworkKind::Ifupdown, "/etc/network/interfaces.d/50-cloud-init"),
            (NetworkKind::Netplan, "/etc/netplan/90-default.yaml"),
        ]
    );
    let cloud = system.cloud_init.as_ref().unwrap();
    assert_eq!(cloud.datasources.as_ref().unwrap().value, ["NoCloud", "Ec2", "None"]);
    assert_eq!(cloud.seeds, ["/var/lib/cloud/seed/nocloud"]);
    assert_eq!(cloud.instance_id, None);
}

#[test]
fn a_debian_guest_boots_and_runs_what_it_says() {
    let system = one(&debian());
    let kernels: Vec<_> =
        system.kernels.iter().map(|kernel| (kernel.version.as_str(), kernel.size_bytes, kernel.default)).collect();
    assert_eq!(kernels, [("6.1.0-9-amd64", 4, false), ("6.1.0-17-amd64", 9, true), ("6.1.0-18-amd64", 8, false)]);
    assert_eq!(system.kernels[1].initrd.as_deref(), Some("/boot/initrd.img-6.1.0-17-amd64"));
    assert_eq!(system.kernels[1].modules.as_deref(), Some("/usr/lib/modules/6.1.0-17-amd64"));
    let line = system.kernel_command_line.as_ref().unwrap();
    assert_eq!(line.value, "root=PARTUUID=aa-01 ro console=tty0");
    assert_eq!(line.source, "/boot/grub/grub.cfg");
    let loaders: Vec<_> = system.bootloaders.iter().map(|loader| (loader.kind, loader.config.as_str())).collect();
    assert_eq!(
        loaders,
        [(BootloaderKind::Grub2, "/boot/grub/grub.cfg"), (BootloaderKind::Grub2Efi, "/boot/efi/EFI/debian/grub.cfg"),]
    );
    let firmware: Vec<_> = system.firmware.iter().map(|firmware| firmware.value).collect();
    assert_eq!(firmware, [Firmware::Bios, Firmware::Uefi]);
    assert_eq!(system.init_system.as_ref().unwrap().value, InitSystem::Systemd);
    let services: Vec<_> = system
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.state, service.wanted_by.join(" ")))
        .collect();
    assert_eq!(
        services,
        [
            ("cups.service", ServiceState::Masked, String::new()),
            ("fstrim.timer", ServiceState::Enabled, "timers.target".to_owned()),
            ("ssh.service", ServiceState::Enabled, "graphical.target multi-user.target".to_owned()),
        ]
    );
    let users = &system.users.as_ref().unwrap().value;
    let users: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.uid, user.password)).collect();
    assert_eq!(
        users,
        [("root", 0, Password::Locked), ("sshd", 100, Password::Locked), ("debian", 1000, Password::Set)]
    );
    assert_eq!(system.groups.as_ref().unwrap().value[1].members, ["debian"]);
}

#[test]
fn json_has_every_field_and_no_secret() {
    let json = serde_json::to_value(one(&debian())).unwrap();
    assert_eq!(json["mountpoints"]["/boot/efi"], "/dev/sda15");
    assert_eq!(json["distro"]["value"], "debian");
    assert_eq!(json["distro"]["source"], "/etc/os-release");
    assert_eq!(json["version"]["value"]["minor"], 5);
    assert_eq!(json["firmware"][1]["value"], "uefi");
    assert_eq!(json["bootloaders"][1]["kind"], "grub2-efi");
    assert_eq!(json["machine_id"]["value"], "uninitialized");
    assert_eq!(json["kernels"][0]["size_bytes"], 4);
    assert!(json.get("mounts").is_none());
    assert!(!json.to_string().contains("secret"));
}

#[test]
fn a_guest_is_used_through_its_own_mountpoints() {
    let system = one(&debian());
    let text = system.guest().read_text("/boot/efi/EFI/debian/grub.cfg").unwrap();
    assert_eq!(text.as_deref(), Some("configfile x\n"));
    assert_eq!(system.mounts.mounts().len(), 2);
}

#[test]
fn several_systems_are_sorted_by_root() {
    let data = TreeFs::new().dir("/lost+found").file("/etc", "not a directory");
    let fedora = base().file("/etc/os-release", "ID=fedora\nVERSION_ID=39\nPRETTY_NAME=Fedora\n");
    let arch = base().file("/etc/os-release", "ID=arch\nPRETTY_NAME=Arch\n");
    let freebsd = base().file("/etc/freebsd-update.conf", "");
    let boot = TreeFs::new().file("/grub/menu.lst", "").file("/vmlinuz-1", "");
    let systems = inspect(&[
        ext4("/dev/sda10", fedora),
        ext4("/dev/sda2", arch),
        ext4("/dev/sda1", boot),
        ext4("/dev/sda3", data),
        ext4("/dev/sda4", freebsd),
        candidate("/dev/sda5", None, FsKind::Luks),
    ])
    .unwrap();
    let roots: Vec<_> = systems.iter().map(|system| (system.root.as_str(), system.osinfo.as_str())).collect();
    assert_eq!(roots, [("/dev/sda2", "archlinux"), ("/dev/sda10", "fedora39")]);
    assert!(inspect(&[]).unwrap().is_empty());
}

#[test]
fn device_names_of_other_drivers_and_volume_groups_are_resolved() {
    let fstab = "/dev/mapper/vg--1-root / xfs defaults 0 0\n/dev/vda1 /boot ext4 defaults 1 2\n\
                 /dev/vg-1/var /var xfs defaults 0 0\n/dev/xvda2 swap swap defaults 0 0\n\
                 /dev/disk/by-label/my\\x20data /srv/my\\040data ext4 defaults 0 0\n\
                 /dev/mapper/luks-home /home ext4 defaults 0 0\n";
    let root = base()
        .file("/etc/fstab", fstab)
        .file("/etc/crypttab", "luks-home UUID=9f none\n")
        .dir("/boot")
        .dir("/var")
        .dir("/srv/my data");
    let mut volume = ext4("/dev/vg-1/root", root);
    volume.aliases = vec!["/dev/mapper/vg--1-root".to_owned(), "/dev/dm-0".to_owned()];
    let boot =
        TreeFs::new().file("/vmlinuz-5.14.0-70.el9.x86_64", "kernel").file("/initramfs-5.14.0-70.el9.x86_64.img", "");
    let var = TreeFs::new().file("/lib/cloud/seed/x", "");
    let system = one(&[
        ext4("/dev/sda1", boot),
        candidate("/dev/sda2", None, FsKind::Swap),
        volume,
        ext4("/dev/vg-1/var", var),
        with_label(ext4("/dev/sda3", TreeFs::new().file("/here", "")), "my data"),
    ]);
    assert_eq!(system.root, "/dev/vg-1/root");
    let expected =
        [("/", "/dev/vg-1/root"), ("/boot", "/dev/sda1"), ("/srv/my data", "/dev/sda3"), ("/var", "/dev/vg-1/var")];
    assert_eq!(mountpoints(&system), pairs(&expected));
    assert_eq!(system.filesystems.last().unwrap().mountable, "/dev/sda2");
    assert_eq!(system.notes, ["fstab: /dev/mapper/luks-home for /home is encrypted on UUID=9f"]);
    assert_eq!(system.kernels[0].path, "/boot/vmlinuz-5.14.0-70.el9.x86_64");
    assert!(system.kernels[0].initrd.is_some());
    assert!(system.guest().is_file("/srv/my data/here").unwrap());
}

#[test]
fn a_separate_usr_is_mounted_before_anything_is_read() {
    let root = TreeFs::new()
        .link("/bin", "usr/bin")
        .dir("/usr")
        .link("/etc/os-release", "../usr/lib/os-release")
        .file("/etc/fstab", "UUID=root / ext4 defaults\nUUID=usr /usr ext4 defaults\n");
    let usr = || {
        TreeFs::new()
            .file("/bin/bash", ELF_AARCH64)
            .dir("/share")
            .dir("/local")
            .file("/lib/os-release", "ID=fedora\nVERSION_ID=20\nPRETTY_NAME=\"Fedora 20\"\n")
    };
    let candidates = [
        with_uuid(ext4("/dev/sda1", root), "root"),
        with_uuid(ext4("/dev/sda2", usr()), "usr"),
        ext4("/dev/sda3", usr()),
    ];
    let system = one(&candidates);
    assert_eq!(system.osinfo, "fedora20");
    assert_eq!(system.arch.as_ref().unwrap().value, "aarch64");
    assert_eq!(mountpoints(&system), pairs(&[("/", "/dev/sda1"), ("/usr", "/dev/sda2")]));
}

#[test]
fn discoverable_partitions_stand_in_for_a_missing_fstab() {
    let root = TreeFs::new().dir("/etc").dir("/usr").dir("/efi").dir("/boot").dir("/home").dir("/var");
    let usr = TreeFs::new()
        .file("/bin/bash", ELF_X86_64)
        .file("/lib/os-release", "ID=fedora\nVERSION_ID=40\nPRETTY_NAME=x\nIMAGE_VERSION=7\n")
        .link("/lib/systemd/systemd", "x");
    let esp = TreeFs::new().file("/loader/loader.conf", "timeout 3\n").file("/EFI/Linux/linux-7.efi", "MZuki");
    let boot = TreeFs::new().dir("/loader/entries");
    let system = one(&[
        with_type(ext4("/dev/sda4", root), ROOT_X86_64),
        with_type(ext4("/dev/sda3", usr), USR_X86_64),
        with_type(candidate("/dev/sda1", Some(esp.arc()), FsKind::Vfat), ESP),
        with_type(ext4("/dev/sda2", boot), XBOOTLDR),
        with_type(candidate("/dev/sda5", None, FsKind::Swap), SWAP),
        with_type(ext4("/dev/sda6", TreeFs::new().dir("/user")), HOME),
        with_type(ext4("/dev/sdb1", TreeFs::new()), HOME),
    ]);
    let expected = [
        ("/", "/dev/sda4"),
        ("/boot", "/dev/sda2"),
        ("/efi", "/dev/sda1"),
        ("/home", "/dev/sda6"),
        ("/usr", "/dev/sda3"),
    ];
    assert_eq!(mountpoints(&system), pairs(&expected));
    assert_eq!(system.filesystems.last().unwrap().fs_type, "swap");
    assert_eq!(system.osinfo, "fedora40");
    assert_eq!(system.build_id.as_ref().unwrap().value, "7");
    assert_eq!(system.bootloaders[0].kind, BootloaderKind::SystemdBoot);
    assert_eq!((system.kernels[0].kind, system.kernels[0].version.as_str()), (KernelKind::Uki, "linux-7"));
    assert!(system.guest().is_dir("/home/user").unwrap());
}

#[test]
fn an_fstab_that_mounts_the_root_turns_discovery_off() {
    let root = base().file("/etc/fstab", "LABEL=root / ext4 defaults\n").dir("/home");
    let root = with_type(with_label(ext4("/dev/sda1", root), "root"), ROOT_X86_64);
    let home = with_type(ext4("/dev/sda2", TreeFs::new()), HOME);
    assert_eq!(mountpoints(&one(&[root, home])), pairs(&[("/", "/dev/sda1")]));
}

#[test]
fn mount_units_are_read_beside_fstab() {
    let unit = "[Mount]\nWhat=/dev/disk/by-label/data\nWhere=/srv\nType=ext4\n";
    let root = base().file("/etc/systemd/system/srv.mount", unit).dir("/srv");
    let data = with_label(ext4("/dev/sdb", TreeFs::new().file("/x", "")), "data");
    assert_eq!(mountpoints(&one(&[ext4("/dev/sda1", root), data])), pairs(&[("/", "/dev/sda1"), ("/srv", "/dev/sdb")]));
}

/// Fedora CoreOS: the systems are directories; /boot names the one that boots.
#[test]
fn an_ostree_deployment_is_the_root() {
    let (old, new) = ("/ostree/deploy/fedora-coreos/deploy/aaa.0", "/ostree/deploy/fedora-coreos/deploy/bbb.0");
    let deployment = |tree: TreeFs, at: &str, version: &str| {
        tree.file(
            &format!("{at}/usr/lib/os-release"),
            format!("ID=fedora\nVERSION_ID={version}\nVARIANT_ID=coreos\nPRETTY_NAME=\"Fedora CoreOS {version}\"\n"),
        )
        .link(&format!("{at}/etc/os-release"), "../usr/lib/os-release")
        .file(&format!("{at}/usr/bin/bash"), ELF_X86_64)
        .link(&format!("{at}/bin"), "usr/bin")
        .dir(&format!("{at}/sysroot"))
        .dir(&format!("{at}/boot"))
        .dir(&format!("{at}/var"))
        .file(&format!("{at}/etc/hostname"), "core\n")
        .link(&format!("{at}/ostree"), "sysroot/ostree")
    };
    let tree = deployment(TreeFs::new(), new, "39");
    // The older release was deployed last: what boots is the boot entry's word.
    let tree = deployment(tree, old, "38")
        .file(&format!("{new}.origin"), "")
        .link("/ostree/boot.1/fedora-coreos/c0ffee/0", "../../../deploy/fedora-coreos/deploy/bbb.0")
        .file("/ostree/deploy/fedora-coreos/var/lib/thing", "state");
    let entry = |version, path| {
        format!("title x\nversion {version}\noptions rw ostree={path}\nlinux /ostree/k/vmlinuz-6.6.13\n")
    };
    let boot = TreeFs::new()
        .link("/loader", "loader.1")
        .file("/loader.1/entries/ostree-1.conf", entry("1", "/ostree/boot.1/fedora-coreos/gone/0"))
        .file("/loader.1/entries/ostree-2.conf", entry("2", "/ostree/boot.1/fedora-coreos/c0ffee/0"))
        .file("/ostree/k/vmlinuz-6.6.13", "kernel");
    let system = one(&[with_label(ext4("/dev/sda3", boot), "boot"), with_label(ext4("/dev/sda4", tree), "root")]);
    assert_eq!(system.root, "/dev/sda4");
    assert_eq!(system.osinfo, "fedora39");
    assert_eq!(system.product_variant.as_ref().unwrap().value, "coreos");
    assert_eq!(system.hostname.as_ref().unwrap().value, "core");
    assert_eq!(mountpoints(&system), pairs(&[("/", "/dev/sda4"), ("/boot", "/dev/sda3")]));
    assert!(system.guest().is_file("/var/lib/thing").unwrap());
    assert!(system.guest().is_dir("/ostree/deploy").unwrap());
    assert_eq!(system.kernel_command_line.as_ref().unwrap().value, "rw ostree=/ostree/boot.1/fedora-coreos/c0ffee/0");

    // Without boot entries the newest deployment counts.
    let tree = deployment(deployment(TreeFs::new(), new, "39"), old, "38");
    assert_eq!(only(tree).osinfo, "fedora38");
}

#[test]
fn container_linux_boots_its_newest_usr() {
    let usr = |version: &str| {
        TreeFs::new().dir("/share/coreos").dir("/local").file("/bin/bash", ELF_X86_64).file(
            "/lib/os-release",
            format!("ID=coreos\nVERSION_ID={version}\nPRETTY_NAME=\"Container Linux {version}\"\n"),
        )
    };
    let root = TreeFs::new().dir("/root").dir("/home").dir("/usr").file("/etc/coreos/update.conf", "GROUP=stable\n");
    let system =
        one(&[ext4("/dev/sda3", usr("1911.4.0")), ext4("/dev/sda4", usr("2247.5.0")), ext4("/dev/sda9", root)]);
    assert_eq!(mountpoints(&system), pairs(&[("/", "/dev/sda9"), ("/usr", "/dev/sda4")]));
    assert_eq!(system.distro.as_ref().unwrap().value, "coreos");
    assert_eq!((system.major_version(), system.minor_version()), (2247, 5));
}

#[test]
fn nixos_is_read_from_its_profile_before_its_first_boot() {
    let store = "/nix/store/abc-nixos-system";
    let tree = TreeFs::new()
        .link("/nix/var/nix/profiles/system", "system-1-link")
        .link("/nix/var/nix/profiles/system-1-link", store)
        .link(&format!("{store}/etc"), "/nix/store/def-etc/etc")
        .link(&format!("{store}/kernel"), "/nix/store/ghi-linux/bzImage")
        .link(&format!("{store}/initrd"), "/nix/store/jkl-initrd/initrd")
        .file("/nix/store/ghi-linux/bzImage", "kernel")
        .file("/nix/store/jkl-initrd/initrd", "initrd")
        .dir(&format!("{store}/kernel-modules/lib/modules/6.1.77"))
        .file(&format!("{store}/sw/bin/bash"), ELF_X86_64)
        .dir(&format!("{store}/systemd"))
        .file(
            "/nix/store/def-etc/etc/os-release",
            "ID=nixos\nVERSION_ID=\"23.05\"\nPRETTY_NAME=\"NixOS 23.05 (Stoat)\"\n",
        )
        .file("/nix/store/def-etc/etc/hostname", "nix\n")
        .file("/nix/store/def-etc/etc/fstab", "/dev/disk/by-label/nixos / ext4 x-initrd.mount 0 1\n")
        .link(
            "/nix/store/def-etc/etc/systemd/system/multi-user.target.wants/sshd.service",
            "/nix/store/x/sshd.service",
        );
    let system = one(&[with_label(ext4("/dev/vda1", tree), "nixos")]);
    assert_eq!(system.osinfo, "nixos-23.05");
    assert_eq!(system.hostname.as_ref().unwrap().value, "nix");
    assert_eq!(system.hostname.as_ref().unwrap().source, "/nix/var/nix/profiles/system/etc/hostname");
    assert_eq!(system.arch.as_ref().unwrap().value, "x86_64");
    assert_eq!(system.init_system.as_ref().unwrap().value, InitSystem::Systemd);
    assert_eq!(system.services[0].name, "sshd.service");
    assert_eq!(system.kernels[0].version, "6.1.77");
    assert_eq!(system.package_format.as_deref(), Some("nix"));
    assert_eq!(system.notes, [""; 0]);
}

#[test]
fn fedora_boots_the_saved_entry_of_the_boot_loader_specification() {
    let entry = |version: &str| {
        format!(
            "title Fedora Linux ({version})\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img $tuned_initrd\n\
             options $kernelopts quiet\ngrub_users $grub_users\n"
        )
    };
    let boot = TreeFs::new()
        .file("/grub2/grub.cfg", "insmod blscfg\nblscfg\n")
        .file(
            "/grub2/grubenv",
            "# GRUB Environment Block\nsaved_entry=f00-6.5.5-300.fc39.x86_64\nkernelopts=root=UUID=1 ro\n####",
        )
        .file("/loader/entries/f00-6.5.5-300.fc39.x86_64.conf", entry("6.5.5-300.fc39.x86_64"))
        .file("/loader/entries/f00-6.5.6-300.fc39.x86_64.conf", entry("6.5.6-300.fc39.x86_64"))
        .file("/loader/entries/f00-0-rescue.conf", entry("0-rescue-f00"))
        .file("/vmlinuz-6.5.5-300.fc39.x86_64", "a")
        .file("/vmlinuz-6.5.6-300.fc39.x86_64", "b")
        .file("/vmlinuz-0-rescue-f00", "c")
        .file("/.vmlinuz-6.5.6-300.fc39.x86_64.hmac", "")
        .file("/initramfs-6.5.5-300.fc39.x86_64.img", "");
    let root = base().file("/etc/fstab", "UUID=1 / ext4 defaults\nUUID=2 /boot ext4 defaults\n").dir("/boot");
    let system = one(&[with_uuid(ext4("/dev/sda3", root), "1"), with_uuid(ext4("/dev/sda2", boot), "2")]);
    let kernels: Vec<_> = system.kernels.iter().map(|kernel| (kernel.version.as_str(), kernel.default)).collect();
    assert_eq!(kernels, [("0-rescue-f00", false), ("6.5.5-300.fc39.x86_64", true), ("6.5.6-300.fc39.x86_64", false)]);
    assert_eq!(system.kernels[1].initrd.as_deref(), Some("/boot/initramfs-6.5.5-300.fc39.x86_64.img"));
    assert_eq!(system.kernel_command_line.as_ref().unwrap().value, "root=UUID=1 ro quiet");
}

#[test]
fn an_unnumbered_kernel_tells_its_version_itself() {
    let mut image = vec![0; 0x300];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x80u16.to_le_bytes());
    image[0x280..0x280 + 23].copy_from_slice(b"6.6.31-0-virt (builder)");
    let tree = base()
        .file("/boot/vmlinuz-virt", image)
        .file("/boot/initramfs-virt", "")
        .dir("/lib/modules/6.6.31-0-virt")
        .file(
            "/boot/extlinux.conf",
            "DEFAULT virt\nLABEL virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n  APPEND root=UUID=1 quiet\n",
        );
    let system = only(tree);
    let kernel = &system.kernels[0];
    assert_eq!((kernel.version.as_str(), kernel.default), ("6.6.31-0-virt", true));
    assert_eq!(kernel.initrd.as_deref(), Some("/boot/initramfs-virt"));
    assert_eq!(kernel.modules.as_deref(), Some("/lib/modules/6.6.31-0-virt"));
    assert_eq!(system.bootloaders[0].kind, BootloaderKind::Extlinux);
    assert_eq!(system.kernel_command_line.as_ref().unwrap().value, "root=UUID=1 quiet");
    assert_eq!(system.firmware[0].value, Firmware::Bios);
}

#[test]
fn partitions_tell_the_firmware_when_no_boot_loader_does() {
    let firmware = |types: &[&str]| {
        let mut candidates = vec![ext4("/dev/vg/root", base())];
        for (number, partition_type) in types.iter().enumerate() {
            let name = format!("/dev/sda{number}");
            candidates.push(with_type(candidate(&name, None, FsKind::Unknown), partition_type));
        }
        one(&candidates).firmware.iter().map(|firmware| firmware.value).collect::<Vec<_>>()
    };
    assert_eq!(firmware(&["0x8e"]), [Firmware::Bios]);
    assert_eq!(firmware(&["0x8e", "0xef"]), [Firmware::Uefi]);
    assert_eq!(firmware(&[ESP]), [Firmware::Uefi]);
    assert_eq!(firmware(&[ESP, "21686148-6449-6e6f-744e-656564454649"]), [Firmware::Bios, Firmware::Uefi]);
    assert_eq!(firmware(&[]), []);
}

#[test]
fn each_init_system_tells_what_it_starts() {
    let cases: [(TreeFs, InitSystem, &[&str]); 6] = [
        (
            base()
                .link("/sbin/init", "/bin/busybox")
                .link("/etc/runlevels/default/sshd", "/etc/init.d/sshd")
                .dir("/etc/runlevels/boot"),
            InitSystem::OpenRc,
            &["sshd"],
        ),
        (
            base().link("/sbin/init", "runit-init").link("/etc/runit/runsvdir/default/dhcpcd", "/etc/sv/dhcpcd"),
            InitSystem::Runit,
            &["dhcpcd"],
        ),
        (
            base()
                .file("/etc/inittab", "")
                .link("/etc/rc.d/rc3.d/S55sshd", "../init.d/sshd")
                .link("/etc/rc.d/rc3.d/K01smb", "x"),
            InitSystem::Sysvinit,
            &["sshd"],
        ),
        (
            base().file("/sbin/initctl", "").file("/etc/init/ssh.conf", "start on x").link("/etc/rc2.d/S20rsync", "x"),
            InitSystem::Upstart,
            &["rsync", "ssh"],
        ),
        (
            base().link("/sbin/init", "../bin/busybox").file("/etc/init.d/S50sshd", "").file("/etc/init.d/rcS", ""),
            InitSystem::Busybox,
            &["sshd"],
        ),
        (base().link("/sbin/init", "/lib/systemd/systemd"), InitSystem::Systemd, &[]),
    ];
    for (tree, init, services) in cases {
        let system = only(tree);
        assert_eq!(system.init_system.as_ref().unwrap().value, init);
        let names: Vec<_> = system.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, services, "{init:?}");
    }
}

#[test]
fn a_host_name_is_found_wherever_it_is_kept() {
    for (files, expected) in [
        (&[("/etc/hostname", "# comment\n\n web1 \n")][..], Some("web1")),
        (&[("/etc/HOSTNAME", "suse.example\n"), ("/etc/hostname", "other\n")], Some("suse.example")),
        (&[("/etc/sysconfig/network", "NETWORKING=yes\nHOSTNAME=old.example\n")], Some("old.example")),
        (&[("/etc/conf.d/hostname", "hostname=\"gentoo\"\n")], Some("gentoo")),
        (&[("/etc/hostname", "\n")], None),
    ] {
        let system = only(files.iter().fold(base(), |tree, (path, text)| tree.file(path, text)));
        assert_eq!(system.hostname.map(|name| name.value).as_deref(), expected);
    }
}

#[test]
fn the_machine_identifier_has_six_states() {
    for (tree, expected) in [
        (base(), MachineId::Missing),
        (base().file("/etc/machine-id", ""), MachineId::Empty),
        (base().file("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"), MachineId::Set),
        (base().link("/etc/machine-id", "/var/lib/dbus/machine-id"), MachineId::Symlink),
        (base().link("/etc/machine-id", "machine-id"), MachineId::Symlink),
        (base().fifo("/etc/machine-id"), MachineId::Invalid),
    ] {
        assert_eq!(only(tree).machine_id.value, expected);
    }
}

#[test]
fn broken_files_are_notes_and_the_rest_is_still_told() {
    let tree = base()
        .sparse("/etc/os-release", 2 << 30)
        .file("/usr/lib/os-release", "ID=debian\nPRETTY_NAME=Debian\nVERSION_ID=12.1\n")
        .broken("/etc/hostname")
        .broken("/bin/bash")
        .link("/etc/localtime", "localtime")
        .fifo("/etc/passwd")
        .link("/etc/ssh", "/etc/ssh")
        .file("/etc/group", "root:x:0:\n");
    let system = only(tree);
    assert_eq!(system.osinfo, "debian12");
    assert_eq!(system.hostname, None);
    assert_eq!(system.users, None);
    assert_eq!(system.groups.unwrap().value.len(), 1);
    assert_eq!(system.arch.unwrap().source, "/bin/sh");
    assert_eq!(system.notes.len(), 3, "{:?}", system.notes);
    assert!(system.notes[0].starts_with("/etc/os-release: bytes of an inspected file is limited to"));
    assert_eq!(system.notes[1], "/bin/bash: corrupt tree: extent at byte 0x7: found overlap, expected no overlap");
    assert!(system.notes[2].starts_with("/etc/hostname: corrupt tree"));
}

#[test]
fn trouble_of_the_host_is_an_error() {
    let error = inspect(&[ext4("/dev/sda1", base().unreadable("/etc/hostname"))]).unwrap_err();
    assert_eq!(error.exit_code(), 1);
}

/// A directory of many entries.
fn deep(tree: TreeFs) -> TreeFs {
    (0..30_000).fold(tree, |tree, number| tree.file(&format!("/etc/deep/{number}"), ""))
}

/// `/maze`, and `/etc` and `/boot` behind it: links whose targets go round in circles as far as the rules allow.
fn maze(tree: TreeFs) -> TreeFs {
    let round = "x/../".repeat(800);
    let tree = (0..38)
        .fold(tree.dir("/x"), |tree, number| tree.link(&format!("/m{number}"), &format!("/{round}m{}", number + 1)));
    tree.dir("/m38").link("/maze", "/m0")
}

#[test]
fn one_filesystem_named_by_many_partitions_is_inspected_within_one_budget() {
    let passwd: String = (0..60_000).map(|n| format!("u{n}:x:{n}:{n}:::\n")).collect();
    let fs =
        base().file("/etc/passwd", passwd).file("/etc/os-release", "ID=debian\nPRETTY_NAME=x\nVERSION_ID=12.1\n").arc();
    let candidates: Vec<_> =
        (1..=128).map(|number| candidate(&format!("/dev/sda{number}"), Some(fs.clone()), FsKind::Ext4)).collect();
    let start = Instant::now();
    let systems = inspect(&candidates).unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let listed: usize = systems.iter().filter_map(|system| system.users.as_ref()).map(|users| users.value.len()).sum();
    assert!(listed <= 262_144, "{listed} users");
    assert!(systems.iter().any(|system| system.notes.iter().any(|note| note.contains("is limited to"))));
    assert_eq!(systems[0].users.as_ref().unwrap().value.len(), 60_000);
}

#[test]
fn swollen_files_are_cut_in_time() {
    let wide = (0..70_000).fold(base(), |tree, number| tree.file(&format!("/etc/netplan/{number}.yaml"), ""));
    let cases = [
        base().file("/etc/fstab", "/dev/sda1 /a ext4\n".repeat(220_000)),
        base().file("/etc/fstab", (0..200_000).map(|n| format!("/dev/sda1 /{n} x\n")).collect::<String>()),
        base().file(
            "/etc/fstab",
            (0..70_000).map(|n| format!("UUID={n} /very/long/{n} ext4 defaults\n")).collect::<String>(),
        ),
        base().file("/etc/passwd", "a:x:0:0:::\n".repeat(380_000)),
        base().file("/etc/group", format!("g:x:0:{}\n", "a,".repeat(2_000_000))),
        base().file("/etc/os-release", (0..400_000).map(|n| format!("K{n}=v\n")).collect::<String>()),
        base().file("/boot/grub/grub.cfg", "menuentry x {\n".repeat(280_000)),
        base().file("/boot/grub/grub.cfg", "submenu x {\nmenuentry y {\n}\n".repeat(100_000)),
        base().file("/etc/crypttab", "a b\n".repeat(1_000_000)),
        wide,
        // Run levels that are links to one long directory, and services behind long paths.
        (0..1_000).fold(deep(base()), |tree, number| tree.link(&format!("/etc/runlevels/{number}"), "/etc/deep")),
        (0..20_000)
            .fold(maze(base()), |tree, number| tree.link(&format!("/etc/systemd/system/{number}.service"), "/maze")),
        (0..200).fold(maze(base()), |tree, number| tree.link(&format!("/boot/vmlinuz-{number}"), "/maze")),
        base()
            .file("/etc/fstab", (0..4_000).map(|n| format!("/dev/sda1 /maze/{n} x\n")).collect::<String>())
            .link("/maze", "/a"),
    ];
    for (number, tree) in cases.into_iter().enumerate() {
        let start = Instant::now();
        let system = only(tree);
        assert!(start.elapsed() < Duration::from_secs(2), "case {number} took {:?}", start.elapsed());
        assert!(system.notes.len() <= 101, "case {number}");
        assert!(serde_json::to_string(&system).unwrap().len() < 64 << 20, "case {number}");
    }
}
