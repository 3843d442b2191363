//! Results that are computed once: what a command found in an image, under a key of everything that decides it.
//!
//! Whoever wants a result asks for a [`Memo`]. It is either known, and then its bytes are whole and checked, or new: then
//! the asker computes it, writes it through the [`Recording`], and says at the end that it is complete. Of several processes
//! that want the same one computes and the others wait for it.
//!
//! A store that cannot be written to, is full or damaged costs what it could have saved, and nothing else: the result is
//! computed, and one warning says why it was not kept.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::action::{Action, ActionKey, Flight};
use super::import::{Described, Durability, ImportOptions, Prepared, Source};
use super::manifest::Content;
use super::restore::{Contents, Scratch, Strategy};
use super::store::Store;
use super::{Digest, Event, EventKind, ImageId, nanoseconds_since};
use crate::block::{BlockDevice, HostFile};
use crate::bytes::to_u64;
use crate::error::{Error, Result};
use crate::fs::{FileType, Timestamp};
use crate::host::Staged;

/// Bytes of a result that stand in its record; longer ones are a blob of their own.
const INLINE: usize = 64 << 10;

/// Bytes of a result that are kept; what is longer is computed each time.
const LONGEST: usize = 64 << 20;

/// Results that a miss is compared with to name its cause.
const COMPARED: usize = 200;

/// How long a process waits for another that computes what both print. That one may itself wait, for whoever reads its
/// output, and who reads it may wait for this one.
const PATIENCE: Duration = Duration::from_secs(10);

/// The name of a long result in its tree.
const NAME: &[u8] = b"result";

/// Its time: the same result is the same tree.
const EPOCH: Timestamp = Timestamp { seconds: 0, nanoseconds: 0 };

/// A result that is there, or a place for one.
#[derive(Debug)]
pub enum Memo {
    /// It was computed before.
    Known(Known),
    /// It has to be computed.
    New(Box<Recording>),
}

/// A result that was computed before.
#[derive(Debug)]
pub struct Known {
    /// The result; where it is a file, what was said of it.
    pub bytes: Vec<u8>,
    /// The file that was made, which [`Store::memo_file`] makes again.
    pub file: Option<Digest>,
    /// How long it took then.
    pub duration_ns: u64,
}

/// Takes a result that is being computed.
#[derive(Debug)]
pub struct Recording {
    /// What it is kept in, and its key; `None` when it is not kept.
    place: Option<(Arc<Store>, ActionKey)>,
    images: Vec<ImageId>,
    bytes: Vec<u8>,
    started: Instant,
    /// What is written down when this ends.
    miss: Option<Event>,
    _flight: Option<Flight>,
}

impl Recording {
    /// One that keeps nothing.
    #[must_use]
    pub fn nowhere() -> Self {
        let (place, images, bytes, miss, started) = (None, Vec::new(), Vec::new(), None, Instant::now());
        Self { place, images, bytes, started, miss, _flight: None }
    }

