//! POSIX ACLs as text: what `SCHILY.acl.access` and `SCHILY.acl.default` hold.
//!
//! The kernel's exchange form is a version (2) and entries of 8 bytes: e_tag, e_perm (2 bytes each, little-endian), e_id (4).
//! The text is that of acl(5) in its short form with numbers for names, entries parted by commas, which GNU tar, libarchive
//! and star all take.

/// The text of an ACL; `None` when the bytes are not one.
pub(super) fn text(value: &[u8]) -> Option<String> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut text = Vec::new();
    for entry in entries.chunks_exact(8) {
        let half = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (who, name) = match half(0) {
            0x01 => ("user", String::new()),
            0x02 => ("user", id.to_string()),
            0x04 => ("group", String::new()),
            0x08 => ("group", id.to_string()),
            0x10 => ("mask", String::new()),
            0x20 => ("other", String::new()),
            _ => return None,
        };
        let may = |bit: u16, letter: char| if half(2) & bit != 0 { letter } else { '-' };
        text.push(format!("{who}:{name}:{}{}{}", may(4, 'r'), may(2, 'w'), may(1, 'x')));
    }
    Some(text.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_every_tag() {
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [
            (1u16, 6u16, u32::MAX),
            (2, 7, 1000),
            (4, 4, u32::MAX),
            (8, 5, 70_000),
            (16, 7, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let expected = "user::rw-,user:1000:rwx,group::r--,group:70000:r-x,mask::rwx,other::---";
        assert_eq!(text(&value).unwrap(), expected);
        assert_eq!(text(&value[..9]), None);
        assert_eq!(text(b"\x01\0\0\0"), None);
    }
}
