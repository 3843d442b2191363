//! The handle and the cache: what was found in the same images before is not looked for again.

use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::Guestfs;
use crate::cache::{ActionKey, Effort, ImageId, Memo, Recording, Store};
use crate::error::Result;
use crate::inspect::{self, OperatingSystem, PackageList};

/// The revision of what inspection finds in the same image; part of keys.
const INSPECT_REVISION: u32 = 1;

/// One operating system with its packages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Inspected {
    /// The system. What comes from a cache has no filesystems mounted.
    pub system: OperatingSystem,
    /// One list per package database; `None` when they were not asked for.
    pub packages: Option<Vec<PackageList>>,
}

impl Guestfs {
    /// Gives the handle a store: what it finds in its images is kept there, and what is there is not looked for again.
    /// `None` takes it away. Results are those without it, byte for byte; a store that cannot be used costs a warning.
    pub fn set_cache(&self, store: Option<Arc<Store>>) {
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = store;
    }

    pub(super) fn cache(&self) -> Option<Arc<Store>> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that inspection finds, with the packages if they are wanted; from the cache, when it is there.
    pub fn inspection(&self, packages: bool) -> Result<Arc<Vec<Inspected>>> {
        let launched = self.launched()?;
        if let Some(known) = &*launched.inspection.read().unwrap_or_else(PoisonError::into_inner)
            && (!packages || known.iter().all(|inspected| inspected.packages.is_some()))
        {
            return Ok(known.clone());
        }
        let found = Arc::new(self.inspect_through_cache(packages)?);
        *launched.inspection.write().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    fn inspect_through_cache(&self, packages: bool) -> Result<Vec<Inspected>> {
        let parts = [("packages", packages.to_string())];
        let mut recording = match self.memo("inspect", INSPECT_REVISION, parts)? {
            Memo::Known(known) => match serde_json::from_slice(&known.bytes) {
                Ok(found) => return Ok(found),
                Err(error) => {
                    log::warn!("what the cache knows of the guest is not understood ({error}): inspected again");
                    Recording::nowhere()
                }
            },
            Memo::New(recording) => *recording,
        };
        let mut found = Vec::new();
        for system in self.operating_systems()?.iter() {
            let packages = if packages { Some(inspect::packages(&system.guest())?) } else { None };
            found.push(Inspected { system: system.clone(), packages });
        }
        if recording.is_kept() {
            recording.write(&serde_json::to_vec(&found).unwrap_or_default());
            recording.keep();
        }
        Ok(found)
    }

    /// The result of an operation on the handle's drives, or a place for it. `parts` are all that decides it beside the
    /// drives; without a cache, or where an image has no id, it is a place that keeps nothing.
    pub fn memo<'a>(
        &self,
        operation: &str,
        revision: u32,
        parts: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<Memo> {
        let launched = self.launched()?;
        let Some(store) = self.cache() else { return Ok(Memo::New(Box::new(Recording::nowhere()))) };
        let mut images: Vec<ImageId> = Vec::new();
        let mut formats = Vec::new();
        for drive in &launched.drives {
            // What is opened in a process of its own is not opened here to learn what it is.
            if drive.is_out_of_process() {
                return Ok(Memo::New(Box::new(Recording::nowhere())));
            }
            let options = drive.open_options();
            let id = store.image_id(drive.path(), &options, Effort::Little);
            // It is open, so this is about its files: one that went away, or cannot be read twice.
            let Ok(Some(id)) = id else { return Ok(Memo::New(Box::new(Recording::nowhere()))) };
            images.push(id);
            formats.push(options.format.map_or("probed", crate::block::ImageFormat::name));
        }
        let ids: Vec<String> = images.iter().map(|image| image.digest().hex()).collect();
        let own = [
            ("image", ids.join(",")),
            ("format", formats.join(",")),
            ("program", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        let key = ActionKey::new(operation, revision, own.into_iter().chain(parts));
        let subject = launched.drives.first().map(|drive| drive.path().display().to_string()).unwrap_or_default();
        Ok(store.memo(key, images, &subject))
    }
}
