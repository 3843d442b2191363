//! fstab(5) and systemd.mount(5): what a guest mounts where.
//!
//! | field | meaning | accepted |
//! |---|---|---|
//! | 1 `fs_spec` | what | a device, `UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=`; others name no disk of the guest |
//! | 2 `fs_file` | where | an absolute path; `none` or `swap` for swap space |
//! | 3 `fs_vfstype` | type | any word |
//! | 4 `fs_mntops` | options | optional here, as in mount(8) |
//! | 5, 6 | dump, fsck order | not looked at |
//!
//! Fields are split at blanks; `\040`, `\011`, `\012`, `\043` and `\134` stand for blank, tab, newline, `#` and `\`. A tag's
//! value may stand in quotes.

use super::assignments::unquote;
use crate::limits;

/// Bytes of one line. Ours: a device, a path and options.
const LINE_BYTES: usize = 2 * limits::PATH_BYTES;

/// One line of fstab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is mounted, unescaped.
    pub spec: String,
    /// Where, unescaped.
    pub file: String,
    /// The filesystem type.
    pub vfstype: String,
    /// The options, comma-separated.
    pub options: String,
}

impl Entry {
    /// Whether it is swap space.
    #[must_use]
    pub fn is_swap(&self) -> bool {
        self.vfstype == "swap"
    }

    /// Whether the entry mounts a disk of the guest at a place that is of interest; the others are pseudo, network and
    /// removable filesystems, binds, and what libguestfs passes over.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        let spec = self.spec.as_str();
        let tagged = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="].iter().any(|tag| spec.starts_with(tag));
        let numbered = |prefix: &str| {
            let rest = spec.strip_prefix(prefix);
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let removable = numbered("/dev/fd")
            || numbered("/dev/cd")
            || numbered("/dev/sr")
            || matches!(spec, "/dev/floppy" | "/dev/cdrom" | "/dev/dvd")
            || spec.starts_with("/dev/iso9660/");
        let below =
            |parent: &str| self.file.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let elsewhere =
            ["/dev", "/proc", "/sys", "/selinux"].into_iter().any(below) || self.file.starts_with("/media/");
        (tagged || spec.starts_with("/dev/"))
            && !removable
            && !elsewhere
            && (self.is_swap() || self.file.starts_with('/'))
    }
}

/// The entries of an fstab; lines with fewer than three fields are passed over, as is all after
/// [`limits::FSTAB_ENTRIES`] entries.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    text.lines().filter_map(entry).take(limits::FSTAB_ENTRIES).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let line = line.trim_start();
    if line.starts_with('#') || line.len() > LINE_BYTES {
        return None;
    }
    let (spec, rest) = spec_field(line);
    let mut fields = rest.split_ascii_whitespace();
    let (file, vfstype) = (fields.next()?, fields.next()?);
    let options = fields.next().unwrap_or_default();
    Some(Entry { spec, file: unescape(file), vfstype: vfstype.to_owned(), options: unescape(options) })
}

/// The first field, which alone may hold blanks: in a quoted tag value, `LABEL="my disk"`.
fn spec_field(line: &str) -> (String, &str) {
    if let Some((tag, value)) = line.split_once("=\"")
        && tag.bytes().all(|byte| byte.is_ascii_uppercase())
        && let Some((value, rest)) = value.split_once('"')
    {
        return (format!("{tag}={}", unescape(value)), rest);
    }
    let (field, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    (unescape(field), rest)
}

/// The text with `\ooo` of three octal digits as the byte it stands for.
fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.first_chunk::<3>().filter(|_| first == b'\\').and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok().filter(|_| digits.iter().all(u8::is_ascii_digit))
        });
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The mount that a systemd mount unit describes: `What=`, `Where=`, `Type=` and `Options=` of its `[Mount]` section.
#[must_use]
pub fn parse_mount_unit(text: &str) -> Option<Entry> {
    let mut in_mount = false;
    let mut entry =
        Entry { spec: String::new(), file: String::new(), vfstype: "auto".to_owned(), options: String::new() };
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_mount = line == "[Mount]";
            continue;
        }
        let Some((key, value)) = line.split_once('=').filter(|_| in_mount) else { continue };
        let value = value.trim();
        match key.trim() {
            "What" => entry.spec = value.to_owned(),
            "Where" => entry.file = value.to_owned(),
            "Type" => entry.vfstype = value.to_owned(),
            "Options" => entry.options = value.to_owned(),
            _ => {}
        }
    }
    (!entry.spec.is_empty() && !entry.file.is_empty()).then_some(entry)
}

