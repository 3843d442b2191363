//! Builds test guests from recipes (`images/*.toml`): without root, without mounting, and the same bytes each time.
//!
//! Each recipe gives one disk in the formats it names, and a manifest: what a reader must find in it, computed from the
//! recipe alone. The filesystems are made by mke2fs and debugfs, mkfs.vfat and mtools, mkswap; the partition tables by
//! the crates gpt and mbrman; the formats by qemu-img.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program")]

mod filesystem;
mod image;
mod manifest;
mod partition;
mod recipe;
mod tool;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

/// What went wrong, as one sentence.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// Builds test images and their manifests from recipes.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The directory for images and manifests; made when missing.
    #[arg(long, value_name = "DIR", default_value = "images/out")]
    out: PathBuf,

    /// Recipes; all of `images/*.toml` when none is given.
    #[arg(value_name = "RECIPE")]
    recipes: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let recipes = if args.recipes.is_empty() { all_recipes(Path::new("images"))? } else { args.recipes.clone() };
    std::fs::create_dir_all(&args.out).map_err(|error| format!("cannot make {}: {error}", args.out.display()))?;
    for path in recipes {
        let built = image::build(&path, &args.out).map_err(|error| format!("{}: {error}", path.display()))?;
        for file in built {
            println!("{}", file.display());
        }
    }
    Ok(())
}

fn all_recipes(directory: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error| format!("cannot list {}: {error}", directory.display());
    let mut recipes = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            recipes.push(path);
        }
    }
    recipes.sort();
    if recipes.is_empty() {
        return Err(format!("there is no recipe in {}", directory.display()).into());
    }
    Ok(recipes)
}
