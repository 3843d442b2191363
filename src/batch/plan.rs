//! What is to be done: a frozen list of images, and the command lines that are run for each.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::template::Template;
use crate::bytes::escape;
use crate::error::{Error, Result};

/// Bytes of a name at most; room is left for what is put before and behind it.
const NAME_BYTES: usize = 160;

/// Extensions that are no part of a name: `disk.qcow2` is called `disk`.
const EXTENSIONS: &[&str] =
    &["raw", "img", "qcow2", "vmdk", "vdi", "vhd", "vpc", "vhdx", "ova", "gz", "xz", "zst", "bz2", "iso"];

/// One image of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Item {
    /// The image, as every command takes it: a path, `disk.qcow2#snapshot`, an NBD address.
    pub image: PathBuf,
    /// A file name that no other image of the plan has.
    pub name: String,
}

/// What is to be done. A plan does not change; [`Plan::digest`] tells two of them apart.
#[derive(Debug, Clone)]
pub struct Plan {
    items: Vec<Item>,
    lines: Vec<Vec<Template>>,
    out: Option<PathBuf>,
    product: Option<Template>,
    digest: String,
}

impl Plan {
    /// A plan that runs `lines`, the arguments of guestctl, for each image in turn; the first that does not succeed is the
    /// last. In their words `{image}` stands for the image, `{name}` for its [name](Item::name) and `{out}` for the
    /// directory `out`.
    ///
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when there are no images or lines, when an image is there
    /// twice, and when a word has a placeholder that is not known.
    pub fn new(images: Vec<PathBuf>, lines: &[Vec<OsString>], out: Option<PathBuf>) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::invalid("there are no images"));
        }
        if lines.is_empty() || lines.iter().any(Vec::is_empty) {
            return Err(Error::invalid("there is nothing to do for the images"));
        }
        let parse = |words: &Vec<OsString>| words.iter().map(|word| Template::parse(word)).collect::<Result<Vec<_>>>();
        let lines = lines.iter().map(parse).collect::<Result<Vec<_>>>()?;
        if !lines.iter().flatten().any(Template::names_image) {
            return Err(Error::invalid("no command line names the image").with_hint("{image} stands for it"));
        }
        if out.is_none() && lines.iter().flatten().any(Template::names_out) {
            return Err(Error::invalid("{out} is used, and there is no output directory"));
        }
        refuse_twins(&images)?;
        let names = names(&images);
        let items = images.into_iter().zip(names).map(|(image, name)| Item { image, name }).collect();
        let mut plan = Self { items, lines, out, product: None, digest: String::new() };
        plan.digest = plan.digest_now();
        Ok(plan)
    }

    /// Says that the lines make the file or directory `product` (a word with placeholders) whole or not at all, and refuse
    /// one that is there. Then an image whose product is there already is not begun, and one that is begun again because
    /// the first time it was interrupted has its product removed before.
    pub fn with_product(mut self, product: &OsString) -> Result<Self> {
        self.product = Some(Template::parse(product)?);
        self.digest = self.digest_now();
        Ok(self)
    }

    /// The images, in the order of the list.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The directory that `{out}` stands for.
    #[must_use]
    pub fn out(&self) -> Option<&Path> {
        self.out.as_deref()
    }

    /// Whether a command line makes files in [`Plan::out`] by itself.
    #[must_use]
    pub fn uses_out(&self) -> bool {
        self.lines.iter().flatten().any(Template::names_out)
    }

    /// A digest of everything in the plan, in hexadecimal: equal exactly when the same is done to the same list.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The arguments of each line for one image.
    #[must_use]
    pub fn commands(&self, item: &Item) -> Vec<Vec<OsString>> {
        let expand = |word: &Template| word.expand(item, self.out.as_deref());
        self.lines.iter().map(|line| line.iter().map(expand).collect()).collect()
    }

    /// What the lines make for one image, if that is known.
    #[must_use]
    pub fn product(&self, item: &Item) -> Option<PathBuf> {
        Some(PathBuf::from(self.product.as_ref()?.expand(item, self.out.as_deref())))
    }

    fn digest_now(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("guestctl batch plan 1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        // Templates written out for an image of which nothing else is made.
        let marks = Item { image: PathBuf::from("\u{1}image\u{1}"), name: "\u{1}name\u{1}".to_owned() };
        field(self.out.as_ref().map_or(&b""[..], |out| out.as_os_str().as_bytes()));
        field(self.product(&marks).unwrap_or_default().as_os_str().as_bytes());
        for line in self.commands(&marks) {
            field(b"line");
            line.iter().for_each(|word| field(word.as_bytes()));
        }
        field(b"images");
        self.items.iter().for_each(|item| field(item.image.as_os_str().as_bytes()));
        hasher.finalize().to_hex().to_string()
    }
}

fn refuse_twins(images: &[PathBuf]) -> Result<()> {
    let mut seen = HashSet::new();
    for image in images {
        // `./a//b` is `a/b`, but the text of an address is not a path's.
        let is_address = image.as_os_str().as_bytes().windows(3).any(|bytes| bytes == b"://");
        let plain = if is_address {
            image.clone()
        } else {
            image.components().filter(|part| *part != Component::CurDir).collect()
        };
        if !seen.insert(plain) {
            let message = format!("{} is in the list twice", escape(image.as_os_str().as_bytes()));
            return Err(Error::invalid(message));
        }
    }
    Ok(())
}

