//! The release files of many distributions, and what inspection makes of them.

/// A distribution's release files and what inspection makes of them.
pub(crate) struct Distribution {
    pub(crate) files: &'static [(&'static str, &'static str)],
    pub(crate) distro: &'static str,
    pub(crate) product: Option<&'static str>,
    pub(crate) version: (u32, u32),
    pub(crate) codename: Option<&'static str>,
    pub(crate) packaging: (Option<&'static str>, Option<&'static str>),
    pub(crate) osinfo: &'static str,
}

const fn distribution(
    files: &'static [(&'static str, &'static str)],
    distro: &'static str,
    product: Option<&'static str>,
    version: (u32, u32),
    codename: Option<&'static str>,
    packaging: (Option<&'static str>, Option<&'static str>),
    osinfo: &'static str,
) -> Distribution {
    Distribution { files, distro, product, version, codename, packaging, osinfo }
}

const DEB: (Option<&str>, Option<&str>) = (Some("deb"), Some("apt"));
const DNF: (Option<&str>, Option<&str>) = (Some("rpm"), Some("dnf"));
const YUM: (Option<&str>, Option<&str>) = (Some("rpm"), Some("yum"));
const ZYPPER: (Option<&str>, Option<&str>) = (Some("rpm"), Some("zypper"));

