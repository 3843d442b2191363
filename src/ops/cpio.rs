//! A guest's tree as a cpio archive in the "new ASCII" format (`newc`): a file with several names has its content at the last
//! of them, as cpio(1) and the kernel want it. The format is in `initrd`'s reader.
//!
//! Entries come in the order of the walk, the start as `.`, the others without a `/` before them. Inodes are numbered anew,
//! so that the same tree gives the same bytes. What the format cannot hold: attributes are left out, fractions of seconds
//! too, times outside 1970 to 2106 become the nearest that it has ([`CpioWritten::clamped_times`]), and a file of 4 GiB or more
//! is refused before anything is written.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::bulk::{Batch, Content, Wants, for_each_batch};
use super::filter::{Filter, Verdict};
use super::problems::{Problem, Problems};
use super::walk::{Step, Visited, Walk};
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, Metadata, MountTable};
use crate::host::Staged;
use crate::limits;
use crate::progress::Progress;

const CHUNK: usize = 1 << 20;
/// Archives end at a multiple of this, as cpio(1) makes them.
const BLOCK: u64 = 512;

/// What goes into an archive.
#[derive(Debug, Clone, Default)]
pub struct CpioOptions {
    /// Which paths.
    pub filter: Filter,
    /// Whether other filesystems that are mounted below the directory are left out.
    pub one_filesystem: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct CpioWritten {
    /// Entries.
    pub entries: u64,
    /// Bytes of the archive.
    pub bytes: u64,
    /// Entries whose time does not fit and was changed.
    pub clamped_times: u64,
    /// What could not be read; missing bytes of a file are zeroes.
    pub problems: Problems,
}

/// Writes the tree below `directory` to the host path `path`, which appears complete or not at all.
pub fn cpio_out(
    mounts: &MountTable,
    directory: &GuestPath,
    path: &Path,
    options: &CpioOptions,
    progress: &dyn Progress,
) -> Result<CpioWritten> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = std::fs::File::options().write(true).open(path);
        let mut file = file.map_err(|error| Error::io("open", path.display(), error))?;
        return cpio_to(mounts, directory, &mut file, options, progress);
    }
    let mut staged = Staged::create(path)?;
    let written = cpio_to(mounts, directory, &mut staged.file, options, progress)?;
    staged.publish()?;
    Ok(written)
}

/// The same to an open stream.
pub fn cpio_to(
    mounts: &MountTable,
    directory: &GuestPath,
    out: &mut (dyn Write + Send),
    options: &CpioOptions,
    progress: &dyn Progress,
) -> Result<CpioWritten> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    let keep = |visited: &Visited| keep(options, &start, visited);
    let (links, total) = plan(mounts, &start, &keep, progress)?;
    progress.set_total(total);
    let mut archive = Archive { out, progress, links, next: 1, written: CpioWritten::default() };
    let wants = Wants { contents: true, links: true, xattrs: false, origins: None };
    let found = for_each_batch(
        mounts,
        &start,
        wants,
        &keep,
        |batch| Ok(items(batch)),
        |items: Vec<Item>| items.into_iter().try_for_each(|item| archive.item(&item)),
        progress,
    )?;
    archive.finish()?;
    let mut written = archive.written;
    written.problems.append(found);
    Ok(written)
}

fn keep(options: &CpioOptions, start: &Location, visited: &Visited) -> Verdict {
    if options.one_filesystem && visited.location.mount != start.mount {
        return Verdict::Skip;
    }
    let is_dir = visited.metadata.file_type == FileType::Dir;
    options.filter.matches(visited.location.path.as_bytes(), is_dir)
}

/// The names of one file.
#[derive(Debug, Default)]
struct Names {
    /// In the archive.
    all: u32,
    seen: u32,
    /// The number that stands for the file there.
    inode: Option<u32>,
}

type Links = HashMap<(usize, u64), Names>;

/// Counts the names of files that have several, and the bytes of all; refuses what the format cannot hold.
fn plan(
    mounts: &MountTable,
    start: &Location,
    keep: &dyn Fn(&Visited) -> Verdict,
    progress: &dyn Progress,
) -> Result<(Links, u64)> {
    let (mut links, mut total) = (Links::new(), 0u64);
    let mut walk = Walk::new(mounts, start.clone());
    while let Some(step) = walk.step()? {
        if progress.cancelled() {
            return Err(ErrorKind::Cancelled.into());
        }
        // Problems turn up again when the tree is written.
        let Step::Entry(visited) = step else { continue };
        match keep(&visited) {
            Verdict::Take => {}
            Verdict::Enter => continue,
            Verdict::Skip => {
                walk.skip();
                continue;
            }
        }
        let Visited { location, metadata, .. } = &visited;
        if metadata.file_type == FileType::File {
            if metadata.size > u64::from(u32::MAX) {
                let feature = format!("a file of {} bytes (4 GiB and more)", metadata.size);
                let error = Error::unsupported("cpio newc", feature).at_path(location.path.as_bytes());
                return Err(error.with_hint("leave it out with --exclude, or use tar-out"));
            }
            total = total.saturating_add(metadata.size);
        }
        if metadata.nlink > 1 && metadata.file_type != FileType::Dir {
            let names = links.entry((location.mount, location.inode)).or_default();
            names.all = names.all.saturating_add(1);
            limits::check("files with several names", links.len() as u64, limits::LINKED_INODES)?;
        }
    }
    Ok((links, total))
}

