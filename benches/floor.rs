//! How long the kernel takes to make a tree: the loop that a restore is measured against. It knows the tree beforehand,
//! makes the directories, then the files on some threads, each by the system calls that nobody can do without, and times
//! only that:
//!
//! ```text
//! cargo bench --bench floor -- SOURCE TARGET reflink|copy|link [THREADS]
//! ```
//!
//! `reflink` and `copy` give each file its mode, owner and times, `link` makes names of the source's files. Extended
//! attributes and further names of one file are left out. Prints seconds, and files per second.
#![allow(clippy::print_stdout, reason = "a program for benchmarks")]

use std::ffi::CString;
use std::fs::Metadata;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Reflink,
    Copy,
    Link,
}

/// An entry that is no directory.
struct File {
    directory: usize,
    source: CString,
    name: CString,
    stat: Metadata,
    target: Option<CString>,
}

struct Directory {
    path: PathBuf,
    stat: Metadata,
}

/// Files that a thread takes at a time.
const BATCH: usize = 64;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [source, target, way, threads @ ..] = &words[..] else {
        println!("usage: floor SOURCE TARGET reflink|copy|link [THREADS]");
        return Ok(());
    };
    let way = match &way[..] {
        "reflink" => Way::Reflink,
        "copy" => Way::Copy,
        "link" => Way::Link,
        other => return Err(format!("there is no way {other}").into()),
    };
    let threads = threads.first().map_or(Ok(2), |threads| threads.parse())?;
    let (directories, files) = list(Path::new(source))?;
    let begun = Instant::now();
    restore(&directories, &files, Path::new(target), way, threads)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds:.4} {:.0}", files.len() as f64 / seconds);
    Ok(())
}

fn list(source: &Path) -> Result<(Vec<Directory>, Vec<File>)> {
    let mut directories = vec![Directory { path: PathBuf::new(), stat: std::fs::metadata(source)? }];
    let mut files = Vec::new();
    let mut at = 0;
    while at < directories.len() {
        let path = directories[at].path.clone();
        for entry in std::fs::read_dir(source.join(&path))? {
            let entry = entry?;
            let stat = entry.metadata()?;
            if stat.is_dir() {
                directories.push(Directory { path: path.join(entry.file_name()), stat });
            } else if stat.is_file() || stat.is_symlink() {
                let target = stat.is_symlink().then(|| std::fs::read_link(entry.path())).transpose()?;
                files.push(File {
                    directory: at,
                    source: CString::new(entry.path().as_os_str().as_bytes())?,
                    name: CString::new(entry.file_name().as_bytes())?,
                    stat,
                    target: target.map(|target| CString::new(target.as_os_str().as_bytes())).transpose()?,
                });
            }
        }
        at += 1;
    }
    Ok((directories, files))
}

fn restore(directories: &[Directory], files: &[File], target: &Path, way: Way, threads: usize) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for directory in directories {
        rustix::fs::mkdir(target.join(&directory.path), Mode::RWXU)?;
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0u8; 1 << 20];
        let mut open: Option<(usize, OwnedFd)> = None;
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = files.get(first..(first + BATCH).min(files.len())) else { return Ok(()) };
            for file in batch {
                if open.as_ref().is_none_or(|(number, _)| *number != file.directory) {
                    let path = target.join(&directories[file.directory].path);
                    open = Some((file.directory, rustix::fs::open(path, flags, Mode::empty())?));
                }
                if let Some((_, directory)) = &open {
                    make(file, directory, way, &mut buffer)?;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    for Directory { path, stat } in directories.iter().rev() {
        let directory = rustix::fs::open(target.join(path), flags, Mode::empty())?;
        rustix::fs::fchown(&directory, Some(Uid::from_raw(stat.uid())), Some(Gid::from_raw(stat.gid())))?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(stat.mode() & 0o7777))?;
        rustix::fs::futimens(&directory, &times(stat))?;
    }
    Ok(())
}

fn make(file: &File, directory: &OwnedFd, way: Way, buffer: &mut [u8]) -> Result<()> {
    let File { source, name, stat, target, .. } = file;
    let (owner, group) = (Some(Uid::from_raw(stat.uid())), Some(Gid::from_raw(stat.gid())));
    let foreign = (stat.uid(), stat.gid()) != (0, 0);
    if let Some(target) = target {
        rustix::fs::symlinkat(target, directory, name)?;
        if foreign {
            rustix::fs::chownat(directory, name, owner, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        return Ok(rustix::fs::utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?);
    }
    if way == Way::Link {
        return Ok(rustix::fs::linkat(CWD, source, directory, name, AtFlags::empty())?);
    }
    let mode = Mode::from_raw_mode(stat.mode() & 0o7777);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let to = rustix::fs::openat(directory, name, flags, mode)?;
    if stat.len() > 0 {
        let from = rustix::fs::open(source, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        if way == Way::Reflink {
            rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())?;
        } else {
            loop {
                let read = rustix::io::read(&from, &mut *buffer)?;
                let mut rest = &buffer[..read];
                while !rest.is_empty() {
                    rest = &rest[rustix::io::write(&to, rest)?..];
                }
                if read < buffer.len() {
                    break;
                }
            }
        }
    }
    if foreign {
        rustix::fs::fchown(&to, owner, group)?;
    }
    Ok(rustix::fs::futimens(&to, &times(stat))?)
}

fn times(stat: &Metadata) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.atime(), stat.atime_nsec()),
        last_modification: time(stat.mtime(), stat.mtime_nsec()),
    }
}
