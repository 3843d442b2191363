//! Recipes as they are written (TOML); `images/README.md` explains them. Unknown keys are errors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::Result;

/// One disk.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    pub(crate) image: Image,
    /// Files that several partitions share, by name.
    #[serde(default)]
    pub(crate) tree: BTreeMap<String, Files>,
    #[serde(rename = "partition")]
    pub(crate) partitions: Vec<Partition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// The files are called this.
    pub(crate) name: String,
    pub(crate) size: Size,
    pub(crate) formats: Vec<Format>,
    #[serde(default)]
    pub(crate) table: TableKind,
    /// The disk's GUID (GPT).
    pub(crate) uuid: Option<String>,
    /// The disk's signature (MBR).
    #[serde(default)]
    pub(crate) signature: u32,
    /// When everything happened that says nothing else; seconds since 1970. The default is 2025-01-01.
    #[serde(default = "default_time")]
    pub(crate) time: i64,
}

fn default_time() -> i64 {
    1_735_689_600
}

/// An image format of qemu-img, perhaps with options.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Format {
    Name(String),
    #[serde(rename_all = "kebab-case")]
    With {
        format: String,
        /// Compress the clusters.
        #[serde(default)]
        compressed: bool,
        /// `-o` of qemu-img.
        options: Option<String>,
        /// The file's extension when it is not the format; two files of one format need two.
        extension: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TableKind {
    #[default]
    Gpt,
    Mbr,
    /// One filesystem on the whole disk.
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Partition {
    /// `linux`, `esp` … or a GUID (GPT) or a byte like `0x83` (MBR).
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) uuid: Option<String>,
    /// All that is left when not given.
    pub(crate) size: Option<Size>,
    /// MBR: inside the extended partition.
    #[serde(default)]
    pub(crate) logical: bool,
    /// MBR: marked as active.
    #[serde(default)]
    pub(crate) boot: bool,
    pub(crate) fs: Option<Filesystem>,
    /// Which of the shared trees it holds beside the files of its own.
    #[serde(default)]
    pub(crate) trees: Vec<String>,
    #[serde(default)]
    pub(crate) dir: Vec<Entry>,
    #[serde(default)]
    pub(crate) file: Vec<Entry>,
    #[serde(default)]
    pub(crate) symlink: Vec<Entry>,
    #[serde(default)]
    pub(crate) hardlink: Vec<Entry>,
    #[serde(default)]
    pub(crate) device: Vec<Entry>,
    #[serde(default)]
    pub(crate) fifo: Vec<Entry>,
}

/// Files that several partitions share.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Files {
    #[serde(default)]
    pub(crate) dir: Vec<Entry>,
    #[serde(default)]
    pub(crate) file: Vec<Entry>,
    #[serde(default)]
    pub(crate) symlink: Vec<Entry>,
    #[serde(default)]
    pub(crate) hardlink: Vec<Entry>,
    #[serde(default)]
    pub(crate) device: Vec<Entry>,
    #[serde(default)]
    pub(crate) fifo: Vec<Entry>,
}

impl Recipe {
    /// Everything that a partition holds: the shared trees it names, then its own.
    pub(crate) fn files(&self, partition: &Partition) -> Result<Files> {
        let Partition { dir, file, symlink, hardlink, device, fifo, .. } = partition;
        let own = [dir, file, symlink, hardlink, device, fifo].map(Vec::clone);
        let [dir, file, symlink, hardlink, device, fifo] = own;
        let mut all = Files { dir, file, symlink, hardlink, device, fifo };
        for name in &partition.trees {
            let shared = self.tree.get(name).ok_or_else(|| format!("there is no tree '{name}'"))?.clone();
            all.dir.extend(shared.dir);
            all.file.extend(shared.file);
            all.symlink.extend(shared.symlink);
            all.hardlink.extend(shared.hardlink);
            all.device.extend(shared.device);
            all.fifo.extend(shared.fifo);
        }
        Ok(all)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FsType {
    Ext2,
    Ext3,
    Ext4,
    Vfat,
    Swap,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filesystem {
    #[serde(rename = "type")]
    pub(crate) kind: FsType,
    #[serde(default)]
    pub(crate) label: String,
    /// ext, swap: a UUID; vfat: eight hexadecimal digits.
    pub(crate) uuid: String,
    /// ext: added to the type's usual ones, `^` takes one away.
    #[serde(default)]
    pub(crate) features: Vec<String>,
    /// ext: bytes of a block.
    pub(crate) block_size: Option<u64>,
    /// ext: bytes of an inode.
    #[serde(default = "default_inode_size")]
    pub(crate) inode_size: u64,
    /// ext: inodes in all.
    pub(crate) inodes: Option<u64>,
    /// ext: the journal's size in MiB.
    pub(crate) journal: Option<u64>,
    /// ext: the largest directories get their hash tree (e2fsck -D).
    #[serde(default)]
    pub(crate) index: bool,
    /// More arguments for the formatting program.
    #[serde(default)]
    pub(crate) arguments: Vec<String>,
}

fn default_inode_size() -> u64 {
    256
}

/// One path. Which of the keys make sense depends on the list it stands in; `tree` checks that.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) path: Option<String>,
    /// The path's bytes in hexadecimal, for what is not UTF-8.
    pub(crate) path_hex: Option<String>,
    /// So many entries, `{n}` in path, target and content stands for 0, 1, 2 …
    pub(crate) count: Option<u64>,
    /// Octal, as text.
    pub(crate) mode: Option<String>,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) mtime: Option<i64>,
    #[serde(default)]
    pub(crate) mtime_nanoseconds: u32,
    #[serde(default)]
    pub(crate) xattrs: BTreeMap<String, Content>,
    /// A file's content.
    pub(crate) content: Option<Content>,
    /// Where a symbolic or hard link leads.
    pub(crate) target: Option<Content>,
    /// `char` or `block`.
    pub(crate) kind: Option<String>,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    /// A directory that ignores case.
    #[serde(default)]
    pub(crate) casefold: bool,
}

/// Bytes, written in the shortest way.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    #[serde(rename_all = "kebab-case")]
    Hex {
        hex: String,
    },
    /// The pattern again and again, up to a length.
    Repeat {
        repeat: String,
        len: Size,
    },
    /// Bytes that do not compress, the same for the same seed.
    Random {
        random: u32,
        len: Size,
    },
    /// Nothing but these pieces: (offset, text).
    Sparse {
        len: Size,
        data: Vec<(Size, String)>,
    },
    /// A POSIX ACL in getfacl's short text form: `u::rw-,u:1000:r--,g::r--,m::r--,o::---`.
    Acl {
        acl: String,
    },
}

/// Bytes: a number, or text with `K`, `M`, `G` or `T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub(crate) struct Size(pub(crate) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;

    fn try_from(text: SizeText) -> Result<Self, String> {
        let text = match text {
            SizeText::Number(bytes) => return Ok(Self(bytes)),
            SizeText::Text(text) => text,
        };
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'K')) => (&text[..at], 10),
            Some((at, 'M')) => (&text[..at], 20),
            Some((at, 'G')) => (&text[..at], 30),
            Some((at, 'T')) => (&text[..at], 40),
            _ => (&text[..], 0),
        };
        let size = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        size.map(Self).ok_or_else(|| format!("'{text}' is no size: write a number, and K, M, G or T"))
    }
}

/// Reads a recipe.
pub(crate) fn read(path: &Path) -> Result<Recipe> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the recipe: {error}"))?;
    Ok(toml::from_str(&text)?)
}
