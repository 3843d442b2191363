//! From a recipe to images: filesystems, one disk, every format, the manifest.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::manifest::Manifest;
use crate::recipe::{Format, FsType, Recipe};
use crate::tool::Tool;
use crate::tree::Tree;
use crate::{filesystem, partition, recipe};

/// Builds everything a recipe asks for in `out`, and says which files it has made. The manifest comes last.
pub(crate) fn build(recipe_path: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let recipe = recipe::read(recipe_path)?;
    let work = out.join(format!(".{}.work", recipe.image.name));
    if work.exists() {
        std::fs::remove_dir_all(&work)?;
    }
    std::fs::create_dir_all(&work)?;
    let built = build_in(&recipe, &work, out);
    let cleaned = std::fs::remove_dir_all(&work);
    let built = built?;
    cleaned?;
    Ok(built)
}

fn build_in(recipe: &Recipe, work: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let places = partition::place(recipe)?;
    let disk_path = work.join("disk");
    let mut disk = File::options().read(true).write(true).create(true).truncate(true).open(&disk_path)?;
    disk.set_len(recipe.image.size.0)?;
    partition::write(recipe, &places, &mut disk)?;

    let mut manifest = Manifest::new(recipe);
    for (partition, place) in recipe.partitions.iter().zip(&places) {
        let Some(fs) = &partition.fs else {
            manifest.add(partition, *place, None)?;
            continue;
        };
        let tree = match fs.kind {
            FsType::Swap => Tree { nodes: Default::default() },
            kind => Tree::new(&recipe.files(partition)?, kind, recipe.image.time)?,
        };
        let image = work.join(format!("part{}", place.number));
        let directory = work.join(format!("part{}.work", place.number));
        filesystem::make(fs, &tree, &image, place.size, &directory, recipe.image.time)
            .map_err(|error| format!("partition {}: {error}", place.number))?;
        copy_data(&File::open(&image)?, &disk, place.start)?;
        manifest.add(partition, *place, Some(&tree))?;
    }
    drop(disk);

    let mut built = Vec::new();
    for format in &recipe.image.formats {
        built.push(convert(format, &disk_path, out, &recipe.image.name, recipe.image.time)?);
    }
    let path = out.join(format!("{}.json", recipe.image.name));
    std::fs::write(&path, manifest.to_json()?)?;
    built.push(path);
    Ok(built)
}

/// Copies what is not zero, so that the disk stays sparse.
fn copy_data(from: &File, to: &File, offset: u64) -> Result<()> {
    let mut buf = vec![0; 1 << 16];
    let mut at = offset;
    let mut from = from;
    loop {
        let len = from.read(&mut buf)?;
        if len == 0 {
            return Ok(());
        }
        for block in buf[..len].chunks(4096) {
            if block.iter().any(|&byte| byte != 0) {
                to.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
    }
}

fn convert(format: &Format, disk: &Path, out: &Path, name: &str, time: i64) -> Result<PathBuf> {
    let (format, compressed, options, extension) = match format {
        Format::Name(format) => (format, false, &None, format),
        Format::With { format, compressed, options, extension } => {
            (format, *compressed, options, extension.as_ref().unwrap_or(format))
        }
    };
    let path = out.join(format!("{name}.{extension}"));
    let mut tool = Tool::new("qemu-img", time).args(["convert", "-f", "raw", "-O", format]);
    if compressed {
        tool = tool.arg("-c");
    }
    if let Some(options) = options {
        tool = tool.args(["-o", options]);
    }
    tool.arg(disk).arg(&path).run(&[0])?;
    Ok(path)
}
