//! machine-id(5): whether an image carries an identity that its clones would share.

use serde::{Deserialize, Serialize};

use super::reader::{Reader, Sourced};
use crate::error::Result;
use crate::fs::FileType;

/// What `/etc/machine-id` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineId {
    /// 32 hexadecimal digits: clones of this image share it.
    Set,
    /// The word `uninitialized`: made at the next boot, which counts as the first.
    Uninitialized,
    /// An empty file: made at the next boot.
    Empty,
    /// No such file: made at the next boot.
    Missing,
    /// A symbolic link, for instance to D-Bus's identifier.
    Symlink,
    /// Something else: other text, or no regular file.
    Invalid,
}

const PATH: &str = "/etc/machine-id";

/// The state of the machine identifier.
pub(super) fn machine_id(reader: &Reader<'_>) -> Result<Sourced<MachineId>> {
    let state = if reader.link(PATH)?.is_some() {
        MachineId::Symlink
    } else if let Some(text) = reader.text(PATH)? {
        of_text(&text.value)
    } else {
        let metadata = reader.notes().tolerate(reader.guest().metadata(PATH))?.flatten();
        match metadata.map(|metadata| metadata.file_type) {
            Some(kind) => {
                if kind != FileType::File {
                    reader.notes().add(format!("{PATH} is no regular file but a {}", kind.name()));
                }
                MachineId::Invalid
            }
            None => MachineId::Missing,
        }
    };
    Ok(Sourced::new(state, PATH))
}

fn of_text(text: &str) -> MachineId {
    match text.trim() {
        "" => MachineId::Empty,
        "uninitialized" => MachineId::Uninitialized,
        id if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => MachineId::Set,
        _ => MachineId::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        for (text, state) in [
            ("0123456789abcdef0123456789abcdef\n", MachineId::Set),
            ("uninitialized\n", MachineId::Uninitialized),
            ("\n", MachineId::Empty),
            ("", MachineId::Empty),
            ("0123456789abcdef0123456789abcdeg\n", MachineId::Invalid),
        ] {
            assert_eq!(of_text(text), state, "{text}");
        }
    }
}
