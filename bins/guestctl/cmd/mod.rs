//! One file per subcommand.

pub mod batch;
pub mod cache;
pub mod cat;
pub mod check;
pub mod checksum;
pub mod commit;
pub mod compare;
pub mod completions;
pub mod convert;
pub mod copy_out;
pub mod cpio_out;
pub mod create;
pub mod df;
pub mod diff;
pub mod download;
pub mod du;
pub mod exports;
pub mod filesystems;
pub mod find;
pub mod get_kernel;
pub mod grep;
pub mod info;
pub mod initrd;
pub mod inspect;
pub mod ls;
pub mod man;
pub mod map;
pub mod measure;
pub mod rebase;
pub mod resize;
pub mod schema;
pub mod serve;
pub mod settings;
pub mod snapshot;
pub mod stat;
pub mod tar_out;
pub mod version;

use crate::args::Command;
use crate::context::Context;
use crate::exit::Outcome;

/// Runs what was asked for.
pub fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Inspect(command) => command.run(context),
        Command::Filesystems(command) => command.run(),
        Command::Ls(command) => command.run(context),
        Command::Cat(command) => command.run(),
        Command::Find(command) => command.run(),
        Command::Stat(command) => command.run(),
        Command::Download(command) => command.run(),
        Command::Checksum(command) => command.run(context),
        Command::TarOut(command) => command.run(context),
        Command::CopyOut(command) => command.run(context),
        Command::Df(command) => command.run(),
        Command::Du(command) => command.run(),
        Command::CpioOut(command) => command.run(context),
        Command::GetKernel(command) => command.run(),
        Command::Grep(command) => command.run(context),
        Command::InitrdCat(command) => command.run(),
        Command::InitrdList(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Map(command) => command.run(),
        Command::Compare(command) => command.run(context),
        Command::Cache(command) => command.run(context),
        Command::Diff(command) => command.run(context),
        Command::Create(command) => command.run(),
        Command::Convert(command) => command.run(context),
        Command::Measure(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Commit(command) => command.run(),
        Command::Rebase(command) => command.run(),
        Command::Resize(command) => command.run(),
        Command::Snapshot(command) => command.run(),
        Command::Completions(command) => command.run(),
        Command::Man(command) => command.run(),
        Command::Batch(command) => command.run(context),
        Command::Schema(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Settings(command) => command.run(context),
        Command::Version(command) => command.run(),
    }
}
