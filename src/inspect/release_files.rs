//! Who a guest is: os-release first, then lsb-release, then each distribution's own release file.
//!
//! The order and the words are libguestfs's, with two differences. The product name stays that of os-release where there
//! is one (libguestfs shows Debian's as "12.5"). A release file of the same distribution refines the version when
//! `VERSION_ID` has no minor number (Debian's `12` to 12.5, CentOS's `7` to 7.9) whatever the distribution.

use std::collections::BTreeMap;

use super::reader::{Reader, Sourced, first_line};
use super::version::Version;
use super::{assignments, distro, os_release};
use crate::error::Result;

/// What a guest says of itself.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) distro: Option<Sourced<String>>,
    pub(super) like: Vec<String>,
    pub(super) product_name: Option<Sourced<String>>,
    pub(super) product_variant: Option<Sourced<String>>,
    pub(super) version: Option<Sourced<Version>>,
    pub(super) codename: Option<Sourced<String>>,
    pub(super) build_id: Option<Sourced<String>>,
    pub(super) os_release: Option<Sourced<BTreeMap<String, String>>>,
}

/// A release file whose first line names the product: the file, the words it must begin or go on with, the distribution.
/// The first match wins. A file that is empty or needs nothing in it (arch-release) has no words.
const RELEASE_FILES: [(&str, &str, &str); 39] = [
    ("/etc/openmandriva-release", "OpenMandriva", "openmandriva"),
    ("/etc/mageia-release", "Mageia", "mageia"),
    ("/etc/mandriva-release", "Mandriva", "mandriva"),
    ("/etc/oracle-release", "Oracle Linux", "oraclelinux"),
    ("/etc/centos-release", "CentOS", "centos"),
    ("/etc/rocky-release", "Rocky Linux", "rocky"),
    ("/etc/almalinux-release", "AlmaLinux", "almalinux"),
    ("/etc/altlinux-release", "", "altlinux"),
    ("/etc/fedora-release", "Fedora", "fedora"),
    ("/etc/photon-release", "Photon", "photon"),
    ("/etc/redhat-release", "Fedora", "fedora"),
    ("/etc/redhat-release", "Red Hat", "rhel"),
    ("/etc/redhat-release", "CentOS", "centos"),
    ("/etc/redhat-release", "Rocky Linux", "rocky"),
    ("/etc/redhat-release", "AlmaLinux", "almalinux"),
    ("/etc/redhat-release", "Oracle Linux", "oraclelinux"),
    ("/etc/redhat-release", "Scientific Linux", "scientificlinux"),
    ("/etc/redhat-release", "", "redhat-based"),
    ("/etc/system-release", "Amazon Linux", "amzn"),
    ("/etc/debian_version", "", "debian"),
    ("/etc/pardus-release", "", "pardus"),
    ("/etc/gentoo-release", "", "gentoo"),
    ("/etc/meego-release", "", "meego"),
    ("/etc/slackware-version", "", "slackware"),
    ("/etc/ttylinux-target", "", "ttylinux"),
    ("/etc/SuSE-release", "SUSE Linux Enterprise", "sles"),
    ("/etc/SuSE-release", "SUSE LINUX Enterprise", "sles"),
    ("/etc/SuSE-release", "Novell Linux Desktop", "sles"),
    ("/etc/SuSE-release", "openSUSE", "opensuse"),
    ("/etc/SuSE-release", "SuSE Linux", "opensuse"),
    ("/etc/SuSE-release", "SUSE LINUX", "opensuse"),
    ("/etc/SuSE-release", "", "suse-based"),
    ("/etc/cirros/version", "", "cirros"),
    ("/etc/br-version", "", "buildroot"),
    ("/etc/alpine-release", "", "alpinelinux"),
    ("/etc/frugalware-release", "Frugalware", "frugalware"),
    ("/etc/pld-release", "PLD Linux", "pldlinux"),
    ("/etc/nixos-version", "", "nixos"),
    ("/etc/issue", "Poky", "poky"),
];

/// Files that mark a distribution and say no more.
const MARKS: [(&str, &str); 4] = [
    ("/etc/arch-release", "archlinux"),
    ("/etc/NIXOS", "nixos"),
    ("/etc/coreos/update.conf", "coreos"),
    ("/etc/flatcar/update.conf", "flatcar"),
];

/// Reads all of them.
pub(super) fn identify(reader: &Reader<'_>) -> Result<Identity> {
    let mut identity = Identity::default();
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(text) = reader.text(path)?
            && from_os_release(text, &mut identity)
        {
            break;
        }
    }
    let needs_more = |identity: &Identity| identity.distro.is_none() || identity.product_name.is_none();
    if needs_more(&identity)
        && let Some(text) = reader.text("/etc/lsb-release")?
    {
        from_lsb_release(&text, &mut identity);
    }
    let is_coarse = |version: &Sourced<Version>| version.value.minor == 0 && !version.value.text.contains('.');
    if needs_more(&identity) || identity.version.as_ref().is_none_or(is_coarse) {
        from_release_files(reader, &mut identity)?;
    }
    if identity.distro.is_none() {
        for (path, word) in MARKS {
            if reader.is_file(path)? {
                identity.distro = Some(Sourced::new(word.to_owned(), path));
                break;
            }
        }
    }
    Ok(identity)
}

