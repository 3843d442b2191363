//! The manifest beside a tree: one line of JSON for each entry, with everything that the guest says of it.
//!
//! The host may not hold an owner, a device or a label, and by default is not asked to; the manifest has them all, so that
//! tree and manifest together are the guest's tree again. Its first line tells what it is, its last one that it is
//! complete:
//!
//! ```text
//! {"guestctl_manifest":1,"guest_path":"/srv"}
//! {"path":"","type":"dir","mode":"0755","uid":0,"gid":0,"size":4096,"nlink":3,"mtime_ns":…,"atime_ns":…,"ctime_ns":…}
//! {"path":"a","type":"file",…,"hard_link":"…","xattrs":[{"name":"user.x","value_b64":"…"}]}
//! {"complete":true,"entries":2,"problems":0}
//! ```
//!
//! `path` is below the copied directory and is always text; where the bytes are none, they are in `path_b64` too, and so for
//! link targets and names of attributes. `host_path` is there when the host's path is another. `unreadable` lists
//! bytes of the file that are zeroes because the image could not give them. `missing` says that the host has no such entry.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;

use super::super::bulk::Member;
use crate::bytes::{escape, is_steering};
use crate::error::{Error, Result};

/// The version of the form.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Head<'a> {
    guestctl_manifest: u32,
    guest_path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_path_b64: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    path: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_path: Option<String>,
    #[serde(rename = "type")]
    file_type: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    nlink: u64,
    mtime_ns: i128,
    atime_ns: i128,
    ctime_ns: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    crtime_ns: Option<i128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hard_link_b64: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<Lost>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    missing: bool,
}

#[derive(Serialize)]
struct Attribute<'a> {
    name: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_b64: Option<String>,
    value_b64: String,
}

#[derive(Serialize)]
struct Lost {
    offset: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tail {
    complete: bool,
    entries: u64,
    problems: u64,
}

/// The first line.
pub(super) fn head(guest_path: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let (path, b64) = text(guest_path);
    put(&Head { guestctl_manifest: VERSION, guest_path: &path, guest_path_b64: b64 }, out)
}

/// The last line.
pub(super) fn tail(entries: u64, problems: u64, out: &mut Vec<u8>) -> Result<()> {
    put(&Tail { complete: true, entries, problems }, out)
}

/// An entry's line. `host` is the host's path when it is another, `missing` says that there is none.
pub(super) fn entry(
    member: &Member,
    host: Option<&[u8]>,
    unreadable: &[Range<u64>],
    missing: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    let metadata = &member.metadata;
    let (path, path_b64) = text(&member.relative);
    let (target, target_b64) = optional(member.target.as_deref());
    let (hard_link, hard_link_b64) = optional(member.hard_link.as_deref());
    let attribute = |xattr: &'_ crate::fs::Xattr| BASE64.encode(&xattr.value);
    let xattrs = member.xattrs.iter().map(|xattr| {
        let (name, name_b64) = text(&xattr.name);
        Attribute { name, name_b64, value_b64: attribute(xattr) }
    });
    let line = Line {
        path,
        path_b64,
        host_path: host.map(|path| String::from_utf8_lossy(path).into_owned()),
        file_type: metadata.file_type.name(),
        mode: format!("{:04o}", metadata.permissions),
        uid: metadata.uid,
        gid: metadata.gid,
        size: metadata.size,
        nlink: metadata.nlink,
        mtime_ns: metadata.mtime.total_nanoseconds(),
        atime_ns: metadata.atime.total_nanoseconds(),
        ctime_ns: metadata.ctime.total_nanoseconds(),
        crtime_ns: metadata.crtime.map(|time| time.total_nanoseconds()),
        rdev: metadata.rdev.map(|device| format!("{}:{}", device.major, device.minor)),
        target,
        target_b64,
        hard_link,
        hard_link_b64,
        xattrs: xattrs.collect(),
        unreadable: unreadable
            .iter()
            .map(|range| Lost { offset: range.start, bytes: range.end.saturating_sub(range.start) })
            .collect(),
        missing,
    };
    put(&line, out)
}

/// Bytes as text, and in base64 too when they are not UTF-8.
fn text(bytes: &[u8]) -> (std::borrow::Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), None),
        Err(_) => (escape(bytes).into(), Some(BASE64.encode(bytes))),
    }
}

fn optional(bytes: Option<&[u8]>) -> (Option<std::borrow::Cow<'_, str>>, Option<String>) {
    bytes.map(text).map_or((None, None), |(text, b64)| (Some(text), b64))
}

/// One line; characters that steer a terminal are written as numbers, which is the same text to any parser.
fn put(value: &impl Serialize, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    let written = serde_json::to_writer(&mut *out, value);
    written.map_err(|error| Error::io("write", "the manifest", std::io::Error::from(error)))?;
    if out[start..].iter().any(|byte| *byte >= 0x7f) {
        // What serde_json writes is UTF-8.
        let line = String::from_utf8_lossy(&out[start..]).into_owned();
        out.truncate(start);
        for character in line.chars() {
            if character == '\u{7f}' || is_steering(character) {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
                }
            } else {
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_inert_on_a_terminal_and_says_what_it_is() {
        let mut out = Vec::new();
        head("/a\u{1b}[2J\u{85}\u{202e}\u{7f}é".as_bytes(), &mut out).unwrap();
        tail(3, 0, &mut out).unwrap();
        let expected = "{\"guestctl_manifest\":1,\"guest_path\":\"/a\\u001b[2J\\u0085\\u202e\\u007fé\"}\n\
                        {\"complete\":true,\"entries\":3,\"problems\":0}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        head(b"/\xff", &mut out).unwrap();
        let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&line["guest_path"], &line["guest_path_b64"]), (&r"/\xff".into(), &"L/8=".into()));
    }
}
