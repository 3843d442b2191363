//! One command in a process of its own: its output taken, its time and memory bounded, its whole process group ended.
//!
//! The child leads a process group. It is asked to end (SIGTERM) when its time is up, when the run is to stop, or when it
//! prints too much, and made to (SIGKILL) when it does not within the grace time. Whatever is left of its group goes with
//! it. No thread is started for any of this: one loop polls the pipes and the process.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, prlimit, waitid,
};

use crate::limits;

/// How often it is looked whether the run is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// The same where the system cannot wait for a process and a pipe at once.
const LOOK_WITHOUT_PIDFD: Duration = Duration::from_millis(10);

/// What bounds a child.
pub(super) struct Bounds<'a> {
    /// When it must have ended.
    pub(super) deadline: Option<Instant>,
    /// How long it may take to end when it is asked to.
    pub(super) grace: Duration,
    /// Bytes of address space.
    pub(super) memory: Option<u64>,
    /// Whether the run is to stop.
    pub(super) stop: &'a dyn Fn() -> bool,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Exited(i32),
    /// By a signal that is not ours.
    Killed(i32),
    TimedOut,
    Stopped,
    TooMuchOutput,
}

/// Runs `command` to its end. What it prints is added to `output` as long as that stays below its limit, unless the command
/// has a file for it already (`output` is `None`); the end of its messages replaces `messages`.
pub(super) fn run(
    command: &mut Command,
    bounds: &Bounds<'_>,
    output: Option<&mut Vec<u8>>,
    messages: &mut Vec<u8>,
) -> io::Result<Ended> {
    use std::os::unix::process::CommandExt;
    if output.is_some() {
        command.stdout(Stdio::piped());
    }
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn()?;
    Running::new(child, bounds)?.attend(bounds, output, messages)
}

/// A child that is not left behind, whatever happens here.
struct Running {
    child: Child,
    pid: Pid,
    pidfd: Option<OwnedFd>,
    reaped: bool,
}

impl Running {
    fn new(child: Child, bounds: &Bounds<'_>) -> io::Result<Self> {
        let pid = Pid::from_child(&child);
        let mut running = Self { child, pid, pidfd: None, reaped: false };
        running.pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        // A process that runs out of its memory leaves no core behind.
        let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
        if let Some(bytes) = bounds.memory {
            prlimit(Some(pid), Resource::Core, limit(0))?;
            prlimit(Some(pid), Resource::As, limit(bytes))?;
        }
        Ok(running)
    }

