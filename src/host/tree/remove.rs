//! Taking a tree away again, whatever its directories' modes and however deep it is, without following a link.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::{Beneath, open_one};

/// Removes the directory `name` in `parent` with everything below it.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    // A subvolume of btrfs goes at once, where the caller may have that; else as a directory, which a read-only one is not.
    if crate::sys::destroy_subvolume(parent, name).is_ok() {
        return Ok(());
    }
    let root = open_writable(parent, name)?;
    if matches!(rustix::fs::fchmod(&root, Mode::RWXU), Err(Errno::ROFS))
        && crate::sys::set_subvolume_read_only(root.as_fd(), false).is_ok()
    {
        let _ = rustix::fs::fchmod(&root, Mode::RWXU);
    }
    let beneath = Beneath::new();
    // The path of the directory that is looked at, and the directories still to be removed in each on the way.
    let mut path: Vec<Vec<u8>> = Vec::new();
    let mut pending = vec![empty(root.as_fd())?];
    while let Some(directories) = pending.last_mut() {
        let above = path.join(&b'/');
        if let Some(next) = directories.pop() {
            let directory = beneath.open(root.as_fd(), &above)?;
            let below = open_writable(directory.as_fd(), &next)?;
            let inside = empty(below.as_fd())?;
            if inside.is_empty() {
                rustix::fs::unlinkat(&directory, &next[..], AtFlags::REMOVEDIR)?;
            } else {
                path.push(next);
                pending.push(inside);
            }
            continue;
        }
        pending.pop();
        if let Some(done) = path.pop() {
            let directory = beneath.open(root.as_fd(), &path.join(&b'/'))?;
            rustix::fs::unlinkat(&directory, &done[..], AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes what is no directory, and tells the directories.
fn empty(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut directories = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode).is_dir()
            }
            _ => false,
        };
        if is_dir {
            directories.push(name.to_bytes().to_vec());
        } else {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(directories)
}

/// Opens a directory so that its entries can be removed: its owner may have been left without the permission.
fn open_writable(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let directory = match open_one(parent, name) {
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let closed = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            rustix::fs::chmod(format!("/proc/self/fd/{}", closed.as_raw_fd()), Mode::RWXU)?;
            open_one(parent, name)?
        }
        opened => opened?,
    };
    // Refused only where the directory is another's, and then removing will say so.
    let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn everything_goes_and_nothing_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::write(tree.join("a/b/file"), b"x").unwrap();
        std::fs::write(dir.path().join("kept"), b"x").unwrap();
        std::fs::create_dir(dir.path().join("kept.d")).unwrap();
        std::fs::write(dir.path().join("kept.d/inner"), b"x").unwrap();
        symlink("../../kept.d", tree.join("a/link")).unwrap();
        symlink("../kept", tree.join("link")).unwrap();
        for closed in ["a/b/c", "a/b", "a"] {
            std::fs::set_permissions(tree.join(closed), std::fs::Permissions::from_mode(0o0)).unwrap();
        }
        let parent = std::fs::File::open(dir.path()).unwrap();
        remove_tree(parent.as_fd(), b"tree").unwrap();
        assert!(!tree.exists() && dir.path().join("kept").exists() && dir.path().join("kept.d/inner").exists());
        assert_eq!(remove_tree(parent.as_fd(), b"kept").unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn depth_takes_no_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let parent = std::fs::File::open(dir.path()).unwrap();
        let mut at: OwnedFd = parent.try_clone().unwrap().into();
        for _ in 0..2_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_one(at.as_fd(), b"d").unwrap();
        }
        drop(at);
        remove_tree(parent.as_fd(), b"d").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
