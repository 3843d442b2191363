//! Boot Loader Specification (UAPI Group) entries: `loader/entries/*.conf`, one bootable kernel each.
//!
//! | key | meaning |
//! |---|---|
//! | `title`, `version` | for people, for sorting |
//! | `linux`, `initrd` (first), `efi` | paths in the filesystem that holds the entry |
//! | `options` (all, joined) | the kernel's command line |
//!
//! Entries sort by version, then by file name; the last is the default unless the boot loader's environment names one.

use super::Guest;
use super::reader::Notes;
use super::version::natural_order;
use crate::error::Result;

/// One boot entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The guest path of the entry.
    pub(super) file: String,
    pub(super) title: Option<String>,
    pub(super) version: Option<String>,
    pub(super) linux: Option<String>,
    pub(super) initrd: Option<String>,
    pub(super) options: String,
}

/// Entries read from one directory. Ours; real guests keep a handful.
const ENTRIES: usize = 256;

/// The entries in `directory`, sorted, the default last.
pub(super) fn read(guest: Guest<'_>, directory: &str, notes: &Notes<'_>) -> Result<Vec<Entry>> {
    let names = notes.tolerate(guest.list(directory))?.unwrap_or_default();
    let mut entries = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".conf")).take(ENTRIES) {
        let file = format!("{directory}/{name}");
        if let Some(text) = notes.tolerate(guest.read_text(&file))?.flatten() {
            entries.push(parse(file, &text));
        }
    }
    sort(&mut entries);
    Ok(entries)
}

/// By version, then by file name.
pub(super) fn sort(entries: &mut [Entry]) {
    let version = |entry: &Entry| entry.version.clone().unwrap_or_default();
    entries.sort_by(|left, right| {
        natural_order(&version(left), &version(right)).then_with(|| natural_order(&left.file, &right.file))
    });
}

fn parse(file: String, text: &str) -> Entry {
    let mut entry = Entry { file, ..Entry::default() };
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once([' ', '\t']) else { continue };
        let value = value.trim();
        match key {
            "title" => entry.title = Some(value.to_owned()),
            "version" => entry.version = Some(value.to_owned()),
            "linux" | "efi" => entry.linux = Some(value.to_owned()),
            "initrd" if entry.initrd.is_none() => {
                entry.initrd = value.split_ascii_whitespace().next().map(str::to_owned);
            }
            "options" if entry.options.is_empty() => value.clone_into(&mut entry.options),
            "options" => {
                entry.options.push(' ');
                entry.options.push_str(value);
            }
            _ => {}
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_and_sorted_by_version() {
        let text = "title Fedora Linux (6.5.6)\nversion 6.5.6-300.fc39.x86_64\nlinux /vmlinuz-6.5.6\n\
                    initrd /initramfs-6.5.6.img $tuned_initrd\noptions root=UUID=1\noptions ro\n# linux /no\n";
        let entry = parse("/e.conf".to_owned(), text);
        assert_eq!(entry.linux.as_deref(), Some("/vmlinuz-6.5.6"));
        assert_eq!(entry.initrd.as_deref(), Some("/initramfs-6.5.6.img"));
        assert_eq!(entry.options, "root=UUID=1 ro");
        let older = Entry { version: Some("6.5.5-300.fc39.x86_64".to_owned()), ..Entry::default() };
        let rescue = Entry { version: Some("0-rescue-1".to_owned()), ..Entry::default() };
        let mut entries = [entry.clone(), older.clone(), rescue.clone()];
        sort(&mut entries);
        assert_eq!(entries, [rescue, older, entry]);
    }
}
