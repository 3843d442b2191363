//! Running the real program.
#![allow(dead_code, reason = "each test program uses a part")]

use std::ffi::OsStr;
use std::process::Command;

/// What a run gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    /// Standard output of a run that must have gone well, in silence.
    pub fn text(self) -> String {
        String::from_utf8(self.bytes()).expect("UTF-8")
    }

    /// The same as bytes.
    pub fn bytes(self) -> Vec<u8> {
        assert_eq!((self.code, self.err.as_str()), (0, ""));
        self.out
    }

    /// The same as JSON.
    pub fn json(self) -> serde_json::Value {
        serde_json::from_slice(&self.bytes()).expect("JSON")
    }

    /// Holds a failed run against its exit code and message; nothing may have come out.
    #[track_caller]
    pub fn fails(self, code: i32, message: &str) {
        assert_eq!((self.code, self.err.as_str()), (code, message));
        assert!(self.out.is_empty(), "{}", String::from_utf8_lossy(&self.out));
    }
}

/// The program, to be run, with nothing of the settings and the cache of the user who runs the test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    for name in ["GUESTCTL_DEBUG", "GUESTCTL_CACHE_DIR", "GUESTCTL_JOBS"] {
        command.env_remove(name);
    }
    command.env("GUESTCTL_CONFIG", "/dev/null").env("XDG_CACHE_HOME", "/dev/null");
    command
}

/// Runs the program.
pub fn guestctl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    let output = program().args(arguments).output().expect("guestctl runs");
    let err = String::from_utf8(output.stderr).expect("messages are UTF-8");
    Ran { code: output.status.code().expect("no signal"), out: output.stdout, err }
}
