//! What is in use, and what was in use too long ago.

use std::collections::HashSet;
use std::time::SystemTime;

use super::super::manifest::Manifest;
use super::super::refs::{Class, Ref};
use super::super::store::Store;
use super::super::subvolume::Listed;
use super::super::{Digest, lease, now};
use super::{Candidate, GcOptions, GcReport};
use crate::error::{Error, Result};

/// Roots that expired.
#[derive(Debug, Default)]
pub(super) struct Expired {
    refs: Vec<Ref>,
    actions: HashSet<Digest>,
    /// Names of hot trees.
    subvolumes: HashSet<String>,
}

impl Expired {
    fn has_ref(&self, reference: &Ref) -> bool {
        self.refs.contains(reference)
    }

    pub(super) fn has_subvolume(&self, name: &str) -> bool {
        self.subvolumes.contains(name)
    }
}

/// What is in use.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) trees: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
}

impl Live {
    /// All that roots and leases lead to.
    pub(super) fn mark(store: &Store, expired: &Expired) -> Result<Self> {
        let mut live = Self::default();
        live.mark_new(store, expired)?;
        Ok(live)
    }

    /// What was published since.
    pub(super) fn mark_new(&mut self, store: &Store, expired: &Expired) -> Result<()> {
        for tree in roots(store, expired)? {
            if self.trees.contains(&tree) {
                continue;
            }
            // A tree that cannot be read is not a reason to lose others' blobs: it keeps none. One that cannot be read
            // because of the host ends the gc.
            match store.tree(&tree) {
                Ok(manifest) => {
                    self.blobs.extend(blobs(&manifest)?);
                    self.trees.insert(tree);
                }
                Err(error) if matches!(error.kind(), crate::ErrorKind::Io { .. }) => return Err(error),
                Err(error) => log::warn!("{error}"),
            }
        }
        Ok(())
    }

    /// Whether something that could be condemned is in use.
    pub(super) fn has(&self, store: &Store, candidate: &Candidate) -> bool {
        match candidate {
            Candidate::Tree(id) => self.trees.contains(id),
            Candidate::Object(digest, _) => self.blobs.contains(digest),
            Candidate::Pack(id) => self.uses_pack(store, id),
        }
    }

    /// Whether a blob of the pack is in use.
    fn uses_pack(&self, store: &Store, id: &Digest) -> bool {
        match store.catalog().pack(id) {
            Some(pack) => pack.index.iter().any(|(digest, _)| self.blobs.contains(&digest)),
            // Published since the catalog was read, or without an index: what has none is nobody's.
            None => store.pack_path(id, "idx").exists(),
        }
    }
}

fn blobs(manifest: &Manifest) -> Result<Vec<Digest>> {
    (0..manifest.blobs()).map(|index| manifest.blob(index).map(|(digest, _)| digest)).collect()
}

fn roots(store: &Store, expired: &Expired) -> Result<HashSet<Digest>> {
    let mut roots: HashSet<Digest> = HashSet::new();
    roots.extend(store.refs()?.iter().filter(|found| !expired.has_ref(found)).map(|found| found.tree));
    for (digest, action) in store.actions()? {
        if !expired.actions.contains(&digest) {
            roots.extend(action.trees);
        }
    }
    roots.extend(lease::held(store.path(), false)?.trees);
    Ok(roots)
}

