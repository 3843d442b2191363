//! The named operations: each one command line.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use guestctl::batch::Plan;
use guestctl::block::ImageFormat;
use guestctl::{Error, Result};

/// What is done with each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// Say what is installed.
    Inspect,
    /// Digest the files, or what is named behind --.
    Checksum,
    /// Copy the tree out into OUTPUT/NAME. With a cache, and nothing behind --, it comes from there and is added if need be.
    Extract,
    /// Copy the tree out into OUTPUT/NAME.tar.
    Tar,
    /// Convert into OUTPUT/NAME.FORMAT.
    Convert,
}

impl Operation {
    /// The plan: the operation's line, `more` at its end. `has_cache`: whether a cache is in use.
    pub fn plan(
        self,
        images: Vec<PathBuf>,
        output: Option<&Path>,
        format: Option<ImageFormat>,
        more: &[OsString],
        has_cache: bool,
    ) -> Result<Plan> {
        if format.is_some() && self != Self::Convert {
            return Err(Error::invalid("-O is for --op convert"));
        }
        let format = format.map(ImageFormat::name);
        let (words, product): (Vec<&str>, Option<String>) = match self {
            Self::Inspect => (vec!["inspect", "--json", "{image}"], None),
            Self::Checksum => (vec!["checksum", "--quiet", "--json", "{image}"], None),
            // Further arguments are copy-out's.
            Self::Extract if has_cache && more.is_empty() => {
                (vec!["cache", "restore", "--quiet", "--json", "{image}", "{out}/{name}"], Some("{name}".to_owned()))
            }
            Self::Extract => {
                (vec!["copy-out", "--quiet", "--json", "{image}", "/", "{out}/{name}"], Some("{name}".to_owned()))
            }
            Self::Tar => (
                vec!["tar-out", "--quiet", "--json", "{image}", "/", "{out}/{name}.tar"],
                Some("{name}.tar".to_owned()),
            ),
            Self::Convert => {
                let Some(format) = format else {
                    return Err(Error::invalid("--op convert needs the new format, -O FORMAT"));
                };
                (vec!["convert", "--quiet", "--json", "-O", format, "{image}"], Some(format!("{{name}}.{format}")))
            }
        };
        let mut line: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        if self == Self::Convert {
            line.push(format!("{{out}}/{{name}}.{}", format.unwrap_or_default()).into());
        }
        // What the user writes is meant as it stands.
        line.extend(more.iter().map(|word| literal(word)));
        let output = match (product.is_some(), output) {
            (true, None) => return Err(Error::invalid("what is made needs a directory, --output DIR")),
            (true, Some(output)) => {
                let fail = |error| Error::io("make", output.display(), error);
                std::fs::create_dir_all(output).map_err(fail)?;
                Some(output)
            }
            (false, output) => output,
        };
        let plan = Plan::new(images, &[line], output.map(Path::to_owned))?;
        if let (Some(product), Some(output)) = (product, output) {
            let suffix = product.trim_start_matches("{name}");
            refuse_images_as_targets(&plan, |name| output.join(format!("{name}{suffix}")))?;
        }
        if self == Self::Extract { plan.with_product(OsStr::new("{out}/{name}")) } else { Ok(plan) }
    }
}

/// A word without placeholders.
fn literal(word: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let doubled = word.as_bytes().iter().flat_map(|byte| match byte {
        b'{' | b'}' => vec![*byte; 2],
        byte => vec![*byte],
    });
    OsString::from_vec(doubled.collect())
}

/// Nothing is written over an image of the list.
fn refuse_images_as_targets(plan: &Plan, target: impl Fn(&str) -> PathBuf) -> Result<()> {
    let existing: Vec<_> = plan.items().iter().filter_map(|item| target(&item.name).canonicalize().ok()).collect();
    if existing.is_empty() {
        return Ok(());
    }
    let images: HashSet<_> = plan.items().iter().filter_map(|item| item.image.canonicalize().ok()).collect();
    match existing.iter().find(|target| images.contains(*target)) {
        Some(target) => {
            let error =
                Error::invalid(format!("{} is an image of the list and would be overwritten", target.display()));
            Err(error.with_hint("take another output directory"))
        }
        None => Ok(()),
    }
}
