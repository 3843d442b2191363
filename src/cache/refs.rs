//! Named roots: `refs/<namespace>/<name>`, JSON, replaced as a whole. What a ref names stays when gc comes.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::store::Store;
use super::{Digest, now, record};
use crate::error::{Error, Result};

/// A named root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// `trees` for what was added, `pins` for what must stay, or a user's own.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// The tree.
    pub tree: Digest,
    /// Seconds since 1970 when it was made.
    pub created: i64,
    /// What gc may do with it.
    #[serde(default)]
    pub class: Class,
    /// Where the tree came from: image, size, filesystem, rules … for people and for `explain`.
    #[serde(default)]
    pub source: BTreeMap<String, String>,
}

/// How long a root lives; see [`Lifetimes`](super::Lifetimes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Until it was not used for the days that gc is told, its lifetime is over if gc is told one, or room is needed.
    #[default]
    Normal,
    /// The same, but its lifetime is another: a day unless gc is told something else.
    Short,
    /// For ever, unless it is removed by name.
    Pinned,
}

impl Class {
    /// Its word, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Short => "short",
            Self::Pinned => "pinned",
        }
    }
}

impl Ref {
    /// A ref that is about to be made.
    pub fn new(namespace: &str, name: &str, tree: Digest) -> Result<Self> {
        check_word(namespace)?;
        check_word(name)?;
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Ok(Self { namespace, name, tree, created: now(), class: Class::default(), source: BTreeMap::new() })
    }
}

/// A name of a file in `refs/`: what users type, and nothing that leads anywhere else.
fn check_word(word: &str) -> Result<()> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._@:+=,%-".contains(&byte);
    if word.is_empty() || word.len() > 200 || word.starts_with('.') || !word.bytes().all(legal) {
        return Err(Error::invalid(format!("'{}' is no name for a tree", crate::bytes::escape(word.as_bytes())))
            .with_hint("letters, digits and . _ @ : + = , % - are allowed, at most 200"));
    }
    Ok(())
}

/// Any text as a name for a tree: other characters become `_`.
#[must_use]
pub fn name_from(text: &str) -> String {
    let legal = |character: char| character.is_ascii_alphanumeric() || "._@:+=,%-".contains(character);
    let name: String = text.chars().map(|character| if legal(character) { character } else { '_' }).take(200).collect();
    let name = name.trim_start_matches('.').to_owned();
    if name.is_empty() { "_".to_owned() } else { name }
}

impl Store {
    fn ref_path(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        check_word(namespace)?;
        check_word(name)?;
        Ok(self.path().join("refs").join(namespace).join(name))
    }

    /// Names a tree of the store, in place of what had the name. It is on the disk when this returns.
    pub fn set_ref(&self, reference: &Ref) -> Result<()> {
        self.check_writable()?;
        super::epoch::settle(self)?;
        // The lease comes first: from here on gc leaves the tree and its blobs, or brings them back.
        let lease = self.lease()?;
        lease.add(&reference.tree)?;
        let _turn = self.turn(false)?;
        if !self.has_tree(&reference.tree)? {
            return Err(Error::invalid(format!("there is no tree {} in the cache", reference.tree)));
        }
        let manifest = self.tree(&reference.tree)?;
        if let Some(digest) = self.lacks(&manifest, &HashSet::new())? {
            return Err(Error::invalid(format!("the tree {} lacks the blob {digest}", reference.tree)));
        }
        self.write_ref(reference)
    }

    /// Writes the record; the caller has a turn, and knows that the tree is there.
    pub(super) fn write_ref(&self, reference: &Ref) -> Result<()> {
        let path = self.ref_path(&reference.namespace, &reference.name)?;
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            std::fs::create_dir_all(directory).map_err(|error| Error::io("make", directory.display(), error))?;
            record::sync_directory_of(directory)?;
        }
        let bytes = serde_json::to_vec(reference).map_err(|error| Error::invalid(error.to_string()))?;
        record::replace(&self.staging(), &path, &bytes)
    }

    /// The ref of this name.
    pub fn get_ref(&self, namespace: &str, name: &str) -> Result<Option<Ref>> {
        let path = self.ref_path(namespace, name)?;
        let Some(bytes) = record::read(&path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|error| Error::corrupt("cache", "ref", 0, error, "a ref").in_image(path.display()))
    }

    /// All refs, by namespace and name. One that cannot be read is an error: what it names would be lost.
    pub fn refs(&self) -> Result<Vec<Ref>> {
        let root = self.path().join("refs");
        let failed = |error| Error::io("list", root.display(), error);
        let mut refs = Vec::new();
        for namespace in std::fs::read_dir(&root).map_err(failed)? {
            let namespace = namespace.map_err(failed)?;
            for entry in std::fs::read_dir(namespace.path()).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let (namespace, name) = (namespace.file_name(), name);
                let (Some(namespace), Some(name)) = (namespace.to_str(), name.to_str()) else { continue };
                refs.extend(self.get_ref(namespace, name)?);
            }
        }
        refs.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(refs)
    }

    /// Takes a name away; what it named goes with the next gc, unless something else names it. False when there is none.
    pub fn remove_ref(&self, namespace: &str, name: &str) -> Result<bool> {
        self.check_writable()?;
        let path = self.ref_path(namespace, name)?;
        match std::fs::remove_file(&path) {
            Ok(()) => record::sync_directory_of(&path).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", path.display(), error)),
        }
    }

    /// The tree that a user means: `namespace/name`, a name in `trees`, an id, or the only id that begins so.
    pub fn resolve(&self, text: &str) -> Result<Digest> {
        if let Some((namespace, name)) = text.split_once('/')
            && let Some(found) = self.get_ref(namespace, name)?
        {
            return Ok(found.tree);
        }
        if check_word(text).is_ok()
            && let Some(found) = self.get_ref("trees", text)?
        {
            return Ok(found.tree);
        }
        if let Ok(id) = text.parse::<Digest>() {
            return Ok(id);
        }
        let is_prefix =
            text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
        if is_prefix {
            let found: Vec<_> = self.trees()?.into_iter().filter(|id| id.hex().starts_with(text)).collect();
            match found[..] {
                [id] => return Ok(id),
                [] => {}
                _ => return Err(Error::invalid(format!("{} trees begin with {text}", found.len()))),
            }
        }
        let message = format!("there is no tree '{}' in the cache", crate::bytes::escape(text.as_bytes()));
        Err(Error::invalid(message).with_hint("guestctl cache ls lists them"))
    }
}
