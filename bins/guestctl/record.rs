//! One guest path as one JSON line, with stable names.
//!
//! `path` is always text: a name that is not UTF-8 has its bad bytes escaped as `\xNN`, and `path_b64` then holds the
//! bytes. The same goes for `target`. Attribute values are base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use guestctl::bytes::escape;
use guestctl::fs::{FileType, Metadata, Xattr};
use serde::Serialize;
use serde_json::{Map, Value};

/// The line.
#[derive(Debug, Serialize)]
pub struct Record {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<String>,
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Permission bits as four or more octal digits.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    pub nlink: u64,
    pub inode: u64,
    /// Nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Where a symbolic link leads; null for anything else.
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_b64: Option<String>,
    /// `major:minor` of a device node; null for anything else.
    pub rdev: Option<String>,
    /// Name to value in base64.
    pub xattrs: Map<String, Value>,
    /// Digests under their algorithms' names.
    #[serde(flatten)]
    pub digests: Map<String, Value>,
}

impl Record {
    pub fn new(path: &[u8], metadata: &Metadata, target: Option<&[u8]>, xattrs: &[Xattr]) -> Self {
        let (path, path_b64) = text(path);
        let (target, target_b64) = target.map(text).map_or((None, None), |(target, b64)| (Some(target), b64));
        let value = |xattr: &Xattr| (text(&xattr.name).0, Value::String(BASE64.encode(&xattr.value)));
        Self {
            path,
            path_b64,
            file_type: metadata.file_type,
            mode: format!("{:04o}", metadata.permissions),
            uid: metadata.uid,
            gid: metadata.gid,
            size: metadata.size,
            nlink: metadata.nlink,
            inode: metadata.inode,
            mtime_ns: metadata.mtime.total_nanoseconds(),
            target,
            target_b64,
            rdev: metadata.rdev.map(|device| format!("{}:{}", device.major, device.minor)),
            xattrs: xattrs.iter().map(value).collect(),
            digests: Map::new(),
        }
    }
}

/// Bytes as text, and in base64 too when they are not UTF-8.
pub fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (escape(bytes), Some(BASE64.encode(bytes))),
    }
}
