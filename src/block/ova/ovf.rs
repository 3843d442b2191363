//! The disks that an OVF description names: DMTF DSP0243, *Open Virtualization Format Specification* 2.1, sections 7.1
//! (References) and 9.1 (DiskSection).
//!
//! | element | attribute | meaning |
//! |---|---|---|
//! | File | ovf:id | what fileRef names |
//! | File | ovf:href | the member's name, percent-encoded where need be |
//! | File | ovf:compression | `identity`; others are refused when the disk is opened |
//! | File | ovf:chunkSize | the file comes in pieces: refused likewise |
//! | Disk | ovf:diskId | the disk's name in the description |
//! | Disk | ovf:fileRef | its file; an empty disk has none |
//!
//! This is no XML parser: it looks at start tags, whatever their namespace prefix and nesting, and passes over comments,
//! declarations and text. Elements are few and their attributes plain, so that is enough to find the names.

use std::borrow::Cow;
use std::collections::HashMap;

/// A disk with contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Disk {
    /// The member that holds it.
    pub(super) href: String,
    /// diskId, empty if the description has no Disk element for it.
    pub(super) id: String,
    pub(super) compression: Option<String>,
    pub(super) chunked: bool,
}

/// The disks in the order of the DiskSection; those whose file is not listed are left out.
pub(super) fn disks(text: &str) -> Vec<Disk> {
    let mut files: HashMap<String, Disk> = HashMap::new();
    let mut disks = Vec::new();
    for tag in StartTags(text) {
        match tag.name {
            "File" => {
                let (mut id, mut file) = (String::new(), Disk::default());
                for (name, value) in tag.attributes() {
                    match name {
                        "id" => id = value.into_owned(),
                        "href" => file.href = value.into_owned(),
                        "compression" => file.compression = Some(value.into_owned()),
                        "chunkSize" => file.chunked = true,
                        _ => {}
                    }
                }
                files.insert(id, file);
            }
            "Disk" => {
                let attribute = |wanted| tag.attributes().find(|(name, _)| *name == wanted).map(|(_, value)| value);
                if let Some(reference) = attribute("fileRef") {
                    disks.push((reference.into_owned(), attribute("diskId").unwrap_or_default().into_owned()));
                }
            }
            _ => {}
        }
    }
    let with_file = |(reference, id): (String, String)| Some(Disk { id, ..files.get(&reference)?.clone() });
    disks.into_iter().filter_map(with_file).collect()
}

/// A start or empty-element tag.
struct Tag<'a> {
    /// Without its namespace prefix.
    name: &'a str,
    /// What follows the name up to the closing bracket.
    rest: &'a str,
}

struct StartTags<'a>(&'a str);

impl<'a> Iterator for StartTags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let (_, after) = self.0.split_once('<')?;
            let end = match after.chars().next()? {
                '!' if after.starts_with("!--") => "-->",
                '!' if after.starts_with("![CDATA[") => "]]>",
                '!' | '/' | '?' => ">",
                _ => {
                    let (inside, rest) = after.split_at_checked(tag_len(after)?)?;
                    self.0 = rest;
                    let name_len = inside.find(|c: char| c.is_ascii_whitespace() || c == '/').unwrap_or(inside.len());
                    let (name, rest) = inside.split_at_checked(name_len)?;
                    return Some(Tag { name: local(name), rest });
                }
            };
            self.0 = after.split_once(end)?.1;
        }
    }
}

/// Bytes up to the bracket that closes a tag; brackets in quotes do not.
fn tag_len(text: &str) -> Option<usize> {
    let mut quote = None;
    text.char_indices().find_map(|(at, character)| {
        match (quote, character) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(character),
            (Some(open), close) if open == close => quote = None,
            _ => {}
        }
        None
    })
}

impl<'a> Tag<'a> {
    fn attributes(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> + use<'a> {
        let mut rest = self.rest;
        std::iter::from_fn(move || {
            let (name, after) = rest.split_once('=')?;
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
            let (value, after) = after.get(1..)?.split_once(quote)?;
            rest = after;
            Some((local(name.trim()), unescape(value)))
        })
    }
}

fn local(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// Replaces the five predefined entities; `&amp;` last, so that its result is not read again.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('&') {
        return value.into();
    }
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    entities.iter().fold(value.to_owned(), |value, (entity, character)| value.replace(entity, character)).into()
}

/// A href with its %XX sequences decoded; `None` if it has none that are valid.
pub(super) fn percent_decoded(href: &str) -> Option<String> {
    let mut out = Vec::with_capacity(href.len());
    let mut bytes = href.bytes();
    while let Some(byte) = bytes.next() {
        let decoded = if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            (digit(bytes.next())? << 4) | digit(bytes.next())?
        } else {
            byte
        };
        out.push(decoded);
    }
    String::from_utf8(out).ok().filter(|decoded| decoded != href)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_come_in_the_order_of_the_disk_section() {
        let text = r#"<?xml version="1.0"?><!-- <File ovf:id="no" ovf:href="no"/> -->
            <Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References>
              <File ovf:href="a &gt; b.vmdk" ovf:id='file1' ovf:size="10"/>
              <ovf:File ovf:id="file2" ovf:href="two.vmdk" ovf:compression="gzip" ovf:chunkSize="5"></ovf:File>
              <File ovf:id="file3" ovf:href="boot.iso"/></References>
            <DiskSection><Info>List of <![CDATA[<Disk ovf:fileRef="file3"/>]]> disks</Info>
              <Disk ovf:capacity="8" ovf:diskId="vmdisk2" ovf:fileRef="file2"/>
              <Disk ovf:diskId="empty" ovf:capacity="1"/>
              <Disk ovf:diskId="lost" ovf:fileRef="file9"/>
              <Disk
                 ovf:diskId = "vmdisk1" ovf:fileRef = "file1" /></DiskSection>"#;
        let expected = [
            Disk {
                href: "two.vmdk".to_owned(),
                id: "vmdisk2".to_owned(),
                compression: Some("gzip".to_owned()),
                chunked: true,
            },
            Disk { href: "a > b.vmdk".to_owned(), id: "vmdisk1".to_owned(), ..Disk::default() },
        ];
        assert_eq!(disks(text), expected);
    }

    #[test]
    fn broken_text_has_no_disks() {
        for text in
            ["", "<", "<<<", "<File", "<File ovf:id=", "<Disk ovf:fileRef=\"x", "<!--", "<Disk fileRef=x/>", "<é>"]
        {
            assert_eq!(disks(text), [], "{text}");
        }
        assert_eq!(unescape("&amp;lt;"), "&lt;");
        assert_eq!(percent_decoded("My%20VM%2edisk").as_deref(), Some("My VM.disk"));
        assert_eq!((percent_decoded("plain"), percent_decoded("100%"), percent_decoded("%zz")), (None, None, None));
    }
}
