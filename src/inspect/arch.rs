//! The architecture of a guest, from the ELF header of one of its programs.
//!
//! | offset | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 4 | `e_ident` magic | 7f `ELF` |
//! | 4 | 1 | class | 1 (32-bit), 2 (64-bit) |
//! | 5 | 1 | data | 1 (little-endian), 2 (big-endian) |
//! | 18 | 2 | `e_machine` | see [`word`] |
//!
//! The words are those of libguestfs's `file_architecture`. Which programs are asked is libguestfs's list, then programs
//! that stripped-down systems have.

use super::reader::{Reader, Sourced};
use super::{NIXOS_PROFILE, reader};
use crate::bytes::Record;
use crate::error::Result;

const PROGRAMS: [&str; 9] = [
    "/bin/bash",
    "/bin/ls",
    "/bin/echo",
    "/bin/rm",
    "/bin/sh",
    "/sbin/init",
    "/usr/lib/systemd/systemd",
    "/bin/busybox",
    "/usr/bin/env",
];

/// The architecture, and the program that tells it.
pub(super) fn architecture(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    let profile = ["/sw/bin/bash", "/systemd/lib/systemd/systemd"].map(|program| format!("{NIXOS_PROFILE}{program}"));
    for program in PROGRAMS.into_iter().chain(profile.iter().map(String::as_str)) {
        if let Some(head) = reader.head(program, 20)?
            && let Some(word) = word(&head)
        {
            return Ok(Some(reader::Sourced::new(word.to_owned(), program)));
        }
    }
    Ok(None)
}

/// The architecture that an ELF header names.
fn word(head: &[u8]) -> Option<&'static str> {
    let record = Record::new("elf", head, 0);
    if record.array::<4>(0).ok()? != b"\x7fELF" {
        return None;
    }
    let is_64 = record.u8(4).ok()? == 2;
    let is_little = record.u8(5).ok()? == 1;
    let machine = if is_little { record.le16(18) } else { record.be16(18) }.ok()?;
    Some(match (machine, is_64, is_little) {
        (3 | 6, ..) => "i386",
        (62, ..) => "x86_64",
        (183, ..) => "aarch64",
        (40, ..) => "arm",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (20, ..) => "ppc",
        (22, true, _) => "s390x",
        (22, false, _) => "s390",
        (2 | 18, ..) => "sparc",
        (43, ..) => "sparc64",
        (50, ..) => "ia64",
        (258, true, _) => "loongarch64",
        (8, true, true) => "mips64el",
        (8, true, false) => "mips64",
        (8, false, true) => "mipsel",
        (8, false, false) => "mips",
        (15, ..) => "hppa",
        (4, ..) => "m68k",
        (0x9026, ..) => "alpha",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_have_libguestfs_names() {
        let header = |class: u8, data: u8, machine: u16| {
            let machine = if data == 1 { machine.to_le_bytes() } else { machine.to_be_bytes() };
            let mut head = [0; 20];
            head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data]);
            head[18..].copy_from_slice(&machine);
            head
        };
        for (class, data, machine, expected) in [
            (2, 1, 62, Some("x86_64")),
            (1, 1, 3, Some("i386")),
            (2, 1, 183, Some("aarch64")),
            (1, 1, 40, Some("arm")),
            (2, 2, 21, Some("ppc64")),
            (2, 1, 21, Some("ppc64le")),
            (2, 2, 22, Some("s390x")),
            (2, 1, 243, Some("riscv64")),
            (2, 1, 0xffff, None),
        ] {
            assert_eq!(word(&header(class, data, machine)), expected);
        }
        assert_eq!(word(b"#!/bin/sh"), None);
        assert_eq!(word(b"\x7fELF\x02"), None);
    }
}
