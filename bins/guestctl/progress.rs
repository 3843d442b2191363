//! Progress on standard error: a bar with rate and ETA on a terminal, a line every five seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guestctl::progress::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;
use crate::print::human;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far an operation is.
pub struct Shown {
    what: String,
    bar: Option<ProgressBar>,
    shown: bool,
    total: AtomicU64,
    done: AtomicU64,
    started: Instant,
    last_line: Mutex<Instant>,
}

impl Shown {
    /// Progress of `what`, a short noun phrase.
    pub fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
            );
            ProgressBar::new(0)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(what.to_owned())
        });
        interrupt::wanted();
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            bar,
            shown: true,
            total: AtomicU64::new(0),
            done: AtomicU64::new(0),
            started: now,
            last_line: Mutex::new(now),
        }
    }

    /// The same, but nothing is shown when `quiet`.
    pub fn quiet(mut self, quiet: bool) -> Self {
        if quiet {
            self.bar = None;
            self.shown = false;
        }
        self
    }

    #[allow(clippy::print_stderr, reason = "progress is for people")]
    fn line(&self) {
        let Ok(mut last) = self.last_line.try_lock() else { return };
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = done as f64 / seconds;
        if total == 0 {
            return eprintln!("{}: {}, {}/s", self.what, human(done), human(rate as u64));
        }
        let left = total.saturating_sub(done) as f64 / rate.max(1.0);
        eprintln!("{}: {} of {}, {}/s, {left:.0} s left", self.what, human(done), human(total), human(rate as u64));
    }
}

impl Progress for Shown {
    fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
        }
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None if self.shown => self.line(),
            None => {}
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::wanted()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