    fn attend(
        mut self,
        bounds: &Bounds<'_>,
        mut output: Option<&mut Vec<u8>>,
        messages: &mut Vec<u8>,
    ) -> io::Result<Ended> {
        let mut stdout = self.child.stdout.take();
        let mut stderr = self.child.stderr.take();
        for fd in [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        messages.clear();
        let mut discarded = Vec::new();
        let mut reason: Option<(Ended, Instant)> = None;
        let mut made_to = false;
        loop {
            let has_ended = self.has_ended()?;
            if has_ended {
                // What the child started is of no use to anybody, and holds the pipes.
                self.signal(Signal::KILL);
            }
            if let Some(output) = &mut output {
                drain(&mut stdout, output, limits::BATCH_OUTPUT_BYTES, Keep::First)?;
                if output.len() > limits::BATCH_OUTPUT_BYTES {
                    output.truncate(limits::BATCH_OUTPUT_BYTES);
                    self.ask(&mut reason, Ended::TooMuchOutput, bounds.grace);
                }
            }
            drain(&mut stderr, messages, limits::BATCH_MESSAGE_BYTES, Keep::Last)?;
            if has_ended {
                break;
            }
            let now = Instant::now();
            if bounds.deadline.is_some_and(|deadline| now >= deadline) {
                self.ask(&mut reason, Ended::TimedOut, bounds.grace);
            }
            if (bounds.stop)() {
                self.ask(&mut reason, Ended::Stopped, bounds.grace);
            }
            match reason {
                Some((_, until)) if !made_to && now >= until => {
                    self.signal(Signal::KILL);
                    made_to = true;
                }
                Some((Ended::TooMuchOutput, _)) => {
                    // It may end while it writes; nobody waits for what it says.
                    drain(&mut stdout, &mut discarded, 0, Keep::First)?;
                    discarded.clear();
                }
                _ => {}
            }
            self.wait_a_little(bounds, reason.map(|(_, until)| until), stdout.as_ref(), stderr.as_ref());
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(ended(status, reason.map(|(reason, _)| reason)))
    }

    /// Whether the child has ended. It stays a zombie, so that the number of its group is nobody else's.
    fn has_ended(&self) -> io::Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        loop {
            match waitid(WaitId::Pid(self.pid), options) {
                Ok(status) => return Ok(status.is_some()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn ask(&self, reason: &mut Option<(Ended, Instant)>, why: Ended, grace: Duration) {
        if reason.is_none() {
            self.signal(Signal::TERM);
            *reason = Some((why, Instant::now() + grace));
        }
    }

    fn signal(&self, signal: Signal) {
        // The group can be gone already.
        let _ = kill_process_group(self.pid, signal);
    }

    fn wait_a_little(
        &self,
        bounds: &Bounds<'_>,
        until: Option<Instant>,
        stdout: Option<&impl AsFd>,
        stderr: Option<&impl AsFd>,
    ) {
        let mut wait = if self.pidfd.is_some() { LOOK } else { LOOK_WITHOUT_PIDFD };
        for moment in [bounds.deadline, until].into_iter().flatten() {
            let left = moment.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                wait = wait.min(left);
            }
        }
        let mut fds = Vec::with_capacity(3);
        fds.extend(stdout.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(stderr.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.pidfd.as_ref().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        // Whatever comes of it, the next round looks at everything.
        let wait = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 10_000_000 });
        let _ = poll(&mut fds, Some(&wait));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn ended(status: ExitStatus, reason: Option<Ended>) -> Ended {
    use std::os::unix::process::ExitStatusExt;
    // What a command says that was asked to end does not count: some end well when they are, and are not done.
    match (reason, status.code()) {
        (Some(reason), _) => reason,
        (None, Some(code)) => Ended::Exited(code),
        (None, None) => Ended::Killed(status.signal().unwrap_or_default()),
    }
}

/// Which bytes of too many.
#[derive(Clone, Copy)]
enum Keep {
    /// The first, and one more, which says that there were more.
    First,
    Last,
}

/// Reads what is there; the pipe is closed at its end.
fn drain(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, limit: usize, keep: Keep) -> io::Result<()> {
    let Some(reader) = pipe else { return Ok(()) };
    let mut buf = [0; 16 << 10];
    loop {
        match reader.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => {
                into.extend_from_slice(buf.get(..len).unwrap_or_default());
                match keep {
                    Keep::First if into.len() > limit => {
                        into.truncate(limit + 1);
                        return Ok(());
                    }
                    Keep::Last if into.len() > 2 * limit => drop(into.drain(..into.len() - limit)),
                    _ => {}
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    *pipe = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Option<Duration>, memory: Option<u64>) -> (Ended, Vec<u8>, Vec<u8>) {
        let bounds = Bounds {
            deadline: deadline.map(|after| Instant::now() + after),
            grace: Duration::from_millis(200),
            memory,
            stop: &|| false,
        };
        let (mut output, mut messages) = (Vec::new(), Vec::new());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script);
        let ended = run(&mut command, &bounds, Some(&mut output), &mut messages).unwrap();
        (ended, output, messages)
    }

    #[test]
    fn output_messages_and_codes_are_taken() {
        let (ended, output, messages) = sh("echo out; echo err >&2; exit 7", None, None);
        assert_eq!((ended, &output[..], &messages[..]), (Ended::Exited(7), &b"out\n"[..], &b"err\n"[..]));
        assert_eq!(sh("kill -SEGV $$", None, None).0, Ended::Killed(11));
        let (ended, output, messages) = sh("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2", None, None);
        assert_eq!((ended, output.len()), (Ended::Exited(0), 300_000));
        assert!((limits::BATCH_MESSAGE_BYTES..=2 * limits::BATCH_MESSAGE_BYTES).contains(&messages.len()));
    }

    #[test]
    fn a_child_that_hangs_goes_with_all_that_it_started() {
        // Neither listens to SIGTERM, and the inner one would hold the pipe for an hour.
        let script = "trap '' TERM; (sleep 3600 & echo $!; wait) & wait";
        let (ended, output, _) = sh(script, Some(Duration::from_millis(300)), None);
        assert_eq!(ended, Ended::TimedOut);
        gone(&output);
    }

    /// Waits until the process whose number this is has ended; that it was killed does not end it at once.
    fn gone(number: &[u8]) {
        let path = format!("/proc/{}/stat", std::str::from_utf8(number).unwrap().trim());
        for _ in 0..1000 {
            let state = std::fs::read_to_string(&path).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it still runs");
    }

    #[test]
    fn a_child_that_ends_takes_what_it_left_running_with_it() {
        let (ended, output, _) = sh("sleep 3600 & echo $!", None, None);
        assert_eq!(ended, Ended::Exited(0));
        gone(&output);
    }

    #[test]
    fn too_much_output_ends_it() {
        let (ended, output, _) = sh("exec cat /dev/zero", None, None);
        assert_eq!((ended, output.len()), (Ended::TooMuchOutput, limits::BATCH_OUTPUT_BYTES));
    }

    #[test]
    fn memory_is_bounded() {
        let script = "read line < /proc/self/limits; exec dd if=/dev/zero of=/dev/null bs=256M count=1";
        assert_eq!(sh(script, None, None).0, Ended::Exited(0));
        let (ended, _, messages) = sh(script, None, Some(128 << 20));
        assert_eq!(ended, Ended::Exited(1), "{}", String::from_utf8_lossy(&messages));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let bounds = Bounds { deadline: None, grace: Duration::ZERO, memory: None, stop: &|| false };
        let error = run(&mut Command::new("/no/such/program"), &bounds, None, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
