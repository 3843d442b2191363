//! How many images are finished: a bar on a terminal, a line every five seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use guestctl::batch::{Counts, Watch};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Shows how far a batch is.
pub struct Counted {
    bar: Option<ProgressBar>,
    shown: bool,
    images: u64,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    counts: Option<Counts>,
    last_line: Instant,
}

impl Counted {
    pub fn new(images: u64, quiet: bool) -> Self {
        interrupt::wanted();
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("batch {wide_bar} {pos}/{len} {msg}");
            ProgressBar::new(images).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let started = Instant::now();
        Self { bar, shown: !quiet, images, started, state: Mutex::new(State { counts: None, last_line: started }) }
    }

    /// The time that the rest takes at the pace so far.
    fn left(&self, counts: Counts) -> Option<Duration> {
        let here = counts.finished.checked_sub(counts.resumed).filter(|here| *here > 0)?;
        let left = self.images.saturating_sub(counts.finished);
        Duration::try_from_secs_f64(self.started.elapsed().as_secs_f64() / here as f64 * left as f64).ok()
    }

    #[allow(clippy::print_stderr, reason = "progress is for people")]
    fn line(&self) {
        let Ok(mut state) = self.state.try_lock() else { return };
        if !self.shown || self.bar.is_some() || state.last_line.elapsed() < LINE_EVERY {
            return;
        }
        state.last_line = Instant::now();
        let counts = state.counts.unwrap_or_default();
        eprintln!("{}", line(counts.finished, self.images, counts.failed, self.left(counts)));
    }
}

impl Watch for Counted {
    fn finished(&self, counts: &Counts) {
        {
            let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Reports of two threads may come in the wrong order.
            if state.counts.is_none_or(|before| before.finished < counts.finished) {
                state.counts = Some(*counts);
            }
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(counts.finished);
                let eta = self.left(*counts).map_or_else(|| "?".to_owned(), span);
                bar.set_message(format!("{} failed, ETA {eta}", counts.failed));
            }
            None => self.line(),
        }
    }

    fn cancelled(&self) -> bool {
        self.line();
        interrupt::wanted()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(finished: u64, images: u64, failed: u64, left: Option<Duration>) -> String {
    let percent = (u128::from(finished) * 100).checked_div(u128::from(images)).unwrap_or(100);
    let eta = left.map_or_else(|| "?".to_owned(), span);
    format!("batch: {finished}/{images} images ({percent}%), {failed} failed, ETA {eta}")
}

/// A time in the unit that leaves two digits.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..100 => format!("{seconds} s"),
        100..6000 => format!("{} m", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_counts_and_eta() {
        let line = |finished, left| line(finished, 1250, 2, left);
        assert_eq!(line(118, Some(Duration::from_secs(850))), "batch: 118/1250 images (9%), 2 failed, ETA 14 m");
        assert_eq!(line(0, None), "batch: 0/1250 images (0%), 2 failed, ETA ?");
        assert_eq!(line(1250, Some(Duration::ZERO)), "batch: 1250/1250 images (100%), 2 failed, ETA 0 s");
        assert_eq!(line(1, Some(Duration::from_secs(7200))), "batch: 1/1250 images (0%), 2 failed, ETA 2 h");
    }
}
