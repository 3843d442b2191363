//! Running a plan.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::RunOptions;
use super::memory;
use super::parent;
use super::plan::Plan;
use super::queue::{Begun, Device, Queue, Room};
use super::record::{Event, Past, Record, Span};
use super::result::{Head, ItemResult, Status};
use super::summary::{Counts, Summary};
use super::verdict::Verdict;
use super::work::{Worker, result};
use crate::error::{Error, Result};
use crate::ops::ordered;
use crate::progress::Silent;

/// Watches a run. Called from any thread; [`Watch::cancelled`] several times a second, also while nothing is finished.
pub trait Watch: Send + Sync {
    /// One image more is finished.
    fn finished(&self, _counts: &Counts) {}

    /// Whether the run shall stop: nothing more is begun, what is at work is ended, and the results so far are delivered.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Watch for Silent {}

/// Runs `plan` and gives each image's result to `on_result`, in the order of the list, whatever the number of jobs. A result
/// comes as soon as all before it are there; those of an interrupted run that is resumed come again.
///
/// What is wrong with an image is in its result and never an error. An error is one of this system, of the run directory, or
/// of `on_result`, and ends the run.
pub fn run(
    plan: &Plan,
    options: &RunOptions,
    mut on_result: impl FnMut(&ItemResult) -> Result<()> + Send,
    watch: &dyn Watch,
) -> Result<Summary> {
    let begun = Instant::now();
    let jobs = jobs(options)?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (record, past) = match &options.run_directory {
        Some(directory) => Record::open(directory, plan)?,
        None => (Record::unnamed()?, Past::default()),
    };
    if let Some(directory) = &options.output_directory {
        std::fs::create_dir_all(directory).map_err(|error| Error::io("make", directory.display(), error))?;
    }
    let halted = AtomicBool::new(false);
    let stop = || halted.load(Ordering::Relaxed) || watch.cancelled();
    let worker = Worker { plan, options, program: program(options)?, threads: (processors / jobs).max(1), stop: &stop };
    let queue = Queue::new(room(options));
    let state = Mutex::new(Summary::new(plan.digest(), plan.items().len() as u64));
    let mut shelf = Shelf { record: &record, waiting: BTreeMap::new(), next: 0 };
    for (index, made) in begin(&worker, &queue, &record, past, &state)? {
        shelf.waiting.insert(index, made);
    }
    shelf.deliver(&mut on_result, false)?;
    let run = Run { worker: &worker, record: &record, state: &state, watch, halted: &halted };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|error| Error::io("start", "threads", std::io::Error::other(error)))?;
    pool.install(|| {
        let next = || Ok(queue.next(&stop));
        let deliver = |(index, made)| {
            shelf.waiting.insert(index, made);
            run.or_halt(shelf.deliver(&mut on_result, false))
        };
        // Results wait in the record for as long as it takes, so nobody has to wait for a slow image.
        ordered(usize::MAX, next, |begun: Begun<'_>| run.or_halt(run.one(begun)), deliver, &Silent)
    })?;
    shelf.deliver(&mut on_result, true)?;
    let mut summary = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stopped = summary.not_started > 0 || summary.count(Status::Cancelled) > 0;
    summary.end(stopped, begun.elapsed());
    record.finish(&summary)?;
    Ok(summary)
}

fn jobs(options: &RunOptions) -> Result<usize> {
    for (what, count) in [("one job", options.jobs), ("an I/O depth of one", Some(options.io_depth))] {
        if count == Some(0) {
            return Err(Error::invalid(format!("there must be {what} at least")));
        }
    }
    Ok(options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)))
}

fn program(options: &RunOptions) -> Result<PathBuf> {
    match &options.program {
        Some(program) => Ok(program.clone()),
        // Whatever has become of its file.
        None if parent::is_known() => Ok(PathBuf::from("/proc/self/exe")),
        None => Err(Error::invalid("this program cannot be started again to work on an image")
            .with_hint("name the program guestctl, or be one: call guestctl::batch::enter_if_asked() first in main")),
    }
}

