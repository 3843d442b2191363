//! Images of generated trees, and where the kernel shows the same tree.

use std::path::{Path, PathBuf};

use super::mounted::{Mounted, can_mount};
use super::support::{have, root, shell};

/// An image of an ext4, and the same tree on the host.
pub struct Guest {
    pub directory: tempfile::TempDir,
    mount: Option<Mounted>,
}

/// Makes files of every size, mode, kind and name.
const TREE: &str = r#"
mkdir -p tree/etc tree/a/b/c/d tree/a-b tree/empty tree/links tree/sizes tree/modes tree/names tree/old
cd tree
printf 'root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nstaff:x:50:\nalice:x:1000:\n' >etc/group
for size in 0 1 511 512 513 1023 1024 1025 4096 4097 1048575 1048576 1048577 3000000; do
    head -c $size /dev/zero | tr '\0' x >sizes/f$size
done
truncate -s 5M sizes/sparse; printf end >>sizes/sparse
for mode in 0644 0600 0755 4755 2755 6711 0444 0000 1644; do : >modes/m$mode; chmod $mode modes/m$mode; done
mkdir modes/sticky modes/private; chmod 1777 modes/sticky; chmod 0700 modes/private
for name in .hidden lower.txt Upper.TXT 'sp ace' 'star*' '[x]' 'back\slash' a.b 7up; do echo "$name" >"names/$name"; done
echo latin >"names/$(printf 'caf\351')"
echo deep >a/b/c/d/deep.txt; echo mid >a/b/mid.txt; echo other >a-b/other
ln -s ../etc/passwd links/sym; ln -s nowhere links/dangling
echo twice >links/one; ln links/one links/two; ln links/one links/three
head -c 70000 /dev/zero >links/big; ln links/big links/big2
mkfifo links/fifo
for name in x y; do echo $name >old/$name; done
touch -d '2019-06-01 12:00:00.25 UTC' old/x; touch -d '10 days ago 12 hours ago' old/y
touch -a -d '2021-01-01 UTC' old/y; touch -d '2150-01-01 UTC' old; touch -d '1960-01-01 UTC' a-b/other
"#;

/// What only root can make.
const OWNED: &str = r#"
cd tree
mknod links/null c 1 3; mknod links/loop b 7 200
chown 1000:1000 names names/lower.txt; chown 0:50 sizes/f1; chown 12345:54321 sizes/f512
"#;

impl Guest {
    /// `None`, said aloud, where there is no mke2fs.
    pub fn new(more: &str) -> Option<Self> {
        if !have("mke2fs") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        shell(directory.path(), TREE);
        if root() {
            shell(directory.path(), OWNED);
        }
        if have("setfattr") {
            let tried = "setfattr -n user.colour -v blue tree/names/lower.txt || true
                         setfattr -n user.taste -v sour tree/a || true";
            shell(directory.path(), tried);
        }
        shell(directory.path(), more);
        Some(Self::of(directory))
    }

    /// An image of what is in `tree` below `directory`.
    pub fn of(directory: tempfile::TempDir) -> Self {
        shell(directory.path(), "mke2fs -q -t ext4 -d tree guest.raw 96M 2>&1");
        let image = directory.path().join("guest.raw");
        let mount = can_mount().then(|| Mounted::new(&image, "ro").unwrap());
        Self { directory, mount }
    }

    pub fn image(&self) -> PathBuf {
        self.directory.path().join("guest.raw")
    }

    /// Whether the kernel shows the image itself, and not the tree that it was made from.
    pub fn is_mounted(&self) -> bool {
        self.mount.is_some()
    }

    /// The kernel's view of the tree.
    pub fn tree(&self) -> PathBuf {
        self.mount.as_ref().map_or_else(|| self.directory.path().join("tree"), Mounted::path)
    }

    /// What a shell script prints in the kernel's view.
    pub fn kernel(&self, script: &str) -> Vec<u8> {
        shell(&self.tree(), script).stdout
    }
}

/// Pieces between zeroes, without what only an image has.
pub fn pieces(bytes: &[u8]) -> Vec<Vec<u8>> {
    let pieces = bytes.split(|byte| *byte == 0).filter(|piece| !piece.is_empty() && *piece != b"lost+found");
    pieces.map(<[u8]>::to_vec).collect()
}

/// Bytes to be read in a failed test.
pub fn shown(bytes: &[u8]) -> String {
    guestctl::bytes::escape(bytes)
}

/// Text with one word in place of another.
pub fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
