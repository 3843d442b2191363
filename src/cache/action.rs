//! Results that were computed once: `actions/aa/<62 hex>`, JSON, replaced as a whole.
//!
//! A key is the digest of everything that decides the result: operation, its revision, arguments, rules, and the content of
//! the images. Paths, threads, times and machines are no part of it. Trees that a result names live as long as it does.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::refs::Class;
use super::store::{Store, Turn, list_sharded};
use super::{Digest, now, record};
use crate::error::{Error, Result};

/// Between two looks at a lock whose holder is not waited for without end.
const STEP: Duration = Duration::from_millis(10);

/// What decides a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionKey {
    /// The operation's name.
    pub operation: String,
    /// Raised when the operation gives another result for the same input.
    pub revision: u32,
    /// Everything else by name, in canonical form: `image`, `arguments`, `rules` …
    pub parts: BTreeMap<String, String>,
}

impl ActionKey {
    /// A key with these parts.
    pub fn new<'a>(operation: &str, revision: u32, parts: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let parts = parts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { operation: operation.to_owned(), revision, parts }
    }

    /// The key's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let revision = self.revision.to_le_bytes();
        let parts = self.parts.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        let all = [self.operation.as_bytes(), &revision].into_iter().chain(parts);
        Digest::derive("guestctl.action.v1", all)
    }
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What it is the result of.
    pub key: ActionKey,
    /// Trees that it made.
    #[serde(default)]
    pub trees: Vec<Digest>,
    /// What it printed or found, as text.
    #[serde(default)]
    pub result: String,
    /// How long it took.
    pub duration_ns: u64,
    /// Seconds since 1970.
    pub created: i64,
    /// How long it lives.
    #[serde(default)]
    pub class: Class,
}

impl Action {
    /// A result of the class normal, made now.
    #[must_use]
    pub fn new(key: ActionKey, trees: Vec<Digest>, result: String, duration_ns: u64) -> Self {
        Self { key, trees, result, duration_ns, created: now(), class: Class::default() }
    }
}

/// Holds the right to compute a result: others that want the same wait.
#[derive(Debug)]
pub struct Flight {
    held: Option<(File, PathBuf)>,
}

impl Store {
    pub(super) fn action_path(&self, key: &Digest) -> PathBuf {
        self.path().join("actions").join(key.shard())
    }

    /// The result under a key, when there is one and all that it names is there.
    pub fn action(&self, key: &ActionKey) -> Result<Option<Action>> {
        let digest = key.digest();
        let Some(action) = self.read_action(&digest)? else { return Ok(None) };
        if action.key != *key {
            return Ok(None);
        }
        for tree in &action.trees {
            if !self.has_tree(tree)? {
                return Ok(None);
            }
        }
        if self.is_writable()
            && let Ok(file) = File::open(self.action_path(&digest))
        {
            let _ = file.set_modified(std::time::SystemTime::now());
        }
        Ok(Some(action))
    }

    /// Gives a result another class.
    pub fn set_action_class(&self, key: &ActionKey, class: Class) -> Result<()> {
        match self.read_action(&key.digest())? {
            Some(action) if action.class != class => self.keep_action(&Action { class, ..action }),
            _ => Ok(()),
        }
    }

    /// A result by its key's digest. One that cannot be read is none: it is computed again.
    pub(super) fn read_action(&self, digest: &Digest) -> Result<Option<Action>> {
        let Some(bytes) = record::read(&self.action_path(digest))? else { return Ok(None) };
        // Its first line is the digest of the rest: what is damaged is no result.
        let Some((sum, text)) =
            bytes.split_first_chunk::<64>().and_then(|(sum, rest)| Some((sum, rest.strip_prefix(b"\n")?)))
        else {
            return Ok(None);
        };
        if Digest::of(text).hex().as_bytes() != sum {
            log::warn!("the result {digest} is damaged and is not used");
            return Ok(None);
        }
        Ok(serde_json::from_slice(text).ok())
    }