/// Takes over what an os-release file says; whether it named a distribution.
fn from_os_release(text: Sourced<String>, identity: &mut Identity) -> bool {
    let Sourced { value: text, source } = text;
    let release = os_release::parse(&text);
    let Some(id) = release.id else { return false };
    let sourced = |value: Option<String>| value.map(|value| Sourced::new(value, &source));
    *identity = Identity {
        distro: Some(Sourced::new(distro::word(&id), &source)),
        like: release.id_like,
        product_name: sourced(release.product_name),
        product_variant: sourced(release.variant),
        version: release.version.map(|version| Sourced::new(version, &source)),
        codename: sourced(release.codename),
        build_id: sourced(release.build_id),
        os_release: Some(Sourced::new(release.fields, &source)),
    };
    true
}

fn from_lsb_release(text: &Sourced<String>, identity: &mut Identity) {
    let find = |key| assignments::find(&text.value, key).map(|value| Sourced::new(value, &text.source));
    let known = |id: &str| {
        Some(match id {
            "CoreOS" => "coreos",
            "LinuxMint" => "linuxmint",
            "Mageia" => "mageia",
            "MandrivaLinux" => "mandriva",
            "Ubuntu" => "ubuntu",
            _ => return None,
        })
    };
    let Some(distro) = find("DISTRIB_ID").and_then(|id| id.filter_map(|id| known(&id))) else { return };
    identity.distro.get_or_insert(Sourced::new(distro.value.to_owned(), distro.source));
    identity.product_name = identity.product_name.take().or_else(|| find("DISTRIB_DESCRIPTION"));
    identity.codename = identity.codename.take().or_else(|| find("DISTRIB_CODENAME"));
    if identity.version.is_none() {
        identity.version = find("DISTRIB_RELEASE").and_then(|text| text.filter_map(|text| Version::find(&text)));
    }
}

fn from_release_files(reader: &Reader<'_>, identity: &mut Identity) -> Result<()> {
    let known = identity.distro.as_ref().map(|distro| distro.value.clone());
    let mut last: Option<(&str, Option<Sourced<String>>)> = None;
    for (path, words, word) in RELEASE_FILES {
        if known.as_deref().is_some_and(|known| known != word && !refines(known, word)) {
            continue;
        }
        let text = match last.take() {
            Some((read, text)) if read == path => text,
            _ => reader.text(path)?,
        };
        if let Some(found) = &text
            && let Some(line) = first_line(&found.value)
            && line.contains(words)
        {
            let version = release_version(path, &found.value, &line);
            take_release(identity, word, line, version, &found.source);
            return Ok(());
        }
        last = Some((path, text));
    }
    Ok(())
}

/// Whether a release file of `word` also tells the version of `known`: derivatives that keep their parent's numbers.
fn refines(known: &str, word: &str) -> bool {
    matches!((known, word), ("raspbian" | "devuan", "debian") | ("cirros", "buildroot"))
}

fn take_release(identity: &mut Identity, word: &str, line: String, version: Option<Version>, source: &str) {
    let is_new = identity.distro.is_none();
    identity.distro.get_or_insert_with(|| Sourced::new(word.to_owned(), source));
    if identity.product_name.is_none() {
        identity.product_name = Some(Sourced::new(line, source));
    }
    let Some(version) = version else { return };
    let is_same = |known: &Sourced<Version>| known.value.major == version.major;
    if is_new || identity.version.as_ref().is_none_or(is_same) {
        identity.version = Some(Sourced::new(version, source));
    }
}

/// The version in a release file.
fn release_version(path: &str, text: &str, line: &str) -> Option<Version> {
    if path == "/etc/SuSE-release" {
        return suse_version(text);
    }
    // "release 5.11", and of old "release 4 (Nahant Update 8)".
    if let Some((_, after)) = line.split_once("release ") {
        let version = Version::find(after)?;
        let update = after.split_once("Update ").and_then(|(_, update)| Version::find(update));
        let minor = update.map_or(version.minor, |update| update.major);
        return Some(Version { minor, text: line.to_owned(), ..version });
    }
    Version::find(line)
}

/// `VERSION = 11` and `PATCHLEVEL = 3`, or `VERSION = 13.2`.
fn suse_version(text: &str) -> Option<Version> {
    let version = Version::find(&assignments::find(text, "VERSION")?)?;
    let patch_level = assignments::find(text, "PATCHLEVEL").and_then(|level| level.parse().ok());
    Some(Version { minor: patch_level.unwrap_or(version.minor), ..version })
}
