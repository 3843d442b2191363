//! The manifest: one guest tree in one flat file, with all that a guest knows of its files.
//!
//! The file is *canonical*: the same tree gives the same bytes, and its BLAKE3 digest is the tree's id. It says which blobs
//! a tree needs and nothing of where they lie, so repacking a store changes no id. It is read at any place without parsing
//! the rest: records have a fixed size, a directory's children are neighbours sorted by name, and a path is found by binary
//! search. All integers are little-endian.
//!
//! ```text
//! offset size  header (128 bytes)
//!      0    8  "GCTLTREE"
//!      8    4  version: 1
//!     12    4  feature bits that a reader must know: none yet
//!     16  112  seven sections, each offset (8) and length (8): dirs entries times xattrs sparse blobs strings;
//!              they follow one another in this order, each begins at a multiple of 8, gaps are zero
//!
//! dirs, 48 bytes each, by depth; directory 0 is the root
//!      0    4  parent directory; smaller than its own index, the root's is 0
//!      4    4  its own entry
//!      8    4  first child's entry
//!     12    4  children
//!     16   32  subtree digest: all that lies below, ids of this file not used
//!
//! entries, 64 bytes each; entry 0 is the root, then the children of directory 0, of directory 1 … sorted by name
//!      0    4  name: offset in strings          24    8  mtime seconds, signed
//!      4    2  name: length                     32    8  size in bytes (0 but for files and links)
//!      6    1  type: 0 file 1 dir 2 symlink     40    4  content a  ⎫ none 0: 0, 0      blob 2: index, 0
//!              3 char 4 block 5 fifo 6 socket   44    4  content b  ⎬ inline 1, target 3: offset in strings, length
//!      7    1  content kind                                        ⎭ directory 4: index, 0   device 5: major, minor
//!      8    2  permissions: 12 bits             48    4  hard links: 1 + entry of the first of them; 0 none
//!     10    2  zero                             52    4  extended attributes: 1 + set; 0 none
//!     12    4  uid                              56    4  sparse: 1 + map; 0 when all bytes are in the content
//!     16    4  gid                              60    4  zero
//!     20    4  mtime nanoseconds
//!
//! times, none or 40 bytes for each entry; for information, not part of subtree digests
//!      0   24  seconds of atime, ctime, crtime  24   12  their nanoseconds   36    4  1 when crtime is known
//!
//! xattrs, sparse: a list of lists
//!      0    4  n                                 4 4(n+1)  where each begins and the last ends, from the end of this table
//!              of a set: name length (2), value length (4), name, value; sorted by name
//!              of a map: offset (8), length (8) of each run of data; the blob holds these runs, one behind the other
//!
//! blobs, 40 bytes each, sorted by digest: digest (32), size (8)
//! strings: for each entry in order its name, then its link target or inline content
//! ```
//!
//! Files of at most 64 bytes are inline. A manifest from elsewhere is hostile: every accessor checks what it touches,
//! and [`Manifest::validate`] checks all.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod build;
mod entry;
mod read;
mod subtree;
#[cfg(test)]
mod tests;
mod validate;

pub use build::{Builder, NewContent, NewEntry};
pub use entry::{Content, Directory, Entry, Times};
pub use read::{Manifest, Run};

/// The format's name in errors.
const FORMAT: &str = "tree manifest";
const MAGIC: &[u8; 8] = b"GCTLTREE";
const VERSION: u32 = 1;
const HEADER: usize = 128;
const DIR: usize = 48;
const ENTRY: usize = 64;
const TIMES: usize = 40;
const BLOB: usize = 40;

/// Bytes of a file that are kept in the manifest itself.
pub const INLINE_BYTES: u64 = 64;

/// The sections, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Dirs,
    Entries,
    Times,
    Xattrs,
    Sparse,
    Blobs,
    Strings,
}

const SECTIONS: [(Section, &str); 7] = [
    (Section::Dirs, "dirs"),
    (Section::Entries, "entries"),
    (Section::Times, "times"),
    (Section::Xattrs, "xattrs"),
    (Section::Sparse, "sparse"),
    (Section::Blobs, "blobs"),
    (Section::Strings, "strings"),
];
