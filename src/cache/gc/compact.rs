//! Packs that are mostly dead: what lives in them is packed anew, and the old one is condemned.

use std::path::Path;

use super::super::pack::{Pack, Window, Writer};
use super::super::store::Store;
use super::super::{Compression, record, trash};
use super::mark::{Expired, Live};
use super::{GcOptions, GcReport, move_to};
use crate::error::{Error, Result};

pub(super) fn compact(
    store: &Store,
    live: &mut Live,
    expired: &Expired,
    directory: &Path,
    options: &GcOptions,
    report: &mut GcReport,
) -> Result<()> {
    let catalog = store.refresh()?;
    let mostly_dead = catalog.packs().iter().filter(|pack| {
        let living: u64 = pack
            .index
            .iter()
            .filter(|(digest, _)| live.blobs.contains(digest))
            .map(|(_, place)| u64::from(place.stored))
            .sum();
        living > 0 && living * 2 < pack.index.pack_len()
    });
    let packs: Vec<_> = mostly_dead.cloned().collect();
    if packs.is_empty() || options.dry_run {
        return Ok(());
    }
    let lease = store.lease()?;
    let staging = store.staging().join(lease.name());
    std::fs::create_dir(&staging).map_err(|error| Error::io("make", staging.display(), error))?;
    let compacted = (|| {
        let mut writer = Writer::create(&staging)?;
        let (mut taken, mut window) = (std::collections::HashSet::new(), Window::in_order());
        for pack in &packs {
            let mut living: Vec<_> = pack.index.iter().filter(|(digest, _)| live.blobs.contains(digest)).collect();
            // In the order in which they were packed, which is that of restoring.
            living.sort_unstable_by_key(|(_, place)| place.offset);
            for (digest, place) in living {
                if taken.insert(digest) {
                    let blob = store.read_packed(&digest, pack, &place, &mut window)?;
                    if super::Digest::of(&blob) != digest {
                        store.mark_packed(&digest, &pack.id);
                        return Err(store.damaged(&digest));
                    }
                    writer.add(digest, &blob, store.version().compression == Compression::Zstd)?;
                }
            }
        }
        let finished = writer.finish()?;
        record::sync_filesystem(&staging)?;
        let _turn = store.turn(true)?;
        record::rename_new(&finished.pack, &store.pack_path(&finished.id, "pack"))?;
        record::rename_new(&finished.index, &store.pack_path(&finished.id, "idx"))?;
        record::sync_directory_of(&store.pack_path(&finished.id, "idx"))?;
        // What was published since may need more of them.
        live.mark_new(store, expired)?;
        let needed =
            |pack: &Pack| pack.index.iter().any(|(digest, _)| live.blobs.contains(&digest) && !taken.contains(&digest));
        for pack in packs.iter().filter(|pack| pack.id != finished.id && !needed(pack)) {
            move_to(&store.pack_path(&pack.id, "idx"), &directory.join(trash::index_name(&pack.id)))?;
            move_to(&store.pack_path(&pack.id, "pack"), &directory.join(trash::pack_name(&pack.id)))?;
            report.condemned_packs += 1;
            report.condemned_bytes += pack.index.pack_len();
        }
        report.compacted_packs += 1;
        Ok(())
    })();
    let _ = std::fs::remove_dir_all(&staging);
    compacted
}