/// One line of crypttab(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The opened device's name below `/dev/mapper`.
    pub name: String,
    /// The encrypted device, spelled as in fstab.
    pub source: String,
}

/// The encrypted devices that a guest opens.
#[must_use]
pub fn parse_crypttab(text: &str) -> Vec<Opened> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let opened = lines.filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        Some(Opened { name: fields.next()?.to_owned(), source: unquote(fields.next()?) })
    });
    opened.take(limits::FSTAB_ENTRIES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_split_unescaped_and_unquoted() {
        let text = "# /etc/fstab\n\nUUID=ab-cd / ext4 errors=remount-ro 0 1\n\
                    LABEL=\"my disk\"\t/mnt/a\\040b\tvfat\tdefaults\n\
                    /dev/sda3 none swap sw 0 0\nshort line\n/dev/sda4 /x\\999 auto";
        let entries = parse(text);
        let fields: Vec<_> = entries.iter().map(|entry| (entry.spec.as_str(), entry.file.as_str())).collect();
        assert_eq!(
            fields,
            [("UUID=ab-cd", "/"), ("LABEL=my disk", "/mnt/a b"), ("/dev/sda3", "none"), ("/dev/sda4", "/x\\999")]
        );
        assert_eq!(entries[0].options, "errors=remount-ro");
        assert!(entries[2].is_swap() && entries[2].is_disk());
    }

    #[test]
    fn only_the_disks_of_the_guest_count() {
        for (line, expected) in [
            ("/dev/sda1 / ext4", true),
            ("PARTLABEL=root / auto", true),
            ("tmpfs /tmp tmpfs", false),
            ("proc /proc proc", false),
            ("/srv/a /srv/b none bind", false),
            ("host:/export /mnt nfs", false),
            ("//host/share /mnt cifs", false),
            ("/dev/fd0 /mnt auto", false),
            ("/dev/sr0 /mnt/cd iso9660", false),
            ("/dev/cdrom /mnt udf", false),
            ("/dev/sdb1 /media/usb vfat", false),
            ("/dev/sdb1 /devel ext4", true),
            ("/dev/sdb1 /dev/shm ext4", false),
            ("/dev/sdb1 relative ext4", false),
            ("/swapfile none swap", false),
        ] {
            assert_eq!(parse(line)[0].is_disk(), expected, "{line}");
        }
    }

    #[test]
    fn mount_units_and_crypttab_are_read() {
        let unit = "[Unit]\nWhat=no\n[Mount]\nWhat=/dev/vg/data\nWhere=/srv/data\nType=xfs\n";
        let entry = parse_mount_unit(unit).unwrap();
        assert_eq!(
            (entry.spec.as_str(), entry.file.as_str(), entry.vfstype.as_str()),
            ("/dev/vg/data", "/srv/data", "xfs")
        );
        assert_eq!(parse_mount_unit("[Mount]\nWhere=/x\n"), None);
        let opened = parse_crypttab("# c\nluks-1 UUID=1-2 none discard\nbad\n");
        assert_eq!(opened, [Opened { name: "luks-1".to_owned(), source: "UUID=1-2".to_owned() }]);
    }

    #[test]
    fn a_million_lines_are_cut_at_the_limit() {
        let text = "/dev/sda1 / ext4\n".repeat(200_000);
        assert_eq!(parse(&text).len(), limits::FSTAB_ENTRIES);
    }
}