/// One entry with its content.
struct Item {
    location: Location,
    relative: Vec<u8>,
    metadata: Metadata,
    content: Held,
}

enum Held {
    Bytes(Vec<u8>),
    Device(Arc<dyn BlockDevice>),
}

fn items(batch: &Batch) -> Vec<Item> {
    let item = |member: &super::bulk::Member| Item {
        location: member.location.clone(),
        relative: member.relative.clone(),
        metadata: member.metadata.clone(),
        content: match batch.content(member) {
            Content::Bytes(bytes) => Held::Bytes(bytes.to_vec()),
            Content::Device(device) => Held::Device(device.clone()),
            Content::Nothing => Held::Bytes(member.target.clone().unwrap_or_default()),
        },
    };
    batch.members.iter().map(item).collect()
}

struct Archive<'a> {
    out: &'a mut (dyn Write + Send),
    progress: &'a dyn Progress,
    links: Links,
    /// The number of the next file.
    next: u32,
    written: CpioWritten,
}

impl Archive<'_> {
    fn item(&mut self, item: &Item) -> Result<()> {
        let metadata = &item.metadata;
        let key = (item.location.mount, item.location.inode);
        let names = self.links.get_mut(&key).filter(|_| metadata.file_type != FileType::Dir);
        let (inode, links, is_last) = match names {
            None if metadata.file_type == FileType::Dir => {
                (self.next, metadata.nlink.min(u64::from(u32::MAX)) as u32, true)
            }
            None => (self.next, 1, true),
            Some(names) => {
                names.seen += 1;
                (*names.inode.get_or_insert(self.next), names.all, names.seen == names.all)
            }
        };
        self.next = self.next.max(inode.saturating_add(1));
        let size = match &item.content {
            _ if !is_last => 0,
            Held::Bytes(bytes) => bytes.len() as u64,
            Held::Device(device) => device.size(),
        };
        let size =
            u32::try_from(size).map_err(|_| Error::unsupported("cpio newc", format!("a file of {size} bytes")))?;
        let name = if item.relative.is_empty() { b"." } else { item.relative.as_slice() };
        let seconds = metadata.mtime.seconds;
        let mtime = seconds.clamp(0, i64::from(u32::MAX));
        self.written.clamped_times += u64::from(mtime != seconds);
        let rdev = metadata.rdev.unwrap_or_default();
        self.header(
            name,
            &[
                inode,
                metadata.mode(),
                metadata.uid,
                metadata.gid,
                links,
                mtime as u32,
                size,
                0,
                item.location.mount as u32,
                rdev.major,
                rdev.minor,
            ],
        )?;
        if size > 0 {
            match &item.content {
                Held::Bytes(bytes) => self.put(bytes)?,
                Held::Device(device) => self.device(device, &item.location.path)?,
            }
        }
        if metadata.file_type == FileType::File {
            self.progress.advance(u64::from(size));
        }
        self.pad(4)?;
        self.written.entries += 1;
        Ok(())
    }

    /// A large file; what cannot be read becomes zeroes, because its size is written already.
    fn device(&mut self, device: &Arc<dyn BlockDevice>, path: &GuestPath) -> Result<()> {
        let (mut at, size) = (0, device.size());
        let mut buffer = Vec::new();
        while at < size {
            if self.progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            buffer.resize((size - at).min(CHUNK as u64) as usize, 0);
            let end = at + buffer.len() as u64;
            if let Err(error) = device.read_exact_at(&mut buffer, at) {
                buffer.fill(0);
                self.written.problems.push(Problem::unread(path.as_bytes(), at..end, &error));
            }
            self.put(&buffer)?;
            at = end;
        }
        Ok(())
    }

    /// The fields from `c_ino` to `c_rmin`, and the name.
    fn header(&mut self, name: &[u8], fields: &[u32; 11]) -> Result<()> {
        let mut text = String::from("070701");
        let name_size = name.len() as u32 + 1;
        for field in fields.iter().chain([&name_size, &0]) {
            text.push_str(&format!("{field:08X}"));
        }
        self.put(text.as_bytes())?;
        self.put(name)?;
        self.put(b"\0")?;
        self.pad(4)
    }

    fn finish(&mut self) -> Result<()> {
        self.header(b"TRAILER!!!", &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        self.pad(BLOCK)?;
        self.out.flush().map_err(|error| Error::io("write", "the archive", error))
    }

    /// Zeroes up to a multiple of `unit`.
    fn pad(&mut self, unit: u64) -> Result<()> {
        let len = self.written.bytes.next_multiple_of(unit) - self.written.bytes;
        self.put(&[0; BLOCK as usize][..len as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| Error::io("write", "the archive", error))?;
        self.written.bytes += bytes.len() as u64;
        Ok(())
    }
}
