//! How much there is, and what it was good for.

use std::collections::BTreeMap;

use serde::Serialize;

use super::activity::Operation;
use super::store::Store;
use super::{Digest, gc, trash};
use crate::error::Result;

/// Numbers of a store.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Trees.
    pub trees: u64,
    /// Bytes of their manifests.
    pub tree_bytes: u64,
    /// Blobs that are files of their own.
    pub objects: u64,
    /// Bytes that the filesystem holds for them; shared ones count each time.
    pub object_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Blobs in them.
    pub packed_blobs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Results.
    pub actions: u64,
    /// Names.
    pub refs: u64,
    /// Hot trees, kept as subvolumes.
    pub subvolumes: u64,
    /// Bytes of those that are not shared with objects.
    pub subvolume_bytes: u64,
    /// Bytes in the trash.
    pub trash_bytes: u64,
    /// Damaged files that were put aside.
    pub quarantined: u64,
    /// Bytes that all trees would take on their own.
    pub logical_bytes: u64,
    /// By operation: what was answered from the store.
    pub operations: BTreeMap<String, Operation>,
}

impl Stats {
    /// The numbers as a textfile for Prometheus' node exporter.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, help: &str, rows: &[(String, f64)]| {
            text.push_str(&format!("# HELP guestctl_cache_{name} {help}\n# TYPE guestctl_cache_{name} gauge\n"));
            for (labels, value) in rows {
                text.push_str(&format!("guestctl_cache_{name}{labels} {value}\n"));
            }
        };
        let plain = |value: u64| vec![(String::new(), value as f64)];
        gauge("trees", "Trees.", &plain(self.trees));
        gauge("objects", "Blobs that are files of their own.", &plain(self.objects));
        gauge("packed_blobs", "Blobs in packs.", &plain(self.packed_blobs));
        gauge("subvolumes", "Hot trees, kept as subvolumes.", &plain(self.subvolumes));
        gauge(
            "stored_bytes",
            "Bytes of trees, objects and packs.",
            &plain(self.tree_bytes + self.object_bytes + self.pack_bytes),
        );
        gauge("logical_bytes", "Bytes of the files of all trees.", &plain(self.logical_bytes));
        gauge("trash_bytes", "Bytes that can still be brought back.", &plain(self.trash_bytes));
        gauge("quarantined", "Damaged files that were put aside.", &plain(self.quarantined));
        let by = |value: &dyn Fn(&Operation) -> f64| -> Vec<(String, f64)> {
            let row =
                |(name, operation): (&String, &Operation)| (format!("{{operation=\"{name}\"}}"), value(operation));
            self.operations.iter().map(row).collect()
        };
        gauge("hits", "Results that were there.", &by(&|operation| operation.hits as f64));
        gauge("misses", "Results that had to be made.", &by(&|operation| operation.misses as f64));
        gauge(
            "saved_seconds",
            "Time that hits took when they were made.",
            &by(&|operation| operation.saved_ns as f64 / 1e9),
        );
        text
    }
}

impl Store {
    /// Counts what there is; `since` is how far back events are looked at, in seconds since 1970.
    pub fn stats(&self, since: i64) -> Result<Stats> {
        use std::os::unix::fs::MetadataExt;
        let size =
            |path: std::path::PathBuf| std::fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
        let mut stats = Stats::default();
        let trees = self.trees()?;
        for id in &trees {
            stats.tree_bytes += size(self.tree_path(id));
            stats.logical_bytes += self.tree_bytes(id).unwrap_or(0);
        }
        stats.trees = trees.len() as u64;
        for (_, _, bytes) in self.loose_with_bytes()? {
            stats.objects += 1;
            stats.object_bytes += bytes;
        }
        let catalog = self.refresh()?;
        for pack in catalog.packs() {
            stats.packs += 1;
            stats.packed_blobs += pack.index.len() as u64;
            stats.pack_bytes += size(self.pack_path(&pack.id, "pack")) + size(self.pack_path(&pack.id, "idx"));
        }
        stats.actions = self.actions()?.len() as u64;
        stats.refs = self.refs()?.len() as u64;
        for hot in self.hot_trees()? {
            stats.subvolumes += 1;
            stats.subvolume_bytes += hot.bytes;
        }
        let epochs = trash::epochs(self.path());
        stats.trash_bytes =
            epochs.into_iter().map(|epoch| gc::bytes_below(&trash::directory(self.path(), epoch))).sum();
        stats.quarantined =
            std::fs::read_dir(self.path().join("quarantine")).map_or(0, |entries| entries.count() as u64);
        stats.operations = self.activity(since)?.operations;
        Ok(stats)
    }

    /// Bytes of a tree's regular files, each name counted.
    pub fn tree_bytes(&self, id: &Digest) -> Result<u64> {
        let manifest = self.tree(id)?;
        let mut bytes = 0u64;
        for index in 0..manifest.len() {
            let entry = manifest.entry(index)?;
            if entry.file_type == crate::fs::FileType::File {
                bytes = bytes.saturating_add(entry.size);
            }
        }
        Ok(bytes)
    }
}
