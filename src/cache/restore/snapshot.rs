//! A tree as a snapshot of a hot one: on btrfs, the same few milliseconds whatever its size.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

use super::super::objects::Verify;
use super::super::store::Store;
use super::super::subvolume::Hot;
use super::{Digest, Restore, RestoreOptions, RestoreReport, Strategy};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{StagedTree, umask};
use crate::progress::Progress;
use crate::sys;

impl Store {
    /// Makes `target` a snapshot of the hot tree, which is made first if need be.
    pub(super) fn restore_snapshot(
        &self,
        id: &Digest,
        target: &Path,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<RestoreReport> {
        if options.copy.is_some() || options.rewrite.is_some() {
            return Err(Error::invalid("a snapshot has no files that are copied or rewritten")
                .with_hint("take the strategy auto, or leave out the patterns"));
        }
        self.check_same_btrfs(target)?;
        self.check_writable()?;
        let lease = self.lease()?;
        lease.add(id)?;
        if !self.has_tree(id)? {
            // Says that there is none.
            self.tree(id)?;
        }
        self.touch(id);
        let key = key(id, options);
        // What was looked at less closely than is asked for now is looked at again; `Always` means each time.
        let enough = |hot: &Hot| self.verification() < Verify::Always && hot.report.verified >= self.verification();
        if let Some((subvolume, hot)) = self.hot(&key)?.filter(|(_, hot)| enough(hot)) {
            match StagedTree::snapshot(target, subvolume.as_fd()) {
                Ok(staged) => {
                    staged.publish(options.sync, None, || Ok(()))?;
                    self.touch_hot(&key);
                    return Ok(again(&hot.report));
                }
                // Removed by gc meanwhile.
                Err(error) if errno(&error) == Some(Errno::NOENT) => {}
                Err(error) => return Err(of_snapshot(error)),
            }
        }
        self.make_hot(id, &key, target, options, progress)
    }

    /// Restores into a new subvolume of the store, takes the snapshot, and keeps the subvolume.
    fn make_hot(
        &self,
        id: &Digest,
        key: &Digest,
        target: &Path,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<RestoreReport> {
        if target.symlink_metadata().is_ok() {
            return Err(Error::io("make", target.display(), Errno::EXIST).with_hint("choose another name"));
        }
        self.prepare_subvolumes()?;
        // One that was changed, is half there, or was looked at too little.
        self.remove_hot(key)?;
        let manifest = self.tree(id)?;
        self.load_proofs(&manifest)?;
        let start = super::start(&manifest, &options.below)?;
        let hot = StagedTree::create_subvolume(&self.hot_path(key), options.preserve).map_err(of_snapshot)?;
        let ordinary = RestoreOptions { strategy: Strategy::Auto, read_only: false, ..options.clone() };
        let restore = Restore::new(self, &manifest, &hot.tree, &ordinary, progress);
        let made = restore.all(start);
        self.save_proofs(id);
        made?;
        let mut report = restore.report();
        // Until its data are on the disk the filesystem goes on changing it.
        hot.tree.sync()?;
        let _ = sys::set_subvolume_read_only(hot.tree.root(), true);
        let state = sys::subvolume_info(hot.tree.root());
        let state = state.map_err(|errno| Error::io("look at", self.hot_path(key).display(), errno))?;
        let staged = StagedTree::snapshot(target, hot.tree.root()).map_err(of_snapshot)?;
        staged.publish(options.sync, None, || Ok(()))?;
        self.write_hot(key, &Hot::new(*id, state, report.clone()))?;
        match hot.publish(false, None, || Ok(())) {
            // Another has made the same meanwhile; its state is not the one recorded now, and the next one makes it anew.
            Err(error) if errno(&error) != Some(Errno::EXIST) => return Err(error),
            _ => {}
        }
        report.snapshots = 1;
        Ok(report)
    }

    /// Before anything is made.
    fn check_same_btrfs(&self, target: &Path) -> Result<()> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let uuid = |path: &Path| {
            let directory = std::fs::File::open(path);
            let directory = directory.map_err(|error| Error::io("open the directory", path.display(), error))?;
            Ok::<_, Error>(sys::btrfs_uuid(&directory).ok())
        };
        match (uuid(self.path())?, uuid(parent)?) {
            (Some(store), Some(target)) if store == target => Ok(()),
            _ => Err(elsewhere()),
        }
    }
}

/// The digest of everything that decides what a restore makes: tree, options, and who makes it.
fn key(id: &Digest, options: &RestoreOptions) -> Digest {
    let RestoreOptions { preserve, below, .. } = options;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // The modes of a tree that does not keep the guest's.
    let umask = if preserve.mode { None } else { umask() };
    let rest = format!("{preserve:?} {user} {group} {umask:?}");
    Digest::derive("guestctl subvolume v1", [id.as_bytes(), &below[..], rest.as_bytes()])
}

/// The report of a further snapshot: what the tree is, and nothing that was done for it before.
fn again(made: &RestoreReport) -> RestoreReport {
    let RestoreReport { directories, files, file_bytes, symlinks, nodes, nodes_left_out, links, .. } = *made;
    let (refused, verified) = (made.refused.clone(), made.verified);
    RestoreReport {
        directories,
        files,
        file_bytes,
        symlinks,
        nodes,
        nodes_left_out,
        links,
        snapshots: 1,
        refused,
        verified,
        ..RestoreReport::default()
    }
}

fn errno(error: &Error) -> Option<Errno> {
    let ErrorKind::Io { source, .. } = error.kind() else { return None };
    Errno::from_io_error(source)
}

fn of_snapshot(error: Error) -> Error {
    if matches!(errno(&error), Some(Errno::XDEV | Errno::NOTTY | Errno::OPNOTSUPP)) { elsewhere() } else { error }
}

fn elsewhere() -> Error {
    Error::unsupported("filesystem", "a snapshot where the cache and the target are not on one btrfs")
        .with_hint("restore to the btrfs of the cache, or take the strategy auto")
}
