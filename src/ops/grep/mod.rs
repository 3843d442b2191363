//! Lines of guest files that match, as grep(1) finds them: files are searched on all threads, and what comes out is in the
//! order of the walk whatever their number.
//!
//! A file with a NUL byte is binary. Its lines end at NUL bytes too, and it is reported as matching and not printed, as GNU
//! grep does. A line longer than [`limits::GREP_LINE_BYTES`] is a problem of its file, and the others are searched.

mod pattern;
mod search;
mod source;

use std::ops::Range;
use std::sync::Arc;

pub use pattern::{Pattern, Syntax};
use search::Searcher;

use super::bulk::{Batch, Content, Member, Wants, for_each_batch};
use super::filter::{Filter, Verdict};
use super::problems::{Problem, Problems};
use super::walk::Visited;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Location, MountTable};
use crate::limits;
use crate::progress::Progress;

/// What is told of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GrepMode {
    /// Its selected lines.
    #[default]
    Lines,
    /// What matched in them.
    OnlyMatching,
    /// How many they are.
    Count,
    /// Its name, when there are any.
    FilesWithMatches,
    /// Its name, when there are none.
    FilesWithoutMatch,
    /// Nothing; the first selected line ends the search.
    Quiet,
}

/// How to search.
#[derive(Debug, Clone, Default)]
pub struct GrepOptions {
    /// For what.
    pub pattern: Pattern,
    /// Whether the lines that do not match are selected.
    pub invert: bool,
    /// What is told.
    pub mode: GrepMode,
    /// Whether every file is text, whatever bytes it has.
    pub text: bool,
    /// Whether lines are numbered.
    pub line_numbers: bool,
    /// Whether lines tell where in them the matches are.
    pub positions: bool,
    /// Lines of context before a selected one; [`MAX_CONTEXT`] at most.
    pub before: usize,
    /// Lines of context behind it; [`MAX_CONTEXT`] at most.
    pub after: usize,
    /// Selected lines of one file behind which it is left.
    pub max_count: Option<u64>,
    /// Files larger than this are left out.
    pub max_size: Option<u64>,
    /// Whether files that gzip has packed are searched unpacked.
    pub gunzip: bool,
    /// Whether what is below a directory is searched.
    pub recursive: bool,
    /// Whether other filesystems that are mounted below a start are left out.
    pub one_filesystem: bool,
    /// Which files are searched at all.
    pub filter: Filter,
}

/// The most lines of context.
pub const MAX_CONTEXT: usize = 10_000;

/// Something found. Paths are absolute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrepEvent<'a> {
    /// Lines that do not follow those before begin, where context is wanted.
    Group,
    /// A line, or what matched in it.
    Line {
        /// The file.
        path: &'a [u8],
        /// The line's number from 1 on, when it is wanted.
        line_number: Option<u64>,
        /// Where in the file `text` begins.
        byte_offset: u64,
        /// Its bytes, without the end of the line.
        text: &'a [u8],
        /// Whether it is no context.
        selected: bool,
        /// Where in `text` the matches are, when that is wanted.
        matches: &'a [Range<usize>],
    },
    /// A binary file has a line that is selected.
    Binary {
        /// The file.
        path: &'a [u8],
    },
    /// So many lines are selected.
    Count {
        /// The file.
        path: &'a [u8],
        /// How many.
        count: u64,
    },
    /// A file that is asked for.
    File {
        /// The file.
        path: &'a [u8],
    },
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Grepped {
    /// Files that were searched.
    pub files: u64,
    /// Those of them with a selected line.
    pub matching_files: u64,
    /// What could not be read.
    pub problems: Problems,
}

