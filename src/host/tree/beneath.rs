//! Opening directories below a directory, where nothing on the way may be a symbolic link.
//!
//! openat2(2) does it in one call: `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` hold for every component, whatever other
//! processes do meanwhile. Where it is missing or blocked (an old kernel, a seccomp filter) the path is walked component
//! by component, each opened with `O_NOFOLLOW` in the directory before. Names have been checked, so no component is `..`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How a directory is opened: to be read, synced and changed.
pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes of a path that one call takes: PATH_MAX is 4,096 with the NUL.
const CALL_BYTES: usize = 4_000;

/// Opens directories beneath another, by the way that works here.
#[derive(Debug)]
pub(crate) struct Beneath {
    openat2: AtomicBool,
}

impl Beneath {
    pub(crate) fn new() -> Self {
        Self { openat2: AtomicBool::new(true) }
    }

    /// One that walks, as where openat2 is blocked.
    #[cfg(test)]
    pub(crate) fn walking() -> Self {
        Self { openat2: AtomicBool::new(false) }
    }

    /// The directory at the relative path `path`, whose names are checked, below `root`.
    pub(crate) fn open(&self, root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while !rest.is_empty() {
            let (part, after) = cut(rest);
            let below = at.as_ref().map_or(root, |at| at.as_fd());
            at = Some(self.open_part(below, part)?);
            rest = after;
        }
        at.map_or_else(|| rustix::fs::openat(root, c".", DIRECTORY, Mode::empty()), Ok)
    }

    fn open_part(&self, root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
        if self.openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            // A rename anywhere while `..` is resolved makes it EAGAIN; there is no `..`, but the kernel may say so.
            for _ in 0..64 {
                match rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(Errno::NOSYS | Errno::PERM) => {
                        self.openat2.store(false, Ordering::Relaxed);
                        break;
                    }
                    opened => return opened,
                }
            }
        }
        let mut at: Option<OwnedFd> = None;
        for name in path.split(|byte| *byte == b'/') {
            let below = at.as_ref().map_or(root, |at| at.as_fd());
            at = Some(open_one(below, name)?);
        }
        at.ok_or(Errno::NOENT)
    }
}

/// The directory `name` in `parent`; a symbolic link is not followed.
pub(crate) fn open_one(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())
}

/// As many leading components as one call takes, and the rest.
fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= CALL_BYTES {
        return (path, b"");
    }
    // A name is far shorter than a call's path, so there is a slash.
    let slash = path[..CALL_BYTES].iter().rposition(|byte| *byte == b'/').unwrap_or(path.len());
    (&path[..slash], path.get(slash + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_by_neither_way() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in/a/b")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        symlink("a", dir.path().join("in/inside")).unwrap();
        symlink("../out", dir.path().join("in/outside")).unwrap();
        symlink(dir.path().join("out"), dir.path().join("in/a/absolute")).unwrap();
        let root = std::fs::File::open(dir.path().join("in")).unwrap();
        for beneath in [Beneath::new(), Beneath::walking()] {
            for path in ["", "a", "a/b"] {
                beneath.open(root.as_fd(), path.as_bytes()).unwrap();
            }
            for path in ["inside", "inside/b", "outside", "a/absolute", "a/absolute/x", "none", "a/b/c"] {
                beneath.open(root.as_fd(), path.as_bytes()).unwrap_err();
            }
        }
    }

    #[test]
    fn paths_past_the_kernels_longest_are_opened_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let name = [b'n'; 250];
        let mut path = Vec::new();
        for beneath in [Beneath::new(), Beneath::walking()] {
            for _ in 0..20 {
                let parent = beneath.open(root.as_fd(), &path).unwrap();
                rustix::fs::mkdirat(&parent, &name[..], Mode::RWXU).unwrap();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
            }
            beneath.open(root.as_fd(), &path).unwrap();
        }
        assert!(path.len() > 10_000);
    }
}