/// Which refs and results are too old, or too many.
pub(super) fn expire(store: &Store, options: &GcOptions, report: &mut GcReport) -> Result<Expired> {
    let mut expired = Expired::default();
    let oldest = options.days.map(|days| now() - i64::from(days) * 24 * 3600);
    let is_too_old = |class, created, last| {
        let unused = class != Class::Pinned && oldest.is_some_and(|oldest| last < oldest);
        unused || options.lifetimes.are_over(class, created)
    };
    let used = |path: std::path::PathBuf| {
        let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
        modified
            .ok()
            .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    };
    // (last use, ref or result, trees)
    let mut roots = Vec::new();
    for found in store.refs()? {
        let last = used(store.tree_path(&found.tree)).max(found.created);
        if is_too_old(found.class, found.created, last) {
            expired.refs.push(found);
        } else {
            roots.push((found.class == Class::Pinned, last, Root::Ref(found)));
        }
    }
    for (digest, action) in store.actions()? {
        let last = used(store.action_path(&digest)).max(action.created);
        if is_too_old(action.class, action.created, last) {
            expired.actions.insert(digest);
        } else {
            roots.push((action.class == Class::Pinned, last, Root::Action(digest, action.trees)));
        }
    }
    for hot in store.hot_trees()? {
        if oldest.is_some_and(|oldest| hot.used < oldest) {
            expired.subvolumes.insert(hot.name);
        } else {
            roots.push((false, hot.used, Root::Subvolume(hot)));
        }
    }
    if let Some(max) = options.max_size.filter(|max| report.store_bytes > *max) {
        let low = max / 100 * u64::from(options.low_water.min(100));
        // What must stay first, then what was used last.
        roots.sort_by_key(|(pinned, last, _)| (!*pinned, std::cmp::Reverse(*last)));
        fit(store, roots, low, &mut expired)?;
    }
    (report.expired_refs, report.expired_actions) = (expired.refs.len() as u64, expired.actions.len() as u64);
    Ok(expired)
}

enum Root {
    Ref(Ref),
    Action(Digest, Vec<Digest>),
    /// No root of anything, but used as they are.
    Subvolume(Listed),
}

/// Takes roots as long as what they lead to fits; the rest expires.
fn fit(store: &Store, roots: Vec<(bool, i64, Root)>, bytes: u64, expired: &mut Expired) -> Result<()> {
    let (mut seen, mut sum) = (HashSet::new(), 0u64);
    for (pinned, _, root) in roots {
        let (trees, own) = match &root {
            Root::Ref(found) => (std::slice::from_ref(&found.tree), 0),
            Root::Action(_, trees) => (&trees[..], 0),
            Root::Subvolume(hot) => (&[][..], hot.bytes),
        };
        let mut more = Vec::new();
        for tree in trees.iter().filter(|tree| !seen.contains(*tree)) {
            let Ok(manifest) = store.tree(tree) else { continue };
            more.push((*tree, manifest.as_bytes().len() as u64));
            for index in 0..manifest.blobs() {
                more.push(manifest.blob(index)?);
            }
        }
        let added = more.iter().filter(|(digest, _)| !seen.contains(digest)).map(|(_, len)| len).sum::<u64>() + own;
        if pinned || sum.saturating_add(added) <= bytes {
            sum = sum.saturating_add(added);
            seen.extend(more.into_iter().map(|(digest, _)| digest));
            continue;
        }
        match root {
            Root::Ref(found) => expired.refs.push(found),
            Root::Action(digest, _) => drop(expired.actions.insert(digest)),
            Root::Subvolume(hot) => drop(expired.subvolumes.insert(hot.name)),
        }
    }
    Ok(())
}

/// Takes the expired roots away, unless they were made anew meanwhile.
pub(super) fn remove_expired(store: &Store, expired: &Expired, report: &mut GcReport) -> Result<()> {
    let nothing = |(): &mut ()| Ok(());
    store.in_turns(&expired.refs, &mut (), report, nothing, |(), found, _| {
        if store.get_ref(&found.namespace, &found.name)?.as_ref() == Some(found) {
            store.remove_ref(&found.namespace, &found.name)?;
        }
        Ok(())
    })?;
    let actions: Vec<&Digest> = expired.actions.iter().collect();
    store.in_turns(&actions, &mut (), report, nothing, |(), digest, _| {
        let path = store.action_path(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", path.display(), error))
            }
            _ => Ok(()),
        }
    })
}
