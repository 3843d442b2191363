//! `guestctl batch` from outside: the real program on many images, good ones, hostile ones and none, stopped and killed in
//! every way. What it says of an image is held against what the program says of that image alone.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod examples;
mod operations;
mod results;
mod resume;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a test waits for something that must come. Far more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2")
}

/// A directory with images, in which batches run.
struct Yard {
    directory: tempfile::TempDir,
}

impl Yard {
    /// With good images of these names.
    fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let yard = Self { directory: tempfile::tempdir().unwrap() };
        names.into_iter().for_each(|name| yard.add(name));
        yard
    }

    /// With good images `00.qcow2` to `count - 1`.
    fn of(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|at| format!("{at:02}.qcow2")).collect();
        Self::new(names.iter().map(String::as_str))
    }

    fn add(&self, name: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(demo(), path).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn program(&self) -> Command {
        let mut command = program::program();
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    /// The output of the program on its own.
    fn alone(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.program().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A batch that comes to its end, given its arguments in one string without quotes.
    fn batch(&self, arguments: &str) -> Batch {
        Batch::of(self.program().arg("batch").args(arguments.split_whitespace()).output().unwrap())
    }

    /// A batch that runs beside the test.
    fn start(&self, arguments: &str) -> Started {
        let mut command = self.program();
        command.arg("batch").args(arguments.split_whitespace());
        Started(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        let Ok(file) = std::fs::File::open(self.path(name)) else { return Vec::new() };
        let lines = BufReader::new(file).lines().map(Result::unwrap);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }
}

/// What a batch gave.
#[derive(Debug)]
struct Batch {
    code: Option<i32>,
    results: Vec<Value>,
    err: String,
}

impl Batch {
    fn of(output: Output) -> Self {
        let out = String::from_utf8(output.stdout).unwrap();
        let results = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { code: output.status.code(), results, err: String::from_utf8(output.stderr).unwrap() }
    }

    /// A field of each result, as text.
    fn all(&self, field: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.results.iter().map(|result| text(&result[field])).collect()
    }

    fn indices(&self) -> Vec<usize> {
        self.results.iter().map(|result| result["index"].as_u64().unwrap() as usize).collect()
    }

    /// The results without what depends on time.
    fn timeless(mut self) -> Vec<Value> {
        for result in &mut self.results {
            result.as_object_mut().unwrap().remove("seconds").unwrap();
        }
        self.results
    }
}

/// A batch that runs beside the test; ended with it.
struct Started(Option<Child>);

impl Started {
    fn pid(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    fn signal(&self, signal: &str) {
        let done = Command::new("kill").args(["-s", signal, &self.pid().to_string()]).status().unwrap();
        assert!(done.success());
    }

    fn end(mut self) -> Batch {
        Batch::of(self.0.take().unwrap().wait_with_output().unwrap())
    }

    /// Ended as by the kernel, with nothing left that it started.
    fn kill(mut self) {
        let pid = self.pid();
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the commands of a killed batch to end", || commands_of(pid).is_empty());
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The processes that a batch has started and that are at work, whoever is their parent by now.
fn commands_of(batch: u32) -> Vec<u32> {
    let mark = format!("GUESTCTL_BATCH_PARENT={batch}");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()).then_some(pid)
    });
    processes.collect()
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command line of a script that works until it is told to stop: it serves the image on a socket of its own.
const ENDLESS: &str = "serve --socket {out}/{name}.socket {image}\n";
