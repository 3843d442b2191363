//! Distributions: libguestfs's words for them, how they package, and libosinfo's short identifiers.
//!
//! `distro` is libguestfs's word where it has one (`inspect_get_distro`), else the `ID` of os-release as it stands
//! (`almalinux`, `amzn`, `photon`, `nixos`, `openEuler`, `poky` …).

use super::version::Version;

/// libguestfs's words for os-release IDs, where they differ.
const WORDS: [(&str, &str); 15] = [
    ("alpine", "alpinelinux"),
    ("arch", "archlinux"),
    ("kali", "kalilinux"),
    ("ol", "oraclelinux"),
    ("opensuse-leap", "opensuse"),
    ("opensuse-tumbleweed", "opensuse"),
    ("opensuse-microos", "opensuse"),
    ("pld", "pldlinux"),
    ("scientific", "scientificlinux"),
    ("sled", "sles"),
    ("sles_sap", "sles"),
    ("suse", "suse-based"),
    ("void", "voidlinux"),
    ("mandrake", "mandriva"),
    ("mandrivalinux", "mandriva"),
];

/// The distribution whose os-release ID is `id`.
#[must_use]
pub fn word(id: &str) -> String {
    let known = WORDS.iter().find(|(from, _)| *from == id).map(|(_, word)| *word);
    let word = known.or_else(|| id.starts_with("opensuse-").then_some("opensuse"));
    word.unwrap_or(id).to_owned()
}

/// How the distributions of one family package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Debian,
    RedHat,
    Fedora,
    Suse,
    Mandriva,
    MeeGo,
    AltLinux,
    Photon,
    Arch,
    Gentoo,
    Alpine,
    Void,
    Pardus,
    Nix,
}

fn family(word: &str) -> Option<Family> {
    Some(match word {
        "debian" | "ubuntu" | "kalilinux" | "linuxmint" | "raspbian" | "devuan" | "pop" => Family::Debian,
        "rhel" | "centos" | "rocky" | "almalinux" | "oraclelinux" | "scientificlinux" | "redhat-based" | "circle"
        | "openEuler" | "rhcos" | "amzn" | "azurelinux" | "mariner" | "anolis" => Family::RedHat,
        "fedora" | "neokylin" => Family::Fedora,
        "opensuse" | "sles" | "suse-based" => Family::Suse,
        "mageia" | "mandriva" | "openmandriva" => Family::Mandriva,
        "meego" => Family::MeeGo,
        "altlinux" => Family::AltLinux,
        "photon" => Family::Photon,
        "archlinux" | "manjaro" | "endeavouros" => Family::Arch,
        "gentoo" => Family::Gentoo,
        "alpinelinux" | "postmarketos" => Family::Alpine,
        "voidlinux" => Family::Void,
        "pardus" => Family::Pardus,
        "nixos" => Family::Nix,
        _ => return None,
    })
}

/// Package format and package management of a distribution, in libguestfs's words where it has them. `like` are the words
/// of ID_LIKE; `has_dnf` and `has_opkg` say whether the guest has these programs.
#[must_use]
pub fn packaging(
    distro: &str,
    like: &[String],
    major: u32,
    has_dnf: bool,
    has_opkg: bool,
) -> Option<(&'static str, Option<&'static str>)> {
    let related = || like.iter().find_map(|id| family(&word(id)));
    let Some(family) = family(distro).or_else(related) else {
        return has_opkg.then_some(("opkg", Some("opkg")));
    };
    let management = match family {
        Family::Debian | Family::AltLinux => Some("apt"),
        Family::RedHat if has_dnf || distro == "openEuler" => Some("dnf"),
        Family::RedHat if distro == "amzn" => Some("yum"),
        Family::RedHat => match major {
            8.. => Some("dnf"),
            5.. => Some("yum"),
            2.. => Some("up2date"),
            _ => None,
        },
        Family::Fedora if has_dnf || distro == "neokylin" => Some("dnf"),
        Family::Fedora => (major >= 1).then_some("yum"),
        Family::MeeGo => Some("yum"),
        Family::Suse => Some("zypper"),
        Family::Mandriva => Some(if distro == "openmandriva" { "dnf" } else { "urpmi" }),
        Family::Photon => Some("tdnf"),
        Family::Arch => Some("pacman"),
        Family::Gentoo => Some("portage"),
        Family::Alpine => Some("apk"),
        Family::Void => Some("xbps"),
        Family::Pardus => Some("pisi"),
        Family::Nix => Some("nix"),
    };
    let format = match family {
        Family::Debian => "deb",
        Family::RedHat
        | Family::Fedora
        | Family::Suse
        | Family::Mandriva
        | Family::MeeGo
        | Family::AltLinux
        | Family::Photon => "rpm",
        Family::Arch => "pacman",
        Family::Gentoo => "ebuild",
        Family::Alpine => "apk",
        Family::Void => "xbps",
        Family::Pardus => "pisi",
        Family::Nix => "nix",
    };
    Some((format, management))
}

