//! The program in a process of its own, watched: exit code, messages, processor time and memory.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Processor time one command may take, in milliseconds.
const CPU_MS: u64 = 2_000;
/// Memory one command may have at its peak.
const MEMORY_KIB: u64 = 64 << 10;
/// The same for what reads whole trees: contents are on their way beside the names of a directory.
const TREE_MEMORY_KIB: u64 = 128 << 10;
/// The same for what holds two guests at once, and what differs between them.
const TWO_GUESTS_MEMORY_KIB: u64 = 192 << 10;
/// After this a command is ended. Generous: the machine may be busy, and processor time is what counts.
const WALL: Duration = Duration::from_secs(20);
/// Bytes that a command may store. A small image can stand for a disk full of data, and the host is not to be filled.
const STORED: u64 = 512 << 20;
/// Exit codes that an image may cause: 1 would be the host's fault, 6 and 75 are for other commands.
const EXIT_CODES: [i32; 8] = [0, 2, 3, 4, 5, 7, 8, 9];

/// What became of one image.
#[derive(Default)]
pub struct Verdict {
    /// Ways in which the bar was missed.
    pub failures: Vec<String>,
    /// Whether any command refused the image.
    pub refused: bool,
    /// The first message of a command that refused.
    pub message: String,
    pub cpu_ms: u64,
    pub memory_kib: u64,
}

struct Outcome {
    /// `None` when it had to be ended.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: String,
    cpu_ms: u64,
    memory_kib: u64,
    /// Whether anything stands where a new image goes, under its name or another.
    left: bool,
}

/// Runs `commands` on the image at `path`: `IMAGE` stands for it, `OUT` for a new file.
pub fn judge(path: &Path, commands: &[&str]) -> Verdict {
    let outputs = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
    judge_into(path, commands, outputs.path())
}

/// The same, and what was left under `OUT` stays: `out` in the directory `outputs`.
pub fn judge_into(path: &Path, commands: &[&str], outputs: &Path) -> Verdict {
    let mut verdict = Verdict::default();
    for command in commands {
        // Whoever refuses to change an image leaves it as it is; who only reads it does so always.
        let changes = ["snapshot -c", "snapshot -d", "resize "].iter().any(|change| command.starts_with(change));
        let writes = changes
            || ["check -r", "check --repair", "rebase ", "commit "].iter().any(|change| command.starts_with(change));
        let before = changes.then(|| std::fs::read(path).unwrap());
        let written = || std::fs::metadata(path).map(|file| (file.len(), file.modified().unwrap())).unwrap();
        let last = written();
        let outcome = run(path, command, outputs);
        let refused = outcome.status.is_none_or(|status| !status.success());
        if !writes && written() != last {
            verdict.failures.push(format!("{command}: wrote to the image"));
        }
        if before.is_some_and(|before| refused && before != std::fs::read(path).unwrap()) {
            verdict.failures.push(format!("{command}: refused, and the image is another: {}", outcome.stderr));
        }
        verdict.cpu_ms = verdict.cpu_ms.max(outcome.cpu_ms);
        verdict.memory_kib = verdict.memory_kib.max(outcome.memory_kib);
        if outcome.status.is_none_or(|status| !status.success()) {
            if !verdict.refused {
                verdict.message = format!("{command}: {}", outcome.stderr.lines().last().unwrap_or_default());
            }
            verdict.refused = true;
        }
        verdict.failures.extend(shortcomings(command, &outcome).into_iter().map(|text| format!("{command}: {text}")));
    }
    verdict
}

