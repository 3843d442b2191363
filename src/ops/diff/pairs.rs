//! Two trees walked in step: what has the same path on both sides comes as one pair, in the order of the walk, and what
//! only one side has comes alone. Of each tree only the names of the directories that lead to the current place are held.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::{DiffSide, Sides};
use crate::error::{Error, Result};
use crate::fs::{FileType, GuestPath, Listing, Location, Metadata, MountTable};
use crate::limits;
use crate::ops::filter::{Filter, Verdict};
use crate::ops::links::{HardLinks, Link};
use crate::ops::walk::second_way;

/// One side of a pair.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) location: Location,
    pub(super) metadata: Metadata,
    /// Whether the walk has come to the same file by another name.
    pub(super) link: Link,
}

/// What the walk comes by.
#[derive(Debug)]
pub(super) enum Found {
    /// The same path on one side or both.
    Pair { path: GuestPath, sides: Box<Sides<Node>> },
    /// What lies at or below `path` could not be looked at, and is compared on neither side.
    Problem { path: GuestPath, side: DiffSide, error: Error },
}

/// A directory that both sides or one are in.
struct Level {
    path: GuestPath,
    sides: Sides<Names>,
}

struct Names {
    listing: Listing,
    next: usize,
    directory: Location,
}

impl Names {
    fn peek(&self) -> Option<&[u8]> {
        self.listing.get(self.next).map(|(name, _)| name)
    }
}

/// The walk; see the [module head](self).
pub(super) struct Pairs<'a> {
    mounts: Sides<&'a MountTable>,
    filter: &'a Filter,
    levels: Vec<Level>,
    /// What is to be looked at next, before the levels are.
    next: Option<(GuestPath, Sides<Location>)>,
    /// A directory that was shown and is to be entered before anything else.
    enter: Option<(GuestPath, Sides<Location>)>,
    entered: [HashSet<(usize, u64)>; 2],
    links: [HardLinks; 2],
    held: u64,
}

impl<'a> Pairs<'a> {
    /// The pairs from the two starts on, which are both there.
    pub(super) fn new(
        mounts: Sides<&'a MountTable>,
        path: GuestPath,
        starts: Sides<Location>,
        filter: &'a Filter,
    ) -> Self {
        Self {
            mounts,
            filter,
            levels: Vec::new(),
            next: Some((path, starts)),
            enter: None,
            entered: Default::default(),
            links: Default::default(),
            held: 0,
        }
    }

    /// The next `most` findings; fewer at the end, none after it.
    pub(super) fn batch(&mut self, most: usize) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        while found.len() < most {
            let Some((path, locations)) = self.step(&mut found)? else { break };
            self.look(path, locations, &mut found)?;
        }
        Ok(found)
    }

    /// The next path and what lies there on either side; `None` at the end.
    fn step(&mut self, found: &mut Vec<Found>) -> Result<Option<(GuestPath, Sides<Location>)>> {
        if let Some(start) = self.next.take() {
            return Ok(Some(start));
        }
        if let Some((path, directories)) = self.enter.take() {
            self.enter(path, directories, found)?;
        }
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let name = |names: Option<&Names>| names.and_then(Names::peek).map(<[u8]>::to_vec);
            let (old, new) = (name(level.sides.old.as_ref()), name(level.sides.new.as_ref()));
            let (takes, name) = match (old, new) {
                (None, None) => {
                    let level = self.levels.pop();
                    let memory = |names: &Names| names.listing.memory();
                    self.held -= level.map_or(0, |level| level.sides.iter().map(|(_, names)| memory(names)).sum());
                    continue;
                }
                (Some(old), None) => ([true, false], old),
                (None, Some(new)) => ([false, true], new),
                (Some(old), Some(new)) => match old.cmp(&new) {
                    Ordering::Less => ([true, false], old),
                    Ordering::Greater => ([false, true], new),
                    Ordering::Equal => ([true, true], old),
                },
            };
            let path = level.path.join(&name);
            let mut take = |side: DiffSide| {
                let names = level.sides.get_mut(side).filter(|_| takes[side.index()])?;
                let (name, inode) = names.listing.get(names.next)?;
                let Location { fs, mount, path, .. } = &names.directory;
                let child = Location { fs: fs.clone(), mount: *mount, inode, path: path.join(name) };
                names.next += 1;
                Some(child)
            };
            let (old, new) = (take(DiffSide::Old), take(DiffSide::New));
            let cross = |mounts: Option<&MountTable>, child: Option<Location>| Some(mounts?.cross(child?));
            let sides = Sides { old: cross(self.mounts.old, old), new: cross(self.mounts.new, new) };
            return Ok(Some((path, sides)));
        }
    }

    /// Looks at what lies at one path, and plans to enter it.
    fn look(&mut self, path: GuestPath, locations: Sides<Location>, found: &mut Vec<Found>) -> Result<()> {
        let mut sides = Sides { old: None, new: None };
        let mut taken = false;
        for side in DiffSide::BOTH {
            let Some(location) = locations.get(side) else { continue };
            let metadata = match location.metadata() {
                Ok(metadata) => metadata,
                // What cannot be looked at on one side is neither added nor removed nor the same.
                Err(error) => {
                    found.push(Found::Problem { path, side, error });
                    return Ok(());
                }
            };
            let verdict = self.filter.matches(location.path.as_bytes(), metadata.file_type == FileType::Dir);
            if verdict == Verdict::Skip {
                continue;
            }
            taken |= verdict == Verdict::Take;
            let link = self.links[side.index()].see(location, &metadata, path.as_bytes());
            *sides.slot(side) = Some(Node { location: location.clone(), metadata, link });
        }
        let mut directories =
            sides.map(|node| (node.metadata.file_type == FileType::Dir).then(|| node.location.clone()));
        for side in DiffSide::BOTH {
            let Some(directory) = directories.get(side) else { continue };
            if !self.entered[side.index()].insert((directory.mount, directory.inode)) {
                found.push(Found::Problem { path: path.clone(), side, error: second_way(directory) });
                directories = Sides { old: None, new: None };
                break;
            }
        }
        if directories.iter().next().is_some() {
            self.enter = Some((path.clone(), directories));
        }
        if taken {
            found.push(Found::Pair { path, sides: Box::new(sides) });
        }
        Ok(())
    }

    /// Reads a directory's names. When those of one side cannot be read, those of the other say nothing.
    fn enter(&mut self, path: GuestPath, directories: Sides<Location>, found: &mut Vec<Found>) -> Result<()> {
        let mut sides = Sides { old: None, new: None };
        for side in DiffSide::BOTH {
            let Some(directory) = directories.get(side) else { continue };
            match Listing::read(directory) {
                Ok(listing) => *sides.slot(side) = Some(Names { listing, next: 0, directory: directory.clone() }),
                Err(error) => {
                    found.push(Found::Problem { path, side, error });
                    return Ok(());
                }
            }
        }
        self.held += sides.iter().map(|(_, names)| names.listing.memory()).sum::<u64>();
        self.levels.push(Level { path, sides });
        limits::check("directory depth", self.levels.len() as u64, limits::DIRECTORY_DEPTH as u64)?;
        limits::check("bytes of the names in a path's directories", self.held, 2 * limits::LISTING_BYTES)?;
        Ok(())
    }
}