/// libosinfo's short identifier as libguestfs's `inspect_get_osinfo` makes it up; `unknown` when it cannot.
#[must_use]
pub fn osinfo(distro: &str, version: Option<&Version>) -> String {
    let (major, minor) = version.map_or((0, 0), |version| (version.major, version.minor));
    match (distro, major) {
        ("centos" | "rocky" | "circle" | "almalinux", 8..) => format!("{distro}{major}"),
        ("centos", 7) => "centos7.0".to_owned(),
        ("debian", 4..) => format!("debian{major}"),
        ("fedora" | "mageia", _) => format!("{distro}{major}"),
        ("sles", _) if minor == 0 => format!("sles{major}"),
        ("sles", _) => format!("sles{major}sp{minor}"),
        ("ubuntu", _) => format!("ubuntu{major}.{minor:02}"),
        ("archlinux" | "gentoo" | "voidlinux", _) => distro.to_owned(),
        ("altlinux", 8..) => format!("alt{major}.{minor}"),
        ("nixos", 1..) => format!("nixos-{major}.{minor:02}"),
        _ if major > 0 || minor > 0 => format!("{distro}{major}.{minor}"),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packaging_follows_the_distribution_then_its_relatives() {
        let like = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        for (distro, ids, major, dnf, expected) in [
            ("rhel", &[][..], 9, false, Some(("rpm", Some("dnf")))),
            ("centos", &[], 7, false, Some(("rpm", Some("yum")))),
            ("rhel", &[], 4, false, Some(("rpm", Some("up2date")))),
            ("fedora", &[], 21, false, Some(("rpm", Some("yum")))),
            ("fedora", &[], 0, false, Some(("rpm", None))),
            ("amzn", &["fedora"], 2023, true, Some(("rpm", Some("dnf")))),
            ("virtuozzo", &["rhel", "fedora"], 8, true, Some(("rpm", Some("dnf")))),
            ("zorin", &["ubuntu", "debian"], 17, false, Some(("deb", Some("apt")))),
            ("slackware", &[], 15, false, None),
        ] {
            assert_eq!(packaging(distro, &like(ids), major, dnf, false), expected, "{distro}");
        }
        assert_eq!(packaging("poky", &[], 4, false, true), Some(("opkg", Some("opkg"))));
    }

    #[test]
    fn osinfo_ids_are_those_of_libguestfs() {
        for (distro, text, expected) in [
            ("debian", "12.5", "debian12"),
            ("ubuntu", "22.04", "ubuntu22.04"),
            ("fedora", "38", "fedora38"),
            ("rhel", "9.2", "rhel9.2"),
            ("centos", "7.9", "centos7.0"),
            ("centos", "6.10", "centos6.10"),
            ("centos", "9", "centos9"),
            ("rocky", "9.3", "rocky9"),
            ("sles", "15.5", "sles15sp5"),
            ("sles", "15", "sles15"),
            ("opensuse", "15.5", "opensuse15.5"),
            ("alpinelinux", "3.19.1", "alpinelinux3.19"),
            ("archlinux", "", "archlinux"),
            ("altlinux", "10.1", "alt10.1"),
            ("nixos", "23.05", "nixos-23.05"),
            ("linuxfromscratch", "", "unknown"),
        ] {
            assert_eq!(osinfo(distro, Version::find(text).as_ref()), expected, "{distro} {text}");
        }
    }
}