    /// Whether what is written is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.place.is_some()
    }

    /// The result goes on with these bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.place.is_none() {
            return;
        }
        if self.bytes.len().saturating_add(bytes.len()) > LONGEST {
            log::debug!("a result of more than {LONGEST} bytes is not kept");
            self.bytes = Vec::new();
            self.give_up();
            return;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// A writer that writes to `out` and to this.
    pub fn tee<W: Write>(&mut self, out: W) -> Tee<'_, W> {
        Tee { out, recording: self }
    }

    /// The result is complete. It is not kept when an image has changed meanwhile.
    pub fn keep(mut self) {
        let Some((store, key, duration)) = self.finish() else { return };
        if let Err(error) = store.keep_result(key, &self.bytes, duration) {
            not_kept(&error);
        }
    }

    /// The result is the file `made`, and `report` is what was said of it, which is not empty.
    pub fn keep_file(mut self, made: &Path, report: &str) {
        let Some((store, key, duration)) = self.finish() else { return };
        let kept = HostFile::open(made).and_then(|file| {
            let tree = store.keep_content(Source::Device(&file), file.size(), Durability::Batch)?;
            store.write_action(&Action::new(key, vec![tree], report.to_owned(), duration), false)
        });
        if let Err(error) = kept {
            not_kept(&error);
        }
    }

    fn finish(&mut self) -> Option<(Arc<Store>, ActionKey, u64)> {
        let (store, key) = self.place.take()?;
        self.note_miss(&store);
        if !self.images.iter().all(ImageId::is_unchanged) {
            log::debug!("the image changed while it was looked at: the result is not kept");
            return None;
        }
        Some((store, key, nanoseconds_since(self.started)))
    }

    fn give_up(&mut self) {
        if let Some((store, _)) = self.place.take() {
            self.note_miss(&store);
        }
    }

    fn note_miss(&mut self, store: &Store) {
        if let Some(mut event) = self.miss.take() {
            event.took_ns = nanoseconds_since(self.started);
            store.note(&event);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Says once why results are not kept.
fn not_kept(error: &Error) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::warn!("the cache keeps nothing of this: {error}");
    }
}

/// Writes to two places.
#[derive(Debug)]
pub struct Tee<'a, W> {
    out: W,
    recording: &'a mut Recording,
}