    /// Keeps a result of the class normal that was made now. It is on the disk when this returns.
    pub fn record_action(&self, key: ActionKey, trees: Vec<Digest>, result: String, duration_ns: u64) -> Result<()> {
        self.keep_action(&Action::new(key, trees, result, duration_ns))
    }

    /// Keeps a result, in place of what has its key. It is on the disk when this returns.
    pub fn keep_action(&self, action: &Action) -> Result<()> {
        self.write_action(action, true)
    }

    /// The same; one that is not `durable` may be lost when the machine goes down.
    pub(super) fn write_action(&self, action: &Action, durable: bool) -> Result<()> {
        self.check_writable()?;
        let lease = self.lease()?;
        for tree in &action.trees {
            lease.add(tree)?;
        }
        let turn: Turn = self.turn(false)?;
        for tree in &action.trees {
            if !self.has_tree(tree)? {
                return Err(Error::invalid(format!("there is no tree {tree} in the cache")));
            }
        }
        let digest = action.key.digest();
        let text = serde_json::to_vec(action).map_err(|error| Error::invalid(error.to_string()))?;
        crate::limits::check("bytes of a result", text.len() as u64, crate::limits::CACHE_RECORD_BYTES / 2)?;
        let bytes = [Digest::of(&text).hex().as_bytes(), b"\n", &text].concat();
        let write = if durable { record::replace } else { record::replace_soon };
        write(&self.staging(), &self.action_path(&digest), &bytes)?;
        drop(turn);
        Ok(())
    }

    /// Forgets the results that a tree is part of; how many.
    pub fn forget(&self, tree: &Digest) -> Result<u64> {
        self.check_writable()?;
        let mut forgotten = 0;
        for (digest, action) in self.actions()? {
            if action.trees.contains(tree) {
                let path = self.action_path(&digest);
                std::fs::remove_file(&path).map_err(|error| Error::io("remove", path.display(), error))?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// All results.
    pub fn actions(&self) -> Result<Vec<(Digest, Action)>> {
        let mut actions = Vec::new();
        for digest in list_sharded(&self.path().join("actions"), "")? {
            actions.extend(self.read_action(&digest)?.map(|action| (digest, action)));
        }
        Ok(actions)
    }

    /// Waits until nobody else computes the result of this key, and has others wait.
    pub fn flight(&self, key: &ActionKey) -> Flight {
        self.fly(key, None)
    }

    /// The same, but waits no longer than `patience`: then both compute it.
    pub(super) fn flight_within(&self, key: &ActionKey, patience: Duration) -> Flight {
        self.fly(key, Some(Instant::now() + patience))
    }

    fn fly(&self, key: &ActionKey, until: Option<Instant>) -> Flight {
        let path = self.action_path(&key.digest()).with_extension("lock");
        while self.is_writable() {
            let opened = File::options().create(true).truncate(false).write(true).open(&path);
            let Ok(file) = opened else { break };
            if !lock(&file, until) {
                break;
            }
            // Who had it has taken it away: others may wait for another file of that name by now.
            let is_this =
                |named: Metadata| file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (named.dev(), named.ino()));
            if std::fs::symlink_metadata(&path).is_ok_and(is_this) {
                return Flight { held: Some((file, path)) };
            }
        }
        Flight { held: None }
    }
}

/// Locks the file; false when somebody else has it until then. A filesystem without locks has nobody who waits.
fn lock(file: &File, until: Option<Instant>) -> bool {
    let Some(until) = until else {
        let _ = rustix::io::retry_on_intr(|| rustix::fs::flock(file, FlockOperation::LockExclusive));
        return true;
    };
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < until => std::thread::sleep(STEP),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return false,
            _ => return true,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some((_file, path)) = &self.held {
            let _ = std::fs::remove_file(path);
        }
    }
}