/// A name for each image: its file name without an image's extension, in characters that are safe everywhere. Those who
/// would share one get a part of their path's digest, so that a name does not depend on the order of the list.
fn names(images: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = images.iter().map(|image| plain_name(image)).collect();
    for digits in [8, 16, 64] {
        let mut count = HashMap::new();
        // Some filesystems take names that differ in case for the same.
        names.iter().for_each(|name| *count.entry(name.to_lowercase()).or_insert(0) += 1);
        if count.len() == images.len() {
            break;
        }
        for (image, name) in images.iter().zip(&mut names) {
            if count.get(&name.to_lowercase()).is_some_and(|count| *count > 1) {
                let digest = blake3::hash(image.as_os_str().as_bytes()).to_hex();
                *name = format!("{}-{}", plain_name(image), digest.get(..digits).unwrap_or(&digest));
            }
        }
    }
    names
}

fn plain_name(image: &Path) -> String {
    let bytes = image.as_os_str().as_bytes();
    let last = bytes.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or_default();
    let mut name = String::new();
    for character in String::from_utf8_lossy(last).chars() {
        let safe = character.is_alphanumeric() || matches!(character, '.' | '_' | '-' | '+' | '@' | '=');
        let character = if safe { character } else { '_' };
        if name.len() + character.len_utf8() > NAME_BYTES {
            break;
        }
        name.push(character);
    }
    while let Some((stem, extension)) = name.rsplit_once('.')
        && EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
        && !stem.is_empty()
    {
        name.truncate(stem.len());
    }
    if name.is_empty() || name.starts_with(['.', '-']) {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(images: &[&str], line: &[&str]) -> Result<Plan> {
        let line = line.iter().map(OsString::from).collect();
        Plan::new(images.iter().map(PathBuf::from).collect(), &[line], Some("/out".into()))
    }

    fn names_of(images: &[&str]) -> Vec<String> {
        let plan = plan(images, &["inspect", "{image}"]).unwrap();
        plan.items().iter().map(|item| item.name.clone()).collect()
    }

    #[test]
    fn names_are_safe_and_unique() {
        assert_eq!(names_of(&["/a/disk.qcow2", "b.tar", "/dev/vg/root"]), ["disk", "b.tar", "root"]);
        assert_eq!(names_of(&["disk.raw.xz", ".qcow2", "..", "-x.img"]), ["disk", "_.qcow2", "_..", "_-x"]);
        assert_eq!(names_of(&["a b\n.raw", "d.qcow2#s 1", "nbd://h/e?x"]), ["a_b_", "d.qcow2_s_1", "e_x"]);
        let shared = names_of(&["/a/disk.raw", "/b/Disk.raw", "/c/other.raw"]);
        let digest = |path: &str| blake3::hash(path.as_bytes()).to_hex()[..8].to_owned();
        assert_eq!(shared[0], format!("disk-{}", digest("/a/disk.raw")));
        assert_eq!(shared[1], format!("Disk-{}", digest("/b/Disk.raw")));
        assert_eq!(shared[2], "other");
        // One that is called by chance what another gets.
        let taken = shared[0].clone();
        let again = names_of(&["/a/disk.raw", "/b/Disk.raw", &format!("/z/{taken}.raw")]);
        assert_eq!(again.iter().map(|name| name.to_lowercase()).collect::<HashSet<_>>().len(), 3, "{again:?}");
        // In another order, the same names.
        let mut turned = names_of(&["/c/other.raw", "/b/Disk.raw", "/a/disk.raw"]);
        turned.reverse();
        assert_eq!(turned, shared);
        let long = "é".repeat(300);
        assert!(names_of(&[&long])[0].len() <= NAME_BYTES);
    }

    #[test]
    fn plans_that_make_no_sense_are_refused() {
        let line = ["inspect", "{image}"];
        for (images, line, message) in [
            (&[][..], &line[..], "there are no images"),
            (&["a", "./a"], &line, "./a is in the list twice"),
            (&["a/b", "a//b"], &line, "a//b is in the list twice"),
            (&["a"], &["inspect"], "no command line names the image"),
            (&["a"], &[], "there is nothing to do for the images"),
        ] {
            let error = plan(images, line).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 2));
        }
        let lines = [vec!["cat".into(), "{image}".into(), "{out}".into()]];
        let error = Plan::new(vec!["a".into()], &lines, None).unwrap_err();
        assert_eq!(error.to_string(), "{out} is used, and there is no output directory");
    }

    #[test]
    fn the_digest_tells_plans_apart() {
        let digest = |images: &[&str], line: &[&str]| plan(images, line).unwrap().digest().to_owned();
        let first = digest(&["a", "b"], &["inspect", "{image}"]);
        assert_eq!(first, digest(&["a", "b"], &["inspect", "{image}"]));
        assert_ne!(first, digest(&["b", "a"], &["inspect", "{image}"]));
        assert_ne!(first, digest(&["ab"], &["inspect", "{image}"]));
        assert_ne!(first, digest(&["a", "b"], &["inspect", "--json", "{image}"]));
        assert_ne!(first, digest(&["a", "b"], &["inspect", "{image}", "{name}"]));
        let lines = [vec!["inspect".into(), "{image}".into()]];
        let other = Plan::new(vec!["a".into(), "b".into()], &lines, None).unwrap();
        assert_ne!(first, other.digest());
        assert_ne!(other.digest(), other.clone().with_product(&"p".into()).unwrap().digest());
    }
}
