//! Which images: paths, wildcards over the host's directories, and lists in files.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::limits;
use crate::ops::matches;

/// The images that one argument stands for: itself, or, if there is no file of that name and it has wildcards, all files
/// and block devices that match, sorted by their bytes.
///
/// `*`, `?` and `[…]` match within one component and never a leading dot, as in glob(7); a component `**` stands for any
/// number of directories, symbolic links not followed. An address (`nbd://…`) stands for itself.
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when nothing matches.
pub fn expand_images(argument: &OsStr) -> Result<Vec<PathBuf>> {
    let path = Path::new(argument);
    let bytes = argument.as_bytes();
    let is_pattern = bytes.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['));
    let is_address = bytes.windows(3).any(|bytes| bytes == b"://");
    if !is_pattern || is_address || path.symlink_metadata().is_ok() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut level = vec![PathBuf::new()];
    let components: Vec<_> = path.components().collect();
    for (at, component) in components.iter().enumerate() {
        let is_last = at + 1 == components.len();
        let mut next = Vec::new();
        for base in level {
            match component {
                Component::Normal(name) if name.as_bytes() == b"**" => below(&base, &mut next),
                Component::Normal(name)
                    if name.as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')) =>
                {
                    next.extend(entries(&base).filter(|path| fits(name, path)));
                }
                other => next.push(base.join(other)),
            }
        }
        if is_last {
            found = next.into_iter().filter(|path| is_image(path)).collect();
            break;
        }
        level = next.into_iter().filter(|path| path.as_os_str().is_empty() || path.is_dir()).collect();
    }
    found.sort_unstable_by(|a: &PathBuf, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    found.dedup();
    if found.is_empty() {
        return Err(Error::invalid(format!("no image matches {}", escape(bytes))));
    }
    Ok(found)
}

/// The paths in a list: one on each line, without the blanks around it; empty lines and those that begin with `#` do not
/// count.
#[must_use]
pub fn parse_list(list: &[u8]) -> Vec<PathBuf> {
    let lines = list.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with(b"#"));
    lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect()
}

fn fits(pattern: &OsStr, path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let hidden = name.first() == Some(&b'.') && pattern.as_bytes().first() != Some(&b'.');
    !hidden && matches(pattern.as_bytes(), name)
}

fn is_image(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() || metadata.file_type().is_block_device())
}

/// What is in a directory; one that cannot be read has nothing in it, as for a shell.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let at = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let listed = std::fs::read_dir(at).into_iter().flatten().flatten();
    listed.map(move |entry| directory.join(entry.file_name()))
}

/// A directory and all below it.
fn below(base: &Path, found: &mut Vec<PathBuf>) {
    let mut pending = VecDeque::from([(base.to_owned(), 0)]);
    while let Some((directory, depth)) = pending.pop_front() {
        if depth < limits::DIRECTORY_DEPTH {
            let directories = entries(&directory).filter(|path| {
                fits(OsStr::new("*"), path) && path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
            });
            pending.extend(directories.map(|path| (path, depth + 1)));
        }
        found.push(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_find_sorted_files() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.raw", "a.raw", "c.img", ".hidden.raw", "x[1].raw", "sub/d.raw", "sub/deep/e.raw", ".git/f.raw"]
        {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        std::fs::create_dir(directory.path().join("dir.raw")).unwrap();
        std::os::unix::fs::symlink("a.raw", directory.path().join("z.raw")).unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("y.raw")).unwrap();
        std::os::unix::fs::symlink(".", directory.path().join("loop")).unwrap();
        let find = |pattern: &str| -> Vec<String> {
            let found = expand_images(directory.path().join(pattern).as_os_str()).unwrap();
            let strip = |path: PathBuf| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned();
            found.into_iter().map(strip).collect()
        };
        assert_eq!(find("*.raw"), ["a.raw", "b.raw", "x[1].raw", "z.raw"]);
        assert_eq!(find("[ab].r?w"), ["a.raw", "b.raw"]);
        assert_eq!(find(".h*"), [".hidden.raw"]);
        assert_eq!(find("sub/*"), ["sub/d.raw"]);
        assert_eq!(find("s*/*.raw"), ["sub/d.raw"]);
        assert_eq!(find("**/*.raw"), ["a.raw", "b.raw", "sub/d.raw", "sub/deep/e.raw", "x[1].raw", "z.raw"]);
        // A file of that name is meant, whatever its name looks like.
        assert_eq!(find("x[1].raw"), ["x[1].raw"]);
        assert_eq!(find("nothing.raw"), ["nothing.raw"]);
        let error = expand_images(directory.path().join("*.vmdk").as_os_str()).unwrap_err();
        assert!(error.to_string().starts_with("no image matches /"), "{error}");
        assert_eq!(expand_images(OsStr::new("nbd://host/?a")).unwrap(), [PathBuf::from("nbd://host/?a")]);
    }

    #[test]
    fn lists_have_comments_and_blanks() {
        let list = b"# all\n a.raw \r\n\n\tb c.raw\n#d\nd.qcow2#snap\n\xff.raw";
        let expected = [&b"a.raw"[..], b"b c.raw", b"d.qcow2#snap", b"\xff.raw"];
        let found = parse_list(list);
        assert!(found.iter().map(|path| path.as_os_str().as_bytes()).eq(expected), "{found:?}");
    }
}
