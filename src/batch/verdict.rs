//! From how a command ended to what that means: whose problem it is, and whether to try again.

use super::child::Ended;
use super::result::{Status, TEMPORARY};

/// Whether another attempt makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The same would come of it. A corrupt image stays corrupt.
    Never,
    /// What is in the way can go away.
    Later,
    /// The command died, of itself or of others; once more, to tell these apart.
    Once,
}

/// What the end of a command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) status: Status,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) error_kind: Option<String>,
    pub(super) message: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) again: Again,
}

/// Commands whose exit codes are those of qemu-img or diff(1): an answer, and not one of ours.
const ANSWERS: &[&str] = &["check", "compare", "diff"];

/// Error numbers of what can go away: EINTR, EAGAIN, ENFILE, EMFILE, ETXTBSY, ECONNRESET, ETIMEDOUT, ECONNREFUSED,
/// EHOSTDOWN, EHOSTUNREACH, ESTALE.
const PASSING: &[i32] = &[4, 11, 23, 24, 26, 104, 110, 111, 112, 113, 116];

/// What guestctl ends with when it panics, as every Rust program.
const PANIC: i32 = 101;

impl Verdict {
    fn new(status: Status, error_kind: &str, again: Again) -> Self {
        let error_kind = Some(error_kind.to_owned());
        Self { status, exit_code: None, signal: None, error_kind, message: None, hint: None, again }
    }

    /// Everything was done.
    pub(super) fn ok() -> Self {
        Self { error_kind: None, exit_code: Some(0), ..Self::new(Status::Ok, "", Again::Never) }
    }

    /// The run is to stop.
    pub(super) fn cancelled() -> Self {
        Self::new(Status::Cancelled, "cancelled", Again::Never)
    }

    /// A command that could not be started.
    pub(super) fn not_started(message: String) -> Self {
        Self { message: Some(message), ..Self::new(Status::Failed, TEMPORARY, Again::Later) }
    }

    /// Something that was not begun, as it makes no sense.
    pub(super) fn invalid(message: String, hint: &str) -> Self {
        let plain = Self::new(Status::Failed, "invalid-argument", Again::Never);
        Self { message: Some(message), hint: Some(hint.to_owned()), ..plain }
    }

    /// An image during which the run died twice.
    pub(super) fn quarantined() -> Self {
        let message = "the whole batch ended twice while this image was worked on; it is not tried again";
        let plain = Self::new(Status::Crashed, "quarantined", Again::Never);
        Self { message: Some(message.to_owned()), hint: Some("--retry-failed tries it".to_owned()), ..plain }
    }

    /// What the end of the subcommand `word` means, with the messages it printed.
    pub(super) fn of(word: &str, ended: Ended, messages: &[u8]) -> Self {
        let text = String::from_utf8_lossy(messages);
        let told = Told::new(&text);
        let mut verdict = match ended {
            Ended::Exited(0) => return Self::ok(),
            Ended::Exited(code) => Self { exit_code: Some(code), ..Self::of_code(word, code, &told) },
            Ended::Killed(signal) => {
                let kind = if text.contains("memory allocation of") { "out-of-memory" } else { "signal" };
                Self { signal: Some(signal), ..Self::new(Status::Crashed, kind, Again::Once) }
            }
            Ended::TimedOut => Self::new(Status::Timeout, "timeout", Again::Never),
            Ended::Stopped => return Self::cancelled(),
            Ended::TooMuchOutput => {
                let limit = crate::limits::BATCH_OUTPUT_BYTES;
                let plain = Self::new(Status::Failed, "limit", Again::Never);
                return Self {
                    message: Some(format!("output in a result is limited to {limit} bytes, the command printed more")),
                    hint: Some("--output DIR writes what is printed into files".to_owned()),
                    ..plain
                };
            }
        };
        verdict.message = told.message.map(str::to_owned);
        verdict.hint = told.hint.map(str::to_owned);
        verdict
    }

    fn of_code(word: &str, code: i32, told: &Told<'_>) -> Self {
        let failed = |kind| Self::new(Status::Failed, kind, Again::Never);
        match code {
            PANIC => Self::new(Status::Crashed, "panic", Again::Once),
            // SIGINT or SIGTERM from somebody else.
            130 | 143 => Self::new(Status::Crashed, "signal", Again::Once),
            75 => Self::new(Status::Failed, TEMPORARY, Again::Later),
            1 if told.is_passing() => Self::new(Status::Failed, TEMPORARY, Again::Later),
            _ if ANSWERS.contains(&word) => failed("answer"),
            // grep found nothing, which is no error and has no message.
            1 if word == "grep" && told.message.is_none() => failed("answer"),
            1 => failed("io"),
            2 => failed("invalid-argument"),
            3 => failed("partial"),
            4 => failed("limit"),
            5 => Self::new(Status::Refused, "denied", Again::Never),
            7 => failed("unsupported"),
            8 => failed("corrupt"),
            9 => failed("path"),
            _ => failed("unknown"),
        }
    }
}

