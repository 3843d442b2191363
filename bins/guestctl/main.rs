//! `guestctl`: look inside guest disk images.
//!
//! Arguments are parsed (`args`), the settings that they do not give are found (`settings`, `context`), one function per subcommand does the work through the library's public API (`cmd`),
//! and what went wrong becomes a message, a hint and an exit code (`exit`). Standard output is data; everything else
//! goes to standard error.
#![warn(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]
#![allow(unreachable_pub, reason = "a program has no outside; `pub` says what a module offers to the others")]

mod args;
mod cmd;
mod context;
mod duration;
mod exit;
mod interrupt;
mod jobs;
mod json;
mod memoised;
mod new_image;
mod print;
mod progress;
mod record;
mod session;
mod settings;
mod size;

fn main() -> std::process::ExitCode {
    if let Some(code) = guestctl::worker::run_if_asked() {
        return code;
    }
    if let Some(code) = guestctl::batch::enter_if_asked() {
        return code;
    }
    let args = args::Args::from_command_line();
    let debug = args.everywhere.verbose || std::env::var_os("GUESTCTL_DEBUG").is_some_and(|value| value != "0");
    let level = if debug { log::LevelFilter::Debug } else { log::LevelFilter::Warn };
    env_logger::Builder::new().filter_level(level).format_timestamp(None).init();
    let context = context::Context::new(&args.everywhere);
    exit::report(context.map_err(Into::into).and_then(|context| cmd::run(args.command, &context)))
}
