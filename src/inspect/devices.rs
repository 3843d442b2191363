//! From what fstab calls a device to the candidate it is.
//!
//! | spelling | found by |
//! |---|---|
//! | `UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=` and `/dev/disk/by-{uuid,label,partuuid,partlabel}/` | the candidate's own |
//! | `/dev/VG/LV`, `/dev/mapper/VG-LV` (a `-` in a name is doubled), `/dev/disk/by-id/dm-name-VG-LV` | the mountable, the aliases |
//! | `/dev/{h,s,v,xv}da1`, `/dev/nvme0n1p1`, `/dev/mmcblk0p1` | disk and partition number: the guest's n-th disk is ours |
//! | `/dev/disk/by-{id,path}/…-part1` | the partition number, when there is one disk |
//! | `/dev/root` | the root |

use std::collections::{BTreeSet, HashMap};

use super::candidate::Candidate;

/// The candidates by all their names; see the [module head](self).
#[derive(Debug)]
pub(super) struct Devices<'a> {
    candidates: &'a [Candidate],
    /// By mountable, alias, and tag: `UUID=…` in lower case, `LABEL=…`.
    names: HashMap<String, usize>,
    /// The one disk of the guest; `None` when there are several.
    only_disk: Option<&'a str>,
}

impl<'a> Devices<'a> {
    pub(super) fn new(candidates: &'a [Candidate]) -> Self {
        let mut names = HashMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let tag = |name: &str, value: &Option<String>| value.as_ref().map(|value| tag(name, value));
            let tags = [
                tag("UUID", &candidate.identity.uuid),
                tag("LABEL", &candidate.identity.label),
                tag("PARTUUID", &candidate.partuuid),
                tag("PARTLABEL", &candidate.partlabel),
            ];
            let plain = std::iter::once(&candidate.mountable).chain(&candidate.aliases).cloned();
            for name in plain.chain(tags.into_iter().flatten()) {
                names.entry(name).or_insert(index);
            }
        }
        let disks: BTreeSet<&str> = candidates.iter().filter_map(Candidate::disk).collect();
        let only_disk = disks.first().copied().filter(|_| disks.len() == 1);
        Self { candidates, names, only_disk }
    }

    pub(super) fn candidates(&self) -> &'a [Candidate] {
        self.candidates
    }

    /// The candidates on the disk that `root` lies on; all of them when it lies on none (a logical volume).
    pub(super) fn neighbours(&self, root: &Candidate) -> Vec<&'a Candidate> {
        let is_near = |candidate: &&Candidate| root.disk().is_none() || candidate.disk() == root.disk();
        self.candidates.iter().filter(is_near).collect()
    }

    /// The candidate that `spec` names.
    pub(super) fn find(&self, spec: &str, root: &'a Candidate) -> Option<&'a Candidate> {
        if spec == "/dev/root" {
            return Some(root);
        }
        if let Some((name, value)) = spec.split_once('=').filter(|_| !spec.starts_with('/')) {
            return self.named(&tag(name, value));
        }
        if let Some((by, name)) = spec.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/')) {
            return self.named(spec).or_else(|| self.udev_link(by, name));
        }
        let mapper = || self.named(&mapper_path(spec.strip_prefix("/dev/mapper/")?)?);
        let guessed = || {
            let (disk, partition) = disk_and_partition(spec.strip_prefix("/dev/")?)?;
            self.named(&format!("/dev/sd{}{partition}", drive_letters(disk)))
        };
        self.named(spec).or_else(mapper).or_else(guessed)
    }

    fn named(&self, name: &str) -> Option<&'a Candidate> {
        self.candidates.get(*self.names.get(name)?)
    }

    fn udev_link(&self, by: &str, name: &str) -> Option<&'a Candidate> {
        match by {
            "uuid" | "label" | "partuuid" | "partlabel" => self.named(&tag(&by.to_ascii_uppercase(), &udev_text(name))),
            "id" | "path" => {
                if let Some(name) = name.strip_prefix("dm-name-") {
                    return self.named(&mapper_path(name)?);
                }
                let disk = self.only_disk?;
                let partition = name.rsplit_once("-part").map_or("", |(_, number)| number);
                let separator =
                    if disk.ends_with(|c: char| c.is_ascii_digit()) && !partition.is_empty() { "p" } else { "" };
                self.named(&format!("{disk}{separator}{partition}"))
            }
            _ => None,
        }
    }
}

/// A tag as it is looked up: identifiers in any case, labels in theirs.
fn tag(name: &str, value: &str) -> String {
    if name.ends_with("UUID") { format!("{name}={}", value.to_ascii_lowercase()) } else { format!("{name}={value}") }
}

/// `VG-LV` of the device mapper as `/dev/VG/LV`: `--` is a hyphen, `-` the border.
fn mapper_path(name: &str) -> Option<String> {
    // A NUL cannot be in a name, so it can hold the place of the doubled hyphens.
    let name = name.replace("--", "\0");
    let (group, volume) = name.split_once('-')?;
    Some(format!("/dev/{group}/{volume}").replace('\0', "-"))
}