/// What guestctl says at its end: `guestctl: error: …`, and perhaps `hint: …`.
struct Told<'a> {
    message: Option<&'a str>,
    hint: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn new(text: &'a str) -> Self {
        let lines = || text.lines().map(str::trim_end).rev();
        let error = lines().find_map(|line| line.strip_prefix("guestctl: error: "));
        // The command line's own, a panic's, or whatever there is.
        let other = || lines().find_map(|line| line.strip_prefix("error: "));
        let panic = || lines().find(|line| line.starts_with("thread '"));
        let message = error.or_else(other).or_else(panic).or_else(|| lines().find(|line| !line.is_empty()));
        Self { message, hint: lines().find_map(|line| line.strip_prefix("hint: ")) }
    }

    /// Whether the system's answer, which stands last, is one that can change.
    fn is_passing(&self) -> bool {
        let number = self.message.and_then(|message| message.strip_suffix(')')?.rsplit_once("(os error "));
        number.and_then(|(_, number)| number.parse().ok()).is_some_and(|number| PASSING.contains(&number))
    }
}

/// Whether starting a program can go well later.
pub(super) fn can_start_later(error: &std::io::Error) -> bool {
    const ENOMEM: i32 = 12;
    error.raw_os_error().is_some_and(|number| number == ENOMEM || PASSING.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_their_meanings() {
        use {Again::*, Status::*};
        let ended = Ended::Exited;
        for (word, ended, messages, status, kind, again) in [
            ("inspect", ended(0), "guestctl: a note\n", Ok, None, Never),
            (
                "inspect",
                ended(1),
                "guestctl: error: cannot open a: No such file (os error 2)",
                Failed,
                Some("io"),
                Never,
            ),
            (
                "inspect",
                ended(1),
                "guestctl: error: cannot read a: Stale (os error 116)",
                Failed,
                Some("temporary"),
                Later,
            ),
            // A name in an image does not look like the system's answer.
            ("inspect", ended(1), "guestctl: error: x (os error 11): no", Failed, Some("io"), Never),
            ("inspect", ended(75), "", Failed, Some("temporary"), Later),
            ("inspect", ended(3), "", Failed, Some("partial"), Never),
            ("inspect", ended(5), "", Refused, Some("denied"), Never),
            ("inspect", ended(8), "guestctl: error: (os error 11)\n", Failed, Some("corrupt"), Never),
            ("inspect", ended(42), "", Failed, Some("unknown"), Never),
            ("check", ended(3), "", Failed, Some("answer"), Never),
            ("compare", ended(1), "", Failed, Some("answer"), Never),
            ("grep", ended(1), "", Failed, Some("answer"), Never),
            ("grep", ended(1), "guestctl: error: cannot open a: gone", Failed, Some("io"), Never),
            ("inspect", ended(101), "thread 'main' panicked at x:\nboo\n", Crashed, Some("panic"), Once),
            ("inspect", ended(143), "", Crashed, Some("signal"), Once),
            ("inspect", Ended::Killed(9), "", Crashed, Some("signal"), Once),
            ("inspect", Ended::Killed(6), "memory allocation of 9 bytes failed", Crashed, Some("out-of-memory"), Once),
            ("inspect", Ended::TimedOut, "", Timeout, Some("timeout"), Never),
            ("inspect", Ended::Stopped, "", Cancelled, Some("cancelled"), Never),
            ("inspect", Ended::TooMuchOutput, "", Failed, Some("limit"), Never),
        ] {
            let verdict = Verdict::of(word, ended, messages.as_bytes());
            let found = (verdict.status, verdict.error_kind.as_deref(), verdict.again);
            assert_eq!(found, (status, kind, again), "{word} {ended:?} {messages}");
        }
    }

    #[test]
    fn messages_and_hints_are_found() {
        let text = "guestctl: a note\nguestctl: error: it broke\nhint: mend it\n";
        let verdict = Verdict::of("inspect", Ended::Exited(8), text.as_bytes());
        assert_eq!((verdict.message.as_deref(), verdict.hint.as_deref()), (Some("it broke"), Some("mend it")));
        let usage =
            "error: unexpected argument '--x' found\n\nUsage: guestctl\n\nFor more information, try '--help'.\n";
        let verdict = Verdict::of("inspect", Ended::Exited(2), usage.as_bytes());
        assert_eq!(verdict.message.as_deref(), Some("unexpected argument '--x' found"));
        let panic = "\nthread 'main' (7) panicked at src/x.rs:1:\nboo\nnote: run with\n";
        let verdict = Verdict::of("inspect", Ended::Exited(101), panic.as_bytes());
        assert_eq!(verdict.message.as_deref(), Some("thread 'main' (7) panicked at src/x.rs:1:"));
        assert_eq!(Verdict::of("inspect", Ended::Exited(9), b"\n\n").message, None);
    }
}
