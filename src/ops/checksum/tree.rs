//! The digests of every regular file of a tree, on all cores, in the order of the walk.

use std::io::Write;

use serde::Serialize;

use super::hasher::Hasher;
use super::{Algorithm, CHUNK};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, MountTable};
use crate::ops::bulk::{Batch, Content, Member, Wants, for_each_batch};
use crate::ops::filter::Filter;
use crate::ops::problems::{Problem, Problems};
use crate::progress::Progress;

/// Which digests of which files.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChecksumOptions {
    /// The digests, all made in one pass.
    pub algorithms: Vec<Algorithm>,
    /// Which files.
    pub filter: Filter,
}

impl ChecksumOptions {
    /// These digests of every file.
    #[must_use]
    pub fn new(algorithms: Vec<Algorithm>) -> Self {
        Self { algorithms, filter: Filter::default() }
    }
}

/// One file's digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    /// Its path below the directory, without a leading `/`.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// In the order of the algorithms.
    pub digests: Vec<String>,
}

/// What was digested.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChecksumReport {
    /// Files that were digested.
    pub files: u64,
    /// Their bytes.
    pub content_bytes: u64,
    /// What could not be read; such files have no digests.
    pub problems: Problems,
}

/// Calls `visit` with the digests of each regular file below `directory`, in the order of a walk (names in byte order), computed on
/// all threads of the caller's pool.
pub fn checksums_out(
    mounts: &MountTable,
    directory: &GuestPath,
    options: &ChecksumOptions,
    mut visit: impl FnMut(Digested) -> Result<()> + Send,
    progress: &dyn Progress,
) -> Result<ChecksumReport> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    let mut report = ChecksumReport::default();
    let mut unread = Problems::default();
    let work = |batch: &Batch| {
        let (mut done, mut problems) = (Vec::new(), Vec::new());
        for member in batch.members.iter().filter(|member| member.metadata.file_type == FileType::File) {
            match digest(batch, member, &options.algorithms, progress) {
                Ok(Some(digests)) => {
                    done.push(Digested { path: member.relative.clone(), size: member.metadata.size, digests });
                }
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => return Err(error),
                Err(error) => problems.push(Problem::new(member.location.path.as_bytes(), &error)),
            }
        }
        Ok((done, problems))
    };
    let deliver = |(done, problems): (Vec<Digested>, Vec<Problem>)| {
        for file in done {
            report.files += 1;
            report.content_bytes += file.size;
            progress.advance(file.size);
            visit(file)?;
        }
        unread.extend(problems);
        Ok(())
    };
    let wants = Wants { contents: true, links: true, xattrs: false, origins: None };
    let keep = |visited: &crate::ops::Visited| {
        let is_dir = visited.metadata.file_type == FileType::Dir;
        options.filter.matches(visited.location.path.as_bytes(), is_dir)
    };
    report.problems = for_each_batch(mounts, &start, wants, &keep, work, deliver, progress)?;
    report.problems.append(unread);
    Ok(report)
}

/// A file's digests; `None` when it was reported as unreadable already.
fn digest(
    batch: &Batch,
    member: &Member,
    algorithms: &[Algorithm],
    progress: &dyn Progress,
) -> Result<Option<Vec<String>>> {
    if !member.unread.is_empty() {
        return Ok(None);
    }
    let mut hashers: Vec<Hasher> = algorithms.iter().copied().map(Hasher::new).collect();
    match batch.content(member) {
        Content::Nothing => return Ok(None),
        Content::Bytes(bytes) => hashers.iter_mut().for_each(|hasher| hasher.update(bytes)),
        Content::Device(device) => {
            let mut buffer = vec![0; CHUNK];
            let (size, mut at) = (device.size(), 0);
            while at < size {
                if progress.cancelled() {
                    return Err(ErrorKind::Cancelled.into());
                }
                let len = (size - at).min(CHUNK as u64) as usize;
                device.read_exact_at(&mut buffer[..len], at)?;
                hashers.iter_mut().for_each(|hasher| hasher.update(&buffer[..len]));
                at += len as u64;
            }
        }
    }
    Ok(Some(hashers.into_iter().map(Hasher::finish).collect()))
}

/// A line as `sha256sum` and its like write it, a name with a backslash or a line end escaped behind a leading backslash.
/// Source: GNU coreutils manual, "cksum output modes". `crc` has the form of `cksum`: sum, size, name.
pub fn write_sum_line(
    out: &mut dyn Write,
    algorithm: Algorithm,
    digest: &str,
    size: u64,
    path: &[u8],
) -> std::io::Result<()> {
    if algorithm == Algorithm::Crc {
        write!(out, "{digest} {size} ")?;
        out.write_all(path)?;
        return out.write_all(b"\n");
    }
    let name = escaped(path);
    if name.is_some() {
        out.write_all(b"\\")?;
    }
    write!(out, "{digest}  ")?;
    out.write_all(name.as_deref().unwrap_or(path))?;
    out.write_all(b"\n")
}

/// The same in the form of `--tag`: `SHA256 (path) = digest`.
pub fn write_sum_tag(out: &mut dyn Write, algorithm: Algorithm, digest: &str, path: &[u8]) -> std::io::Result<()> {
    let name = escaped(path);
    if name.is_some() {
        out.write_all(b"\\")?;
    }
    write!(out, "{} (", algorithm.name().to_ascii_uppercase())?;
    out.write_all(name.as_deref().unwrap_or(path))?;
    writeln!(out, ") = {digest}")
}

/// A name with what would break its line escaped; `None` when nothing would.
fn escaped(path: &[u8]) -> Option<Vec<u8>> {
    if !path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        return None;
    }
    let mut name = Vec::with_capacity(path.len() + 8);
    for &byte in path {
        match byte {
            b'\\' => name.extend_from_slice(b"\\\\"),
            b'\n' => name.extend_from_slice(b"\\n"),
            b'\r' => name.extend_from_slice(b"\\r"),
            byte => name.push(byte),
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_coreutils_does() {
        let line = |path: &[u8]| {
            let mut out = Vec::new();
            write_sum_line(&mut out, Algorithm::Md5, "d0", 3, path).unwrap();
            out
        };
        assert_eq!(line(b"./a b"), b"d0  ./a b\n");
        assert_eq!(line(b"a\\b\nc\r"), b"\\d0  a\\\\b\\nc\\r\n");
        assert_eq!(line(b"\xff"), b"d0  \xff\n");
    }
}