/// The disk's number and the partition's digits of a name below `/dev` that names disks in order.
fn disk_and_partition(name: &str) -> Option<(usize, &str)> {
    if let Some(rest) = name.strip_prefix("nvme") {
        let (controller, rest) = digits(rest)?;
        let (namespace, rest) = digits(rest.strip_prefix('n')?)?;
        return Some((controller.checked_add(namespace)?.checked_sub(1)?, partition_digits(rest)?));
    }
    if let Some(rest) = name.strip_prefix("mmcblk") {
        let (disk, rest) = digits(rest)?;
        return Some((disk, partition_digits(rest)?));
    }
    let rest = ["xvd", "hd", "sd", "vd"].iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let letters = rest.trim_end_matches(|c: char| c.is_ascii_digit());
    if letters.is_empty() || letters.len() > 4 || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let number = letters.bytes().try_fold(0usize, |number, letter| {
        let digit = usize::from(letter.checked_sub(b'a')?).checked_add(1)?;
        number.checked_mul(26)?.checked_add(digit)
    })?;
    Some((number.checked_sub(1)?, rest.get(letters.len()..)?))
}

fn digits(text: &str) -> Option<(usize, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

fn partition_digits(rest: &str) -> Option<&str> {
    let number = if rest.is_empty() { rest } else { rest.strip_prefix('p')? };
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(number)
}

/// The letters of the n-th SCSI disk: a to z, aa …
fn drive_letters(disk: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = Some(disk);
    while let Some(number) = rest {
        letters.push(char::from(b'a'.saturating_add(u8::try_from(number % 26).unwrap_or(0))));
        rest = (number / 26).checked_sub(1);
    }
    letters.iter().rev().collect()
}

/// udev's `\x20` escapes undone.
fn udev_text(name: &str) -> String {
    let mut parts = name.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(2..).unwrap_or_default().as_bytes());
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{FsKind, Identity};

    fn candidate(mountable: &str, label: &str, uuid: &str) -> Candidate {
        let identity = Identity { kind: FsKind::Ext4, label: Some(label.to_owned()), uuid: Some(uuid.to_owned()) };
        Candidate::new(mountable, None, identity)
    }

    #[test]
    fn every_spelling_finds_its_device() {
        let mut candidates = vec![
            candidate("/dev/sda1", "boot", "1111-AAAA"),
            candidate("/dev/sda12", "my root", "6f3c"),
            candidate("/dev/my-vg/root-lv", "", "77"),
        ];
        candidates[0].partuuid = Some("0badcafe-01".to_owned());
        candidates[0].partlabel = Some("EFI System".to_owned());
        candidates[2].aliases = vec!["/dev/dm-0".to_owned()];
        let devices = Devices::new(&candidates);
        for (spec, expected) in [
            ("UUID=1111-aaaa", Some("/dev/sda1")),
            ("LABEL=my root", Some("/dev/sda12")),
            ("LABEL=MY ROOT", None),
            ("PARTUUID=0BADCAFE-01", Some("/dev/sda1")),
            ("PARTLABEL=EFI System", Some("/dev/sda1")),
            ("/dev/disk/by-uuid/6f3c", Some("/dev/sda12")),
            ("/dev/disk/by-label/my\\x20root", Some("/dev/sda12")),
            ("/dev/disk/by-partlabel/EFI\\x20System", Some("/dev/sda1")),
            ("/dev/disk/by-id/ata-DISK_1234-part12", Some("/dev/sda12")),
            ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1", Some("/dev/sda1")),
            ("/dev/disk/by-id/dm-name-my--vg-root--lv", Some("/dev/my-vg/root-lv")),
            ("/dev/my-vg/root-lv", Some("/dev/my-vg/root-lv")),
            ("/dev/mapper/my--vg-root--lv", Some("/dev/my-vg/root-lv")),
            ("/dev/mapper/luks-1234", None),
            ("/dev/dm-0", Some("/dev/my-vg/root-lv")),
            ("/dev/hda1", Some("/dev/sda1")),
            ("/dev/vda12", Some("/dev/sda12")),
            ("/dev/xvda1", Some("/dev/sda1")),
            ("/dev/nvme0n1p12", Some("/dev/sda12")),
            ("/dev/mmcblk0p1", Some("/dev/sda1")),
            ("/dev/nvme1n1p1", None),
            ("/dev/vdb1", None),
            ("/dev/root", Some("/dev/sda12")),
        ] {
            let found = devices.find(spec, &candidates[1]).map(|candidate| candidate.mountable.as_str());
            assert_eq!(found, expected, "{spec}");
        }
    }

    #[test]
    fn disks_are_lettered_as_the_kernel_does() {
        for (number, letters) in [(0, "a"), (25, "z"), (26, "aa"), (701, "zz"), (702, "aaa")] {
            assert_eq!(drive_letters(number), letters);
            assert_eq!(disk_and_partition(&format!("vd{letters}7")), Some((number, "7")));
        }
        assert_eq!(disk_and_partition("sd"), None);
        assert_eq!(disk_and_partition("sdaaaaa"), None);
        assert_eq!(disk_and_partition("nvme0n1p1x"), None);
    }
}
