//! A directory as `ls -l` shows it: aligned columns, owners by the guest's own names, times in UTC.
//!
//! ```text
//! drwxr-xr-x 2 root root  4096 2026-01-01 00:00 etc
//! lrwxrwxrwx 1 root root     7 2026-01-01 00:00 bin -> usr/bin
//! crw-rw-rw- 1 root root  1, 3 2026-01-01 00:00 null
//! ```

use std::collections::HashMap;

use crate::block::read_vec;
use crate::bytes::escape;
use crate::error::Result;
use crate::fs::{FileType, Follow, GuestPath, Location, Metadata, MountTable};
use crate::limits;

/// Names of owners, from the guest's passwd and group files.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    users: Names,
    groups: Names,
}

/// One of the two files: the first name of a number and the first number of a name win.
#[derive(Debug, Clone, Default)]
struct Names {
    by_id: HashMap<u32, String>,
    by_name: HashMap<String, u32>,
}

impl Owners {
    /// Reads `/etc/passwd` and `/etc/group`; without them owners stay numbers.
    pub fn read(mounts: &MountTable) -> Self {
        Self {
            users: names(mounts, "/etc/passwd").unwrap_or_default(),
            groups: names(mounts, "/etc/group").unwrap_or_default(),
        }
    }

    /// A user's name in the guest, if it has one there.
    #[must_use]
    pub fn user_name(&self, uid: u32) -> Option<&str> {
        self.users.by_id.get(&uid).map(String::as_str)
    }

    /// A group's name in the guest, if it has one there.
    #[must_use]
    pub fn group_name(&self, gid: u32) -> Option<&str> {
        self.groups.by_id.get(&gid).map(String::as_str)
    }

    /// A user's name, else the number.
    #[must_use]
    pub fn user(&self, uid: u32) -> String {
        self.users.by_id.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }

    /// A group's name, else the number.
    #[must_use]
    pub fn group(&self, gid: u32) -> String {
        self.groups.by_id.get(&gid).cloned().unwrap_or_else(|| gid.to_string())
    }

    /// The number of a user's name.
    #[must_use]
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.by_name.get(name).copied()
    }

    /// The number of a group's name.
    #[must_use]
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.by_name.get(name).copied()
    }
}

/// First and third field of each line.
fn names(mounts: &MountTable, path: &str) -> Result<Names> {
    let location = mounts.resolve(&GuestPath::parse(path)?, Follow::Links)?;
    let file = location.fs.open(location.inode)?;
    let size = limits::check("bytes of an inspected file", file.size(), limits::INSPECT_FILE_BYTES)?;
    let bytes = read_vec(&file, 0, size as usize)?;
    let mut found = Names::default();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(_), Some(Ok(id))) = (fields.next(), fields.next(), fields.next().map(str::parse)) {
            let name = escape(name.as_bytes());
            found.by_id.entry(id).or_insert_with(|| name.clone());
            found.by_name.entry(name).or_insert(id);
        }
    }
    Ok(found)
}

/// One row of a long listing, its columns not yet aligned.
#[derive(Debug, Clone)]
pub struct Row {
    columns: [String; 5],
    tail: String,
}

/// The row of one entry under the name it is to be shown by.
pub fn long_row(location: &Location, metadata: &Metadata, owners: &Owners, name: &str) -> Result<Row> {
    let size = match metadata.rdev {
        Some(device) => format!("{}, {}", device.major, device.minor),
        None => metadata.size.to_string(),
    };
    let mut tail = format!("{} {name}", metadata.mtime.minute());
    if metadata.file_type == FileType::Symlink {
        tail.push_str(" -> ");
        tail.push_str(&escape(&location.fs.read_link(location.inode)?));
    }
    let columns =
        [mode_text(metadata), metadata.nlink.to_string(), owners.user(metadata.uid), owners.group(metadata.gid), size];
    Ok(Row { columns, tail })
}

/// The rows as lines, names to the left and numbers to the right of their columns.
#[must_use]
pub fn long_listing(rows: &[Row]) -> String {
    let mut widths = [0usize; 5];
    for row in rows {
        for (width, column) in widths.iter_mut().zip(&row.columns) {
            *width = (*width).max(column.chars().count());
        }
    }
    let [mode, links, user, group, size] = widths;
    let mut text = String::new();
    for Row { columns: [m, l, u, g, s], tail } in rows {
        text.push_str(&format!("{m:<mode$} {l:>links$} {u:<user$} {g:<group$} {s:>size$} {tail}\n"));
    }
    text
}

/// `drwxr-xr-x`, with the set-id and sticky bits where `ls` has them.
fn mode_text(metadata: &Metadata) -> String {
    let bits = metadata.permissions;
    let mut text = String::from(metadata.file_type.letter());
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let class = bits >> shift;
        text.push(if class & 4 != 0 { 'r' } else { '-' });
        text.push(if class & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, class & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
