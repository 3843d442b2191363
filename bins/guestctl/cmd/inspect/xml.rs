//! virt-inspector's XML: the elements of its published schema and no others, in the order it writes them. What the
//! schema has no place for (kernels, services, users …) is in the JSON.

use std::io::{self, Write};

use guestctl::inspect::{OperatingSystem, Package, Sourced};
use quick_xml::Writer;
use quick_xml::events::attributes::Attribute;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use quick_xml::name::QName;

use super::report::{Report, SystemReport};
use crate::print;

/// Distributions that the schema knows; it has no word for any other, and the element is optional.
const DISTROS: [&str; 38] = [
    "alpinelinux",
    "altlinux",
    "archlinux",
    "buildroot",
    "centos",
    "cirros",
    "coreos",
    "debian",
    "fedora",
    "freebsd",
    "freedos",
    "frugalware",
    "gentoo",
    "kalilinux",
    "kylin",
    "linuxmint",
    "mageia",
    "mandriva",
    "meego",
    "msdos",
    "neokylin",
    "netbsd",
    "openbsd",
    "openmandriva",
    "opensuse",
    "oraclelinux",
    "pardus",
    "pldlinux",
    "redhat-based",
    "rhel",
    "scientificlinux",
    "slackware",
    "sles",
    "suse-based",
    "ttylinux",
    "ubuntu",
    "voidlinux",
    "windows",
];

/// Writes the report.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    let mut xml = Xml(Writer::new_with_indent(&mut *out, b' ', 2));
    xml.0.write_event(Event::Decl(BytesDecl::new("1.0", None, None)))?;
    xml.parent("operatingsystems", &[], |xml| {
        report.operating_systems.iter().try_for_each(|system| xml.system(system))
    })?;
    writeln!(out)
}

struct Xml<W: Write>(Writer<W>);

impl<W: Write> Xml<W> {
    fn parent(
        &mut self,
        name: &str,
        attributes: &[(&str, &str)],
        children: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut start = BytesStart::new(name);
        for (key, value) in attributes {
            start.push_attribute(Attribute { key: QName(key), value: escaped(value).into() });
        }
        self.0.write_event(Event::Start(start))?;
        children(self)?;
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    /// An element with text, unless there is none.
    fn leaf(&mut self, name: &str, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.leaf_with(name, &[], text)
    }

    fn leaf_with(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) -> io::Result<()> {
        self.parent(name, attributes, |xml| xml.0.write_event(Event::Text(BytesText::from_escaped(escaped(text)))))
    }

    fn system(&mut self, report: &SystemReport<'_>) -> io::Result<()> {
        let SystemReport { system, packages } = report;
        self.parent("operatingsystem", &[], |xml| {
            xml.identity(system)?;
            xml.parent("mountpoints", &[], |xml| {
                let mut mountpoints: Vec<_> =
                    system.mountpoints.iter().map(|(path, device)| (path.to_string(), device)).collect();
                mountpoints.sort_by_key(|(path, _)| (path.len(), path.clone()));
                mountpoints.iter().try_for_each(|(path, device)| xml.leaf_with("mountpoint", &[("dev", device)], path))
            })?;
            xml.parent("filesystems", &[], |xml| {
                let mut filesystems: Vec<_> = system.filesystems.iter().collect();
                filesystems.sort_by_key(|filesystem| &filesystem.mountable);
                filesystems.iter().try_for_each(|filesystem| {
                    xml.parent("filesystem", &[("dev", &filesystem.mountable)], |xml| {
                        xml.leaf("type", &filesystem.fs_type)?;
                        xml.leaf("label", filesystem.label.as_deref().unwrap_or_default())?;
                        xml.leaf("uuid", filesystem.uuid.as_deref().unwrap_or_default())
                    })
                })
            })?;
            match packages {
                Some(lists) => xml.parent("applications", &[], |xml| {
                    lists.iter().flat_map(|list| &list.packages).try_for_each(|package| xml.application(package))
                }),
                None => Ok(()),
            }
        })
    }

    fn identity(&mut self, system: &OperatingSystem) -> io::Result<()> {
        let word = |field: &Option<Sourced<String>>| field.as_ref().map(|word| word.value.clone()).unwrap_or_default();
        let known = |name: &String| DISTROS.contains(&name.as_str());
        self.leaf("root", &system.root)?;
        self.leaf("name", &system.os_type)?;
        self.leaf("arch", &word(&system.arch))?;
        self.leaf("distro", &Some(word(&system.distro)).filter(known).unwrap_or_default())?;
        self.leaf("product_name", &word(&system.product_name))?;
        self.leaf("product_variant", &word(&system.product_variant))?;
        self.leaf("major_version", &system.major_version().to_string())?;
        self.leaf("minor_version", &system.minor_version().to_string())?;
        self.leaf("package_format", system.package_format.as_deref().unwrap_or_default())?;
        self.leaf("package_management", system.package_management.as_deref().unwrap_or_default())?;
        self.leaf("hostname", &word(&system.hostname))?;
        self.leaf("build_id", &word(&system.build_id))?;
        self.leaf("osinfo", if system.osinfo == "unknown" { "" } else { &system.osinfo })
    }

    fn application(&mut self, package: &Package) -> io::Result<()> {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        self.parent("application", &[], |xml| {
            xml.leaf("name", &package.name)?;
            xml.leaf("display_name", &text(&package.display_name))?;
            xml.leaf("epoch", &if package.epoch == 0 { String::new() } else { package.epoch.to_string() })?;
            xml.leaf("version", &package.version)?;
            xml.leaf("release", &package.release)?;
            xml.leaf("arch", &package.arch)?;
            xml.leaf("install_path", &text(&package.install_path))?;
            xml.leaf("publisher", &text(&package.publisher))?;
            xml.leaf("url", &text(&package.url))?;
            xml.leaf("source_package", &text(&package.source_package))?;
            xml.leaf("summary", &text(&package.summary))?;
            xml.leaf("description", &text(&package.description))
        })
    }
}

/// Text with references for markup and for what steers a terminal; characters that XML 1.0 (section 2.2) cannot hold at
/// all are replaced.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\r' => safe.push_str("&#13;"),
            c if c != '\n' && c != '\t' && (c < ' ' || c > '\u{fffd}' && c < '\u{10000}') => safe.push('\u{fffd}'),
            c if print::steers(c) => safe.push_str(&format!("&#{};", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe
}