fn room(options: &RunOptions) -> Room {
    let memory = options.memory_budget.unwrap_or_else(|| memory::available().map_or(u64::MAX, |bytes| bytes / 4 * 3));
    Room { io_depth: options.io_depth, memory, memory_per_image: options.memory_per_image }
}

/// Puts the images into the queue that are to be worked on; the others have results.
fn begin(
    worker: &Worker<'_>,
    queue: &Queue,
    record: &Record,
    past: Past,
    state: &Mutex<Summary>,
) -> Result<HashMap<usize, Made>> {
    let mut finished = HashMap::new();
    let mut summary = state.lock().unwrap_or_else(PoisonError::into_inner);
    for (index, item) in worker.plan.items().iter().enumerate() {
        let deaths = past.deaths.get(&index).copied().unwrap_or(0);
        let again = |head: &Head| {
            let is_temporary = head.error_kind.as_deref() == Some(super::result::TEMPORARY);
            is_temporary || (worker.options.retry_failed && head.status != Status::Ok)
        };
        match past.results.get(&index) {
            Some((span, head)) if !again(head) => {
                summary.add(head);
                summary.resumed += 1;
                finished.insert(index, Made::Recorded(*span));
            }
            None if deaths >= 2 && !worker.options.retry_failed => {
                let result = result(index, item, Verdict::quarantined());
                finished.insert(index, Made::Recorded(record.append(&result)?));
                record.note(index, Event::Done)?;
                summary.add(&Head::from(&result));
            }
            _ => queue.push(index, Device::of(&item.image), deaths > 0),
        }
    }
    Ok(finished)
}

/// What the workers share.
struct Run<'a> {
    worker: &'a Worker<'a>,
    record: &'a Record,
    state: &'a Mutex<Summary>,
    watch: &'a dyn Watch,
    /// Set when nothing more is to be done.
    halted: &'a AtomicBool,
}

impl Run<'_> {
    fn or_halt<T>(&self, done: Result<T>) -> Result<T> {
        done.inspect_err(|_| self.halted.store(true, Ordering::Relaxed))
    }

    fn one(&self, begun: Begun<'_>) -> Result<(usize, Made)> {
        let index = begun.index;
        let item = self.worker.plan.items().get(index).ok_or_else(|| Error::invalid("there is no such image"))?;
        let obstacle = if begun.is_suspect() { None } else { self.worker.obstacle(item) };
        let result = match obstacle {
            Some(verdict) => result(index, item, verdict),
            None => {
                self.record.note(index, Event::Start)?;
                self.worker.work(index, item, begun.is_suspect())?
            }
        };
        let made = if result.status == Status::Cancelled {
            self.record.note(index, Event::Released)?;
            Made::Here(Box::new(result.clone()))
        } else {
            let span = self.record.append(&result)?;
            self.record.note(index, Event::Done)?;
            Made::Recorded(span)
        };
        let counts = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.add(&Head::from(&result));
            state.counts()
        };
        if self.worker.options.fail_fast && result.status != Status::Ok {
            self.halted.store(true, Ordering::Relaxed);
        }
        self.watch.finished(&counts);
        Ok((index, made))
    }
}

/// Where a result is until it is delivered.
enum Made {
    Recorded(Span),
    /// It is not recorded, as it is no end.
    Here(Box<ItemResult>),
}

/// Results that wait for those before them.
struct Shelf<'a> {
    record: &'a Record,
    waiting: BTreeMap<usize, Made>,
    next: usize,
}

impl Shelf<'_> {
    /// Delivers those whose turn it is; `all` at the end, when nothing comes any more.
    fn deliver(&mut self, on_result: &mut impl FnMut(&ItemResult) -> Result<()>, all: bool) -> Result<()> {
        while let Some(first) = self.waiting.first_entry() {
            if *first.key() != self.next && !all {
                break;
            }
            let (index, made) = first.remove_entry();
            self.next = index + 1;
            match made {
                Made::Recorded(span) => on_result(&self.record.read(span)?)?,
                Made::Here(result) => on_result(&result)?,
            }
        }
        Ok(())
    }
}
