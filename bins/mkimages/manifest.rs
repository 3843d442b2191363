//! What a reader must find in an image, computed from the recipe and never by reading the image.
//!
//! JSON, one line per path, so that a difference is a line. The fields are those of the program's own listings; times are
//! nanoseconds since 1970, extended attributes base64. A directory has no `size`: that is the filesystem's own affair.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guestctl::bytes::escape;
use serde::Serialize;

use crate::Result;
use crate::partition::{Place, gpt_type, mbr_type};
use crate::recipe::{FsType, Partition, Recipe, TableKind};
use crate::tree::{Kind, Tree};

/// The head of a manifest; the partitions follow it.
#[derive(Debug, Serialize)]
struct Head<'a> {
    image: &'a str,
    size: u64,
    table: &'static str,
}

/// One partition and its filesystem.
#[derive(Debug, Serialize)]
struct PartitionLine<'a> {
    number: u32,
    start: u64,
    size: u64,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem_uuid: Option<String>,
}

/// One path.
#[derive(Debug, Serialize)]
struct PathLine {
    path: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    nlink: u64,
    mtime_ns: i128,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// `major:minor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// A manifest in the making.
#[derive(Debug)]
pub(crate) struct Manifest<'a> {
    head: Head<'a>,
    table: TableKind,
    partitions: Vec<(PartitionLine<'a>, Vec<PathLine>)>,
}

impl<'a> Manifest<'a> {
    pub(crate) fn new(recipe: &'a Recipe) -> Self {
        let table = match recipe.image.table {
            TableKind::Gpt => "gpt",
            TableKind::Mbr => "mbr",
            TableKind::None => "none",
        };
        let head = Head { image: &recipe.image.name, size: recipe.image.size.0, table };
        Self { head, table: recipe.image.table, partitions: Vec::new() }
    }

    /// Adds a partition, and the paths of its filesystem when it has one.
    pub(crate) fn add(&mut self, partition: &'a Partition, place: Place, tree: Option<&Tree>) -> Result<()> {
        let fs = partition.fs.as_ref();
        let line = PartitionLine {
            number: place.number,
            start: place.start,
            size: place.size,
            kind: match self.table {
                TableKind::Gpt => gpt_type(&partition.kind)?.to_string(),
                TableKind::Mbr => format!("{:#04x}", mbr_type(&partition.kind)?),
                TableKind::None => String::new(),
            },
            name: &partition.name,
            uuid: partition.uuid.as_deref(),
            filesystem: fs.map(|fs| match fs.kind {
                FsType::Ext2 => "ext2",
                FsType::Ext3 => "ext3",
                FsType::Ext4 => "ext4",
                FsType::Vfat => "vfat",
                FsType::Swap => "swap",
            }),
            label: fs.map(|fs| fs.label.as_str()).filter(|label| !label.is_empty()),
            filesystem_uuid: fs.map(|fs| match (fs.kind, fs.uuid.split_at_checked(4)) {
                (FsType::Vfat, Some((high, low))) => format!("{high}-{low}").to_uppercase(),
                _ => fs.uuid.clone(),
            }),
        };
        let paths = tree.map(|tree| tree.nodes.keys().map(|path| path_line(tree, path)).collect());
        self.partitions.push((line, paths.unwrap_or_default()));
        Ok(())
    }

    /// The manifest's text.
    pub(crate) fn to_json(&self) -> Result<String> {
        let open = |object: String| object.trim_end_matches('}').to_owned();
        let mut text = open(serde_json::to_string(&self.head)?);
        text.push_str(",\"partitions\":[");
        for (index, (line, paths)) in self.partitions.iter().enumerate() {
            text.push_str(if index == 0 { "\n" } else { ",\n" });
            text.push_str(&open(serde_json::to_string(line)?));
            text.push_str(",\"paths\":[");
            for (index, path) in paths.iter().enumerate() {
                text.push_str(if index == 0 { "\n" } else { ",\n" });
                text.push_str(&serde_json::to_string(path)?);
            }
            text.push_str("]}");
        }
        text.push_str("]}\n");
        Ok(text)
    }
}

fn path_line(tree: &Tree, path: &[u8]) -> PathLine {
    let (_, node) = tree.inode(path);
    let (kind, size) = match &node.kind {
        Kind::Dir { .. } => ("dir", None),
        Kind::File(data) => ("file", Some(data.len)),
        Kind::Symlink(target) => ("symlink", Some(target.len() as u64)),
        Kind::Char(..) => ("char", Some(0)),
        Kind::Block(..) => ("block", Some(0)),
        Kind::Fifo => ("fifo", Some(0)),
        Kind::HardLink(_) => ("hardlink", None),
    };
    PathLine {
        path: escape(path),
        kind,
        mode: format!("{:04o}", node.mode),
        uid: node.uid,
        gid: node.gid,
        size,
        nlink: node.links,
        mtime_ns: i128::from(node.mtime.0) * 1_000_000_000 + i128::from(node.mtime.1),
        target: match &node.kind {
            Kind::Symlink(target) => Some(escape(target)),
            _ => None,
        },
        rdev: match &node.kind {
            Kind::Char(major, minor) | Kind::Block(major, minor) => Some(format!("{major}:{minor}")),
            _ => None,
        },
        xattrs: node.xattrs.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value))).collect(),
        sha256: match &node.kind {
            Kind::File(data) => Some(data.sha256()),
            _ => None,
        },
    }
}
