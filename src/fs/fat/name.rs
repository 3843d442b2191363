//! Names: short ones in the DOS code page, long ones in UTF-16, both given out as UTF-8.
//!
//! "FAT32 File System Specification" 1.03, sections "FAT Directory Structure" and "FAT Long Directory Entries".
//!
//! A short name is eight bytes and three, filled with blanks, upper-case, in code page 437 (Linux's default). Byte 0x05
//! in the first place stands for 0xE5. The flags at byte 12 (Windows NT's) ask to show the base (0x08) or the extension
//! (0x10) in lower case; Linux honours them (`shortname=mixed`) and so do we. A NUL ends a part.
//!
//! A long name is UTF-16. A surrogate without its partner is kept in its three-byte (WTF-8) form: nothing is lost, two
//! names stay two, and `lookup` finds what `read_dir` showed. (Linux with `utf8` drops such a unit, which can make two
//! names one.)

/// Lower-case base, lower-case extension.
const LOWER_BASE: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;

/// Code page 437 from 0x80 on.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                     αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// One character of code page 437.
fn character(byte: u8) -> char {
    match byte.checked_sub(0x80) {
        None => char::from(byte),
        Some(high) => CP437.chars().nth(usize::from(high)).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

/// Its lower case, when the code page has that too.
fn lower(character: char) -> char {
    let mut lower = character.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) if one.is_ascii() || CP437.contains(one) => one,
        _ => character,
    }
}

/// A short name as Linux shows it; empty when there is nothing but blanks.
pub(super) fn short_name(raw: &[u8; 11], flags: u8) -> Vec<u8> {
    let (base, extension) = raw.split_at(8);
    let mut name = part(base, flags & LOWER_BASE != 0, true);
    let extension = part(extension, flags & LOWER_EXTENSION != 0, false);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name.into_bytes()
}

fn part(bytes: &[u8], is_lower: bool, is_base: bool) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = bytes.iter().take(end).enumerate().map(|(index, &byte)| {
        let byte = if is_base && index == 0 && byte == 0x05 { 0xe5 } else { byte };
        if is_lower { lower(character(byte)) } else { character(byte) }
    });
    text.collect::<String>().trim_end_matches(' ').to_owned()
}

/// A volume label: eleven bytes of the code page, `None` when blank or the placeholder that formatters write.
pub(super) fn label(raw: &[u8; 11]) -> Option<String> {
    let label = part(raw, false, true);
    (!label.is_empty() && label != "NO NAME").then_some(label)
}

/// The sum over a short name that each of its long entries repeats.
pub(super) fn checksum(raw: &[u8; 11]) -> u8 {
    raw.iter().fold(0u8, |sum, &byte| sum.rotate_right(1).wrapping_add(byte))
}

/// A long name's units, up to the NUL or the end, as UTF-8 (WTF-8 for lone surrogates).
pub(super) fn long_name(units: &[u16]) -> Vec<u8> {
    let mut name = Vec::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied().take_while(|&unit| unit != 0)) {
        match unit {
            Ok(character) => name.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(error) => {
                let [high, low] = error.unpaired_surrogate().to_be_bytes();
                name.extend([0xe0 | (high >> 4), 0x80 | ((high & 0xf) << 2) | (low >> 6), 0x80 | (low & 0x3f)]);
            }
        }
    }
    name
}

/// A name without case: names whose folds are equal name the same file. One upper-case character for one, as in the
/// tables of Windows; `ß`, whose upper case is two, stays.
pub(super) fn fold(name: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut upper = character.to_uppercase();
            let one = match (upper.next(), upper.next()) {
                (Some(one), None) => one,
                _ => character,
            };
            folded.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes());
        }
        folded.extend_from_slice(chunk.invalid());
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_shown_as_linux_shows_them() {
        let cases: [(&[u8; 11], u8, &str); 12] = [
            (b"README  TXT", 0, "README.TXT"),
            (b"README  TXT", 0x08, "readme.TXT"),
            (b"README  TXT", 0x10, "README.txt"),
            (b"README  TXT", 0x18, "readme.txt"),
            (b"NOEXT      ", 0, "NOEXT"),
            (b"        TXT", 0, ".TXT"),
            (b"A B     C D", 0, "A B.C D"),
            (b"           ", 0, ""),
            (b"\x05BC     TXT", 0, "σBC.TXT"),
            (b"\x80\x9a\xe1     \xff  ", 0, "ÇÜß.\u{a0}"),
            (b"\x80\x9a\xe2\xe8    TXT", 0x08, "çüΓφ.TXT"),
            (b"AB\0CD   TXT", 0, "AB.TXT"),
        ];
        for (raw, flags, name) in cases {
            assert_eq!(String::from_utf8(short_name(raw, flags)).unwrap(), name);
        }
        assert_eq!(CP437.chars().count(), 128);
    }

    #[test]
    fn long_names_lose_nothing() {
        let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
        assert_eq!(long_name(&units("Grüße 🦀.txt")), "Grüße 🦀.txt".as_bytes());
        assert_eq!(long_name(&[0x61, 0, 0xffff, 0xffff]), b"a");
        assert_eq!(long_name(&[0xd83e, 0x61]), b"\xed\xa0\xbea");
        assert_ne!(long_name(&[0xdc00]), long_name(&[0xdc01]));
    }

    #[test]
    fn labels_and_sums() {
        assert_eq!(label(b"EFI SYSTEM ").as_deref(), Some("EFI SYSTEM"));
        assert_eq!(label(b"NO NAME    "), None);
        assert_eq!(label(b"           "), None);
        assert_eq!(checksum(b"README  TXT"), 0x73);
        assert_eq!(checksum(b"           "), 0xf7);
    }

    #[test]
    fn folding_is_simple_upper_case() {
        assert_eq!(fold("Grüße.Txt".as_bytes()), fold("GRÜßE.tXT".as_bytes()));
        assert_ne!(fold("ß".as_bytes()), fold(b"SS"));
        assert_eq!(fold(b"a\xed\xa0\xbeb"), b"A\xed\xa0\xbeB");
    }
}
