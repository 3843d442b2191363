//! Grain directories and grain tables against the file. QEMU stops at the first grain past the file's end; here all are
//! counted, and so are tables past it, tables that two directory entries name, and grains that overlap.

use std::sync::Arc;

use super::sparse::{Place, Sparse};
use super::{Source, Vmdk};
use crate::block::blocks::Starts;
use crate::block::open::OpenContext;
use crate::block::{BlockDevice, Findings};
use crate::error::{ErrorKind, Result};

/// Checks the image in `file` and the extents that it names.
pub(crate) fn check(file: Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Findings> {
    let image = Vmdk::open(file, context)?;
    let mut found = Findings::default();
    for part in &image.parts {
        if let Source::Sparse(sparse) = &part.source {
            extent(&image, sparse, &mut found)?;
        }
    }
    Ok(found)
}

fn extent(image: &Vmdk, sparse: &Sparse, found: &mut Findings) -> Result<()> {
    let (shared, sector) = (sparse.shared_tables(), super::header::SECTOR);
    if shared > 0 {
        log::debug!("{shared} grain directory entries name a table that another one names");
        found.corruptions = found.corruptions.saturating_add(shared);
    }
    // Of a compressed grain only its marker's place is known unread.
    let len = if sparse.header.compressed { sector } else { sparse.header.grain_size };
    let mut starts = Starts::new(sector, len);
    sparse.for_each_grain(&image.caches, &mut |grain| match grain {
        Ok(Place::Data(start) | Place::Compressed(start)) => starts.add(start),
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt(_)) => {
            found.corrupt(format_args!("{error}"));
            Ok(())
        }
        Err(error) => Err(error),
    })?;
    // A table that is named twice names its grains twice: once is enough to say so.
    if shared == 0 {
        found.corruptions = found.corruptions.saturating_add(starts.overlaps());
    }
    Ok(())
}