pub(crate) const DISTRIBUTIONS: &[Distribution] = &[
    distribution(
        &[
            (
                "/etc/os-release",
                "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
                 VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
            ),
            ("/etc/debian_version", "12.5\n"),
        ],
        "debian",
        Some("Debian GNU/Linux 12 (bookworm)"),
        (12, 5),
        Some("bookworm"),
        DEB,
        "debian12",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "PRETTY_NAME=\"Debian GNU/Linux trixie/sid\"\nNAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=trixie\nID=debian\n",
            ),
            ("/etc/debian_version", "trixie/sid\n"),
        ],
        "debian",
        Some("Debian GNU/Linux trixie/sid"),
        (0, 0),
        Some("trixie"),
        DEB,
        "unknown",
    ),
    distribution(&[("/etc/debian_version", "6.0.10\n")], "debian", Some("6.0.10"), (6, 0), None, DEB, "debian6"),
    distribution(
        &[
            (
                "/etc/os-release",
                "PRETTY_NAME=\"Ubuntu 22.04.4 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\n\
                 VERSION=\"22.04.4 LTS (Jammy Jellyfish)\"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n\
                 UBUNTU_CODENAME=jammy\n",
            ),
            (
                "/etc/lsb-release",
                "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=22.04\nDISTRIB_CODENAME=jammy\nDISTRIB_DESCRIPTION=\"Ubuntu 22.04.4 LTS\"\n",
            ),
            ("/etc/debian_version", "bookworm/sid\n"),
        ],
        "ubuntu",
        Some("Ubuntu 22.04.4 LTS"),
        (22, 4),
        Some("jammy"),
        DEB,
        "ubuntu22.04",
    ),
    distribution(
        &[
            (
                "/etc/lsb-release",
                "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\nDISTRIB_CODENAME=lucid\nDISTRIB_DESCRIPTION=\"Ubuntu 10.04.4 LTS\"\n",
            ),
            ("/etc/debian_version", "squeeze/sid\n"),
        ],
        "ubuntu",
        Some("Ubuntu 10.04.4 LTS"),
        (10, 4),
        Some("lucid"),
        DEB,
        "ubuntu10.04",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=\"Linux Mint\"\nVERSION=\"21.3 (Virginia)\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n\
             PRETTY_NAME=\"Linux Mint 21.3\"\nVERSION_ID=\"21.3\"\nVERSION_CODENAME=virginia\n",
        )],
        "linuxmint",
        Some("Linux Mint 21.3"),
        (21, 3),
        Some("virginia"),
        DEB,
        "linuxmint21.3",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "PRETTY_NAME=\"Kali GNU/Linux Rolling\"\nNAME=\"Kali GNU/Linux\"\nVERSION_ID=\"2024.1\"\nVERSION=\"2024.1\"\n\
             VERSION_CODENAME=kali-rolling\nID=kali\nID_LIKE=debian\n",
        )],
        "kalilinux",
        Some("Kali GNU/Linux Rolling"),
        (2024, 1),
        Some("kali-rolling"),
        DEB,
        "kalilinux2024.1",
    ),
    distribution(
        &[
            (
                "/usr/lib/os-release",
                "NAME=\"Fedora Linux\"\nVERSION=\"39 (Cloud Edition)\"\nID=fedora\nVERSION_ID=39\nVERSION_CODENAME=\"\"\n\
                 PLATFORM_ID=\"platform:f39\"\nPRETTY_NAME=\"Fedora Linux 39 (Cloud Edition)\"\nVARIANT=\"Cloud Edition\"\n\
                 VARIANT_ID=cloud\n",
            ),
            ("/etc/fedora-release", "Fedora release 39 (Thirty Nine)\n"),
            ("/usr/bin/dnf", "#!/usr/bin/python3\n"),
        ],
        "fedora",
        Some("Fedora Linux 39 (Cloud Edition)"),
        (39, 0),
        Some("Cloud Edition"),
        DNF,
        "fedora39",
    ),
    distribution(
        &[("/etc/redhat-release", "Fedora release 12 (Constantine)\n")],
        "fedora",
        Some("Fedora release 12 (Constantine)"),
        (12, 0),
        None,
        YUM,
        "fedora12",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"Red Hat Enterprise Linux\"\nVERSION=\"9.2 (Plow)\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"9.2\"\n\
                 PLATFORM_ID=\"platform:el9\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.2 (Plow)\"\n",
            ),
            ("/etc/redhat-release", "Red Hat Enterprise Linux release 9.2 (Plow)\n"),
        ],
        "rhel",
        Some("Red Hat Enterprise Linux 9.2 (Plow)"),
        (9, 2),
        Some("Plow"),
        DNF,
        "rhel9.2",
    ),
    distribution(
        &[("/etc/redhat-release", "Red Hat Enterprise Linux AS release 4 (Nahant Update 8)\n")],
        "rhel",
        Some("Red Hat Enterprise Linux AS release 4 (Nahant Update 8)"),
        (4, 8),
        None,
        (Some("rpm"), Some("up2date")),
        "rhel4.8",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"CentOS Linux\"\nVERSION=\"7 (Core)\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"7\"\n\
                 PRETTY_NAME=\"CentOS Linux 7 (Core)\"\n",
            ),
            ("/etc/centos-release", "CentOS Linux release 7.9.2009 (Core)\n"),
            ("/etc/redhat-release", "CentOS Linux release 7.9.2009 (Core)\n"),
        ],
        "centos",
        Some("CentOS Linux 7 (Core)"),
        (7, 9),
        Some("Core"),
        YUM,
        "centos7.0",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"CentOS Stream\"\nVERSION=\"9\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"9\"\n\
                 PRETTY_NAME=\"CentOS Stream 9\"\n",
            ),
            ("/etc/centos-release", "CentOS Stream release 9\n"),
        ],
        "centos",
        Some("CentOS Stream 9"),
        (9, 0),
        None,
        DNF,
        "centos9",
    ),
    distribution(
        &[
            ("/etc/redhat-release", "CentOS release 6.10 (Final)\n"),
            ("/etc/centos-release", "CentOS release 6.10 (Final)\n"),
        ],
        "centos",
        Some("CentOS release 6.10 (Final)"),
        (6, 10),
        None,
        YUM,
        "centos6.10",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=\"Rocky Linux\"\nVERSION=\"9.3 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.3\"\n\
             PRETTY_NAME=\"Rocky Linux 9.3 (Blue Onyx)\"\n",
        )],
        "rocky",
        Some("Rocky Linux 9.3 (Blue Onyx)"),
        (9, 3),
        Some("Blue Onyx"),
        DNF,
        "rocky9",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"AlmaLinux\"\nVERSION=\"8.9 (Midnight Oncilla)\"\nID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n\
                 VERSION_ID=\"8.9\"\nPRETTY_NAME=\"AlmaLinux 8.9 (Midnight Oncilla)\"\n",
            ),
            ("/etc/redhat-release", "AlmaLinux release 8.9 (Midnight Oncilla)\n"),
        ],
        "almalinux",
        Some("AlmaLinux 8.9 (Midnight Oncilla)"),
        (8, 9),
        Some("Midnight Oncilla"),
        DNF,
        "almalinux8",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"Oracle Linux Server\"\nVERSION=\"8.9\"\nID=\"ol\"\nID_LIKE=\"fedora\"\nVARIANT=\"Server\"\n\
                 VERSION_ID=\"8.9\"\nPRETTY_NAME=\"Oracle Linux Server 8.9\"\n",
            ),
            ("/etc/oracle-release", "Oracle Linux Server release 8.9\n"),
            ("/etc/redhat-release", "Red Hat Enterprise Linux release 8.9 (Ootpa)\n"),
        ],
        "oraclelinux",
        Some("Oracle Linux Server 8.9"),
        (8, 9),
        None,
        DNF,
        "oraclelinux8.9",
    ),
    distribution(
        &[("/etc/redhat-release", "Scientific Linux release 6.10 (Carbon)\n")],
        "scientificlinux",
        Some("Scientific Linux release 6.10 (Carbon)"),
        (6, 10),
        None,
        YUM,
        "scientificlinux6.10",
    ),
    distribution(
        &[("/etc/redhat-release", "Yellow Dog release 3.0\n")],
        "redhat-based",
        Some("Yellow Dog release 3.0"),
        (3, 0),
        None,
        (Some("rpm"), Some("up2date")),
        "redhat-based3.0",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=\"SLES\"\nVERSION=\"15-SP5\"\nVERSION_ID=\"15.5\"\nPRETTY_NAME=\"SUSE Linux Enterprise Server 15 SP5\"\n\
             ID=\"sles\"\nID_LIKE=\"suse\"\n",
        )],
        "sles",
        Some("SUSE Linux Enterprise Server 15 SP5"),
        (15, 5),
        None,
        ZYPPER,
        "sles15sp5",
    ),
    distribution(
        &[("/etc/SuSE-release", "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 4\n")],
        "sles",
        Some("SUSE Linux Enterprise Server 11 (x86_64)"),
        (11, 4),
        None,
        ZYPPER,
        "sles11sp4",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=\"openSUSE Leap\"\nVERSION=\"15.5\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.5\"\n\
             PRETTY_NAME=\"openSUSE Leap 15.5\"\n",
        )],
        "opensuse",
        Some("openSUSE Leap 15.5"),
        (15, 5),
        None,
        ZYPPER,
        "opensuse15.5",
    ),
    distribution(
        &[("/etc/SuSE-release", "openSUSE 13.2 (x86_64)\nVERSION = 13.2\nCODENAME = Harlequin\n")],
        "opensuse",
        Some("openSUSE 13.2 (x86_64)"),
        (13, 2),
        None,
        ZYPPER,
        "opensuse13.2",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\nANSI_COLOR=\"38;2;23;147;209\"\n",
            ),
            ("/etc/arch-release", ""),
        ],
        "archlinux",
        Some("Arch Linux"),
        (0, 0),
        None,
        (Some("pacman"), Some("pacman")),
        "archlinux",
    ),
    distribution(
        &[("/etc/arch-release", "")],
        "archlinux",
        None,
        (0, 0),
        None,
        (Some("pacman"), Some("pacman")),
        "archlinux",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME=\"Alpine Linux v3.19\"\n",
            ),
            ("/etc/alpine-release", "3.19.1\n"),
        ],
        "alpinelinux",
        Some("Alpine Linux v3.19"),
        (3, 19),
        None,
        (Some("apk"), Some("apk")),
        "alpinelinux3.19",
    ),
    distribution(
        &[
            ("/etc/os-release", "NAME=Gentoo\nID=gentoo\nPRETTY_NAME=\"Gentoo Linux\"\nVERSION_ID=\"2.14\"\n"),
            ("/etc/gentoo-release", "Gentoo Base System release 2.14\n"),
        ],
        "gentoo",
        Some("Gentoo Linux"),
        (2, 14),
        None,
        (Some("ebuild"), Some("portage")),
        "gentoo",
    ),
    distribution(
        &[("/etc/os-release", "NAME=\"Void\"\nID=\"void\"\nPRETTY_NAME=\"Void Linux\"\n")],
        "voidlinux",
        Some("Void Linux"),
        (0, 0),
        None,
        (Some("xbps"), Some("xbps")),
        "voidlinux",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"Amazon Linux\"\nVERSION=\"2023\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"2023\"\n\
                 PRETTY_NAME=\"Amazon Linux 2023\"\n",
            ),
            ("/etc/system-release", "Amazon Linux release 2023 (Amazon Linux)\n"),
            ("/usr/bin/dnf", ""),
        ],
        "amzn",
        Some("Amazon Linux 2023"),
        (2023, 0),
        None,
        DNF,
        "amzn2023.0",
    ),
    distribution(
        &[("/etc/system-release", "Amazon Linux AMI release 2018.03\n")],
        "amzn",
        Some("Amazon Linux AMI release 2018.03"),
        (2018, 3),
        None,
        YUM,
        "amzn2018.3",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "NAME=\"VMware Photon OS\"\nVERSION=\"5.0\"\nID=photon\nVERSION_ID=5.0\nPRETTY_NAME=\"VMware Photon OS/Linux\"\n",
            ),
            ("/etc/photon-release", "VMware Photon OS 5.0\nPHOTON_BUILD_NUMBER=dde71ec57\n"),
        ],
        "photon",
        Some("VMware Photon OS/Linux"),
        (5, 0),
        None,
        (Some("rpm"), Some("tdnf")),
        "photon5.0",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=Buildroot\nVERSION=2023.02\nID=buildroot\nVERSION_ID=2023.02\nPRETTY_NAME=\"Buildroot 2023.02\"\n",
        )],
        "buildroot",
        Some("Buildroot 2023.02"),
        (2023, 2),
        None,
        (None, None),
        "buildroot2023.2",
    ),
    distribution(
        &[("/etc/br-version", "2012.05-git\n")],
        "buildroot",
        Some("2012.05-git"),
        (2012, 5),
        None,
        (None, None),
        "buildroot2012.5",
    ),
    distribution(
        &[("/etc/cirros/version", "0.6.2\n")],
        "cirros",
        Some("0.6.2"),
        (0, 6),
        None,
        (None, None),
        "cirros0.6",
    ),
    distribution(
        &[
            (
                "/etc/os-release",
                "ID=poky\nNAME=\"Poky (Yocto Project Reference Distro)\"\nVERSION=\"4.0.13 (kirkstone)\"\nVERSION_ID=4.0.13\n\
                 VERSION_CODENAME=\"kirkstone\"\nPRETTY_NAME=\"Poky (Yocto Project Reference Distro) 4.0.13 (kirkstone)\"\n",
            ),
            ("/var/lib/opkg/status", ""),
        ],
        "poky",
        Some("Poky (Yocto Project Reference Distro) 4.0.13 (kirkstone)"),
        (4, 0),
        Some("kirkstone"),
        (Some("opkg"), Some("opkg")),
        "poky4.0",
    ),
    distribution(
        &[(
            "/etc/os-release",
            "NAME=\"openEuler\"\nVERSION=\"22.03 (LTS-SP2)\"\nID=\"openEuler\"\nVERSION_ID=\"22.03\"\n\
             PRETTY_NAME=\"openEuler 22.03 (LTS-SP2)\"\n",
        )],
        "openEuler",
        Some("openEuler 22.03 (LTS-SP2)"),
        (22, 3),
        Some("LTS-SP2"),
        DNF,
        "openEuler22.3",
    ),
    distribution(
        &[("/etc/slackware-version", "Slackware 15.0\n")],
        "slackware",
        Some("Slackware 15.0"),
        (15, 0),
        None,
        (None, None),
        "slackware15.0",
    ),
    distribution(
        &[
            ("/etc/redhat-release", "Mageia release 8 (Official) for x86_64\n"),
            ("/etc/mageia-release", "Mageia release 8\n"),
        ],
        "mageia",
        Some("Mageia release 8"),
        (8, 0),
        None,
        (Some("rpm"), Some("urpmi")),
        "mageia8",
    ),
    distribution(
        &[("/etc/altlinux-release", "ALT Server 10.1 (Mendelevium)\n")],
        "altlinux",
        Some("ALT Server 10.1 (Mendelevium)"),
        (10, 1),
        None,
        (Some("rpm"), Some("apt")),
        "alt10.1",
    ),
    distribution(
        &[("/etc/pld-release", "3.0 PLD Linux (Th)\n")],
        "pldlinux",
        Some("3.0 PLD Linux (Th)"),
        (3, 0),
        None,
        (None, None),
        "pldlinux3.0",
    ),
    distribution(&[("/etc/unheard-of", "")], "unknown", None, (0, 0), None, (None, None), "unknown"),
];