impl<W: Write> Write for Tee<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.recording.write(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Store {
    /// The result under a key, or a place for it. `images` are what the key's images were when it was made; `subject` names
    /// them for people. Waits for another process that computes the same, for ten seconds at most.
    pub fn memo(self: &Arc<Self>, key: ActionKey, images: Vec<ImageId>, subject: &str) -> Memo {
        self.ask(key, images, subject, Some(PATIENCE))
    }

    fn ask(self: &Arc<Self>, key: ActionKey, images: Vec<ImageId>, subject: &str, patience: Option<Duration>) -> Memo {
        let started = Instant::now();
        if let Some(known) = self.known(&key, subject, started) {
            return Memo::Known(known);
        }
        if !self.is_writable() {
            not_kept(&Error::io("write to", self.path().display(), std::io::ErrorKind::ReadOnlyFilesystem));
            return Memo::New(Box::new(Recording::nowhere()));
        }
        let flight = match patience {
            Some(patience) => self.flight_within(&key, patience),
            None => self.flight(&key),
        };
        // Who held it may have computed it.
        if let Some(known) = self.known(&key, subject, started) {
            return Memo::Known(known);
        }
        let mut event = Event::new(EventKind::Miss, &key.operation);
        (event.key, event.subject) = (key.digest().hex(), subject.to_owned());
        event.cause = self.explain_among(&key, COMPARED).map(|cause| cause.cause.to_owned()).unwrap_or_default();
        let (bytes, started, miss) = (Vec::new(), Instant::now(), Some(event));
        let place = Some((self.clone(), key));
        Memo::New(Box::new(Recording { place, images, bytes, started, miss, _flight: Some(flight) }))
    }

    /// The same for a result that is a file. One that is known is made at `target`: complete under its name, in place of what
    /// has it, or not at all, and then the error is the target's. Where the store has no sound file it is new.
    pub fn memo_file(
        self: &Arc<Self>,
        key: ActionKey,
        images: Vec<ImageId>,
        subject: &str,
        target: &Path,
    ) -> Result<Memo> {
        // A file is made before anything is printed: its maker waits for nobody.
        let known = match self.ask(key.clone(), images.clone(), subject, None) {
            Memo::Known(known) => known,
            new @ Memo::New(_) => return Ok(new),
        };
        let error = match known.file {
            Some(file) => {
                let staged = Staged::create(target)?;
                match self.fill(&file, &staged) {
                    Ok(()) => {
                        staged.publish()?;
                        return Ok(Memo::Known(known));
                    }
                    Err(error) => error,
                }
            }
            None => Error::corrupt("cache", "result", 0, "no file", "a file"),
        };
        log::warn!("{error}: made anew");
        // A full disk is no fault of the file's.
        let is_kept = error.as_corrupt().is_none() || !self.is_writable() || self.forget_result(&key).is_err();
        Ok(if is_kept { Memo::New(Box::new(Recording::nowhere())) } else { self.ask(key, images, subject, None) })
    }

    fn known(&self, key: &ActionKey, subject: &str, asked: Instant) -> Option<Known> {
        // What is damaged is computed again.
        let told = |error: Error| log::warn!("{error}: computed again");
        let action = self.action(key).map_err(told).ok()??;
        let file = action.trees.first().copied().filter(|_| !action.result.is_empty());
        let bytes = self.result(&action).map_err(told).ok()?;
        let mut event = Event::new(EventKind::Hit, &key.operation);
        (event.key, event.subject) = (key.digest().hex(), subject.to_owned());
        (event.duration_ns, event.bytes) = (action.duration_ns, to_u64(bytes.len()));
        event.took_ns = nanoseconds_since(asked);
        self.note(&event);
        Some(Known { bytes, file, duration_ns: action.duration_ns })
    }

    /// The bytes of a result.
    fn result(&self, action: &Action) -> Result<Vec<u8>> {
        let tree = match action.trees[..] {
            [tree] if action.result.is_empty() => tree,
            _ => return Ok(action.result.clone().into_bytes()),
        };
        let manifest = self.tree(&tree)?;
        let (digest, len) = match manifest.lookup(NAME)?.map(|entry| entry.content) {
            Some(Content::Inline(bytes)) => return Ok(bytes.to_vec()),
            Some(Content::Blob(blob)) => manifest.blob(blob)?,
            _ => return Err(Error::corrupt("cache", "result", 0, "another tree", "a tree with a result")),
        };
        let bytes = self.read_blob(&digest, len)?;
        // It goes straight to whoever asked, so it is looked at in any case.
        if Digest::of(&bytes) != digest {
            self.put_aside(&digest);
            return Err(self.damaged(&digest));
        }
        Ok(bytes)
    }

    fn keep_result(&self, key: ActionKey, bytes: &[u8], duration_ns: u64) -> Result<()> {
        if bytes.len() <= INLINE
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return self.write_action(&Action::new(key, Vec::new(), text.to_owned(), duration_ns), false);
        }
        // It can be computed again: nobody waits for the disk.
        let tree = self.keep_content(Source::Bytes(bytes), to_u64(bytes.len()), Durability::None)?;
        self.write_action(&Action::new(key, vec![tree], String::new(), duration_ns), false)
    }

    /// Stores a content as the one file of a tree.
    fn keep_content(&self, content: Source<'_>, size: u64, durability: Durability) -> Result<Digest> {
        let import = self.import(ImportOptions { durability, keep_times: false })?;
        import.push(Described::made_up(b"", FileType::Dir, 0, EPOCH), Prepared::nothing())?;
        let prepared = import.prepare(content)?;
        import.push(Described::made_up(NAME, FileType::File, size, EPOCH), prepared)?;
        Ok(import.finish(None)?.tree)
    }

    fn fill(&self, file: &Digest, staged: &Staged) -> Result<()> {
        let (manifest, _lease) = self.use_tree(file)?;
        let entry = manifest.lookup(NAME)?;
        let entry =
            entry.ok_or_else(|| Error::corrupt("cache", "result", 0, "another tree", "a tree with a result"))?;
        Contents::new(self, &manifest, Strategy::Auto).fill(&entry, &staged.file, NAME, false, &mut Scratch::new())?;
        Ok(())
    }

    /// Forgets one result.
    fn forget_result(&self, key: &ActionKey) -> Result<()> {
        let path = self.action_path(&key.digest());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", path.display(), error))
            }
            _ => Ok(()),
        }
    }
}