/// Searches `starts`. `render` makes bytes of each event on the thread that finds it; `out` gets them in order.
pub fn grep(
    mounts: &MountTable,
    starts: &[Location],
    options: &GrepOptions,
    render: &(dyn Fn(&GrepEvent<'_>, &mut Vec<u8>) -> Result<()> + Sync),
    out: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    progress: &dyn Progress,
) -> Result<Grepped> {
    if options.before.max(options.after) > MAX_CONTEXT {
        return Err(Error::limit("lines of context", MAX_CONTEXT as u64, options.before.max(options.after) as u64));
    }
    let one = One { searcher: Searcher::new(options, progress)?, options, render };
    let mut grepped = Grepped::default();
    let mut quiet = false;
    for start in starts {
        if start.metadata()?.file_type == FileType::Dir && !options.recursive {
            let error = Error::path(start.path.as_bytes(), PathProblem::IsADirectory);
            grepped.problems.push(Problem::new(start.path.as_bytes(), &error));
            continue;
        }
        let mut late = Problems::default();
        let searched = for_each_batch(
            mounts,
            start,
            Wants { contents: true, links: true, xattrs: false, origins: None },
            &|visited| keep(options, start, visited),
            |batch| Ok(one.batch(batch)),
            |answers: Vec<Answer>| {
                for answer in answers {
                    let selected = one.deliver(answer, out, &mut late)?;
                    grepped.files += 1;
                    grepped.matching_files += u64::from(selected);
                    quiet = selected && options.mode == GrepMode::Quiet;
                    if quiet {
                        return Err(ErrorKind::Cancelled.into());
                    }
                }
                Ok(())
            },
            progress,
        );
        match searched {
            Err(_) if quiet => return Ok(grepped),
            searched => grepped.problems.append(searched?),
        }
        grepped.problems.append(late);
    }
    Ok(grepped)
}

fn keep(options: &GrepOptions, start: &Location, visited: &Visited) -> Verdict {
    let metadata = &visited.metadata;
    let is_dir = metadata.file_type == FileType::Dir;
    if options.one_filesystem && visited.location.mount != start.mount {
        return Verdict::Skip;
    }
    match options.filter.matches(visited.location.path.as_bytes(), is_dir) {
        Verdict::Skip => Verdict::Skip,
        // Directories are ways to files; the batches may have those that lead to some.
        Verdict::Take | Verdict::Enter if is_dir => Verdict::Enter,
        Verdict::Take
            if metadata.file_type == FileType::File && options.max_size.is_none_or(|max| metadata.size <= max) =>
        {
            Verdict::Take
        }
        _ => Verdict::Skip,
    }
}

/// What searching one file made.
enum Answer {
    /// What is to be printed, and whether a line was selected.
    Rendered(Vec<u8>, bool),
    /// More than is kept: the file is searched when its turn comes.
    Later(Location),
    /// It could not be read, all or some of it.
    Failed(Location, Vec<u8>, Error),
}

/// Searches one file at a time.
struct One<'a> {
    searcher: Searcher<'a>,
    options: &'a GrepOptions,
    render: &'a (dyn Fn(&GrepEvent<'_>, &mut Vec<u8>) -> Result<()> + Sync),
}

impl One<'_> {
    fn batch(&self, batch: &Batch) -> Vec<Answer> {
        let search = |member: &Member| {
            let (mut rendered, mut is_long) = (Vec::new(), false);
            let location = &member.location;
            let path = location.path.as_bytes();
            let selected = self.search(path, batch.content(member), &mut |event| {
                (self.render)(&event, &mut rendered)?;
                is_long = rendered.len() > limits::GREP_OUTPUT_BYTES;
                if is_long { Err(ErrorKind::Cancelled.into()) } else { Ok(()) }
            });
            match selected {
                Ok(selected) => Answer::Rendered(rendered, selected),
                Err(_) if is_long => Answer::Later(location.clone()),
                Err(error) => Answer::Failed(location.clone(), rendered, error),
            }
        };
        batch.members.iter().filter(|member| member.metadata.file_type == FileType::File).map(search).collect()
    }

    /// Searches a content and tells what the mode wants told of it; whether a line was selected.
    fn search(
        &self,
        path: &[u8],
        content: Content<'_>,
        emit: &mut dyn FnMut(GrepEvent<'_>) -> Result<()>,
    ) -> Result<bool> {
        let lines = source::with(content, self.options.gunzip, &mut |source| self.searcher.search(path, source, emit))?;
        match self.options.mode {
            GrepMode::Count => emit(GrepEvent::Count { path, count: lines })?,
            GrepMode::FilesWithMatches if lines > 0 => emit(GrepEvent::File { path })?,
            GrepMode::FilesWithoutMatch if lines == 0 => emit(GrepEvent::File { path })?,
            _ => {}
        }
        Ok(lines > 0)
    }

    /// Hands over what was found in one file; whether a line was selected.
    fn deliver(
        &self,
        answer: Answer,
        out: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
        problems: &mut Problems,
    ) -> Result<bool> {
        let (location, error, selected) = match answer {
            Answer::Rendered(bytes, selected) => {
                if !bytes.is_empty() {
                    out(&bytes)?;
                }
                return Ok(selected);
            }
            Answer::Failed(location, bytes, error) => {
                let selected = !bytes.is_empty();
                out(&bytes)?;
                (location, error, selected)
            }
            Answer::Later(location) => {
                let (mut bytes, mut is_output) = (Vec::new(), false);
                let path = location.path.as_bytes();
                let content = location.fs.open(location.inode).map_err(|error| error.at_path(path));
                let searched = content.and_then(|content| {
                    self.search(path, Content::Device(&content), &mut |event| {
                        bytes.clear();
                        (self.render)(&event, &mut bytes)?;
                        out(&bytes).inspect_err(|_| is_output = true)
                    })
                });
                match searched {
                    Ok(selected) => return Ok(selected),
                    Err(error) if is_output => return Err(error),
                    Err(error) => (location, error, true),
                }
            }
        };
        problems.push(Problem::new(location.path.as_bytes(), &error));
        Ok(selected)
    }
}

/// Calls `visit` with each line of one content that [`grep`] would print, or each match in it.
pub fn grep_content(
    path: &[u8],
    content: &Arc<dyn BlockDevice>,
    options: &GrepOptions,
    visit: &mut dyn FnMut(&[u8]) -> Result<()>,
    progress: &dyn Progress,
) -> Result<()> {
    let one = One { searcher: Searcher::new(options, progress)?, options, render: &|_, _| Ok(()) };
    one.search(path, Content::Device(content), &mut |event| match event {
        GrepEvent::Line { text, .. } => visit(text),
        _ => Ok(()),
    })?;
    Ok(())
}