fn run(path: &Path, command: &str, outputs: &Path) -> Outcome {
    let create = |name: &str| File::create(outputs.join(name)).unwrap();
    let out = outputs.join("out");
    if command.contains(" OUT") && out.exists() {
        std::fs::remove_file(&out).unwrap();
    }
    let words = command.split(' ').map(|word| match word {
        "IMAGE" => path.to_str().unwrap(),
        "OUT" => out.to_str().unwrap(),
        word => word,
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_guestctl"))
        .args(words)
        .stdout(create("stdout"))
        .stderr(create("stderr"))
        .env_remove("GUESTCTL_DEBUG")
        .spawn()
        .unwrap();
    let started = Instant::now();
    let mut memory_kib = 0;
    let pid = Pid::from_child(&child);
    let ended = loop {
        memory_kib = memory_kib.max(peak_memory(child.id()));
        // The process stays a zombie until `wait`, and /proc keeps its times.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(pid), options).unwrap().is_some() {
            break true;
        }
        if started.elapsed() > WALL || stored(outputs) > STORED {
            child.kill().unwrap();
            break false;
        }
        std::thread::sleep(Duration::from_micros(500));
    };
    let cpu_ms = processor_time(child.id());
    let status = child.wait().unwrap();
    let read = |name: &str| std::fs::read(outputs.join(name)).unwrap();
    let mut left: Vec<_> = std::fs::read_dir(outputs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.retain(|name| name != "stdout" && name != "stderr");
    Outcome {
        left: command.contains(" OUT") && !left.is_empty(),
        status: ended.then_some(status),
        stdout: read("stdout"),
        stderr: String::from_utf8_lossy(&read("stderr")).into_owned(),
        cpu_ms,
        memory_kib,
    }
}

fn stored(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).unwrap();
    512 * files.filter_map(|file| file.ok()?.metadata().ok()).map(|file| file.blocks()).sum::<u64>()
}

/// VmHWM in KiB; 0 when the process has ended, or has not become the program yet and still is this one.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if !status.starts_with("Name:\tguestctl\n") {
        return 0;
    }
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// User and system time in milliseconds: fields 14 and 15 of /proc/PID/stat, in ticks of a hundredth of a second.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    10 * fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum::<u64>()
}

fn shortcomings(command: &str, outcome: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let message = outcome.stderr.lines().find(|line| line.starts_with("guestctl: error:"));
    match outcome.status.map(|status| status.code()) {
        None => found.push(format!("still running after {} s or {} MiB", WALL.as_secs(), STORED >> 20)),
        Some(Some(0)) => {}
        // What a check found is on standard output.
        Some(Some(2 | 3)) if command.starts_with("check ") && !outcome.stdout.is_empty() => {}
        // As with qemu-img, 1 says that the disks differ.
        Some(Some(1)) if command.starts_with("compare ") && !outcome.stdout.is_empty() => {}
        // A file that the image names is not there, where it is allowed to name one.
        Some(Some(1)) if command.contains("--allow-same-dir") && outcome.stderr.contains("(backing file '") => {}
        // And 63 that this format has nothing to check; what is no qcow2 any more is raw.
        Some(Some(63)) if command.starts_with("check ") && message.is_some() => {}
        Some(Some(code)) if EXIT_CODES.contains(&code) => match message {
            None => found.push(format!("exit code {code} without a message: {}", outcome.stderr)),
            Some(message) if code == 8 => {
                let parts = ["corrupt ", ": found ", ", expected ", " at byte 0x"];
                if !parts.iter().all(|part| message.contains(part)) {
                    found.push(format!("a corrupt image without format, field, byte, found or expected: {message}"));
                }
            }
            Some(_) => {}
        },
        Some(code) => found.push(format!("ended with {code:?}: {}", outcome.stderr)),
    }
    // What could not be read is named, and the archive of the rest is there.
    let is_partial = command.starts_with("tar-out ") && outcome.status.is_some_and(|status| status.code() == Some(3));
    if outcome.left && !is_partial && outcome.status.is_none_or(|status| !status.success()) {
        found.push("failed, and a file is there".to_owned());
    }
    if outcome.stderr.contains("panicked") {
        found.push(format!("a panic: {}", outcome.stderr));
    }
    if command.contains("--json") && outcome.status.is_some() {
        let values = serde_json::Deserializer::from_slice(&outcome.stdout).into_iter::<serde::de::IgnoredAny>();
        if let Some(error) = values.filter_map(Result::err).next() {
            found.push(format!("standard output is no JSON: {error}"));
        }
    }
    if outcome.cpu_ms > CPU_MS {
        found.push(format!("{} ms of processor time", outcome.cpu_ms));
    }
    let allowed = match command.split(' ').next() {
        Some("tar-out" | "checksum") => TREE_MEMORY_KIB,
        Some("diff") => TWO_GUESTS_MEMORY_KIB,
        _ => MEMORY_KIB,
    };
    if outcome.memory_kib > allowed {
        found.push(format!("{} MiB of memory", outcome.memory_kib >> 10));
    }
    found
}
