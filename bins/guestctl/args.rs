//! The command line, as clap derives it. Completions and man pages come from these definitions too.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, FromArgMatches, Parser, Subcommand};
use guestctl::block::ImageFormat;
use guestctl::cache::Verify;
use serde::{Deserialize, Serialize};

use crate::cmd;

/// Look inside guest disk images, convert and serve them: no root, no virtual machine, no mount.
#[derive(Debug, Parser)]
#[command(name = "guestctl", version, propagate_version = true, disable_help_subcommand = true, after_help = EXIT_CODES)]
pub struct Args {
    #[command(flatten)]
    pub everywhere: Everywhere,
    #[command(subcommand)]
    pub command: Command,
}

/// What every subcommand takes.
#[derive(Debug, ClapArgs)]
pub struct Everywhere {
    /// Say what is done, on standard error.
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Neither use nor fill the cache.
    #[arg(long, global = true)]
    pub no_cache: bool,
    /// The cache's directory; without it $GUESTCTL_CACHE_DIR, else the settings file's, else $XDG_CACHE_HOME/guestctl.
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// What of a cached object is looked at before it is delivered: never nothing; trusted (unless the settings file says
    /// something else) its size, mode and time; first-use its content once; always its content.
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    pub verify_level: Option<VerifyLevel>,
}

/// How much of a cached object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    Never,
    #[default]
    Trusted,
    FirstUse,
    Always,
}

impl VerifyLevel {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Trusted => "trusted",
            Self::FirstUse => "first-use",
            Self::Always => "always",
        }
    }
}

impl From<VerifyLevel> for Verify {
    fn from(level: VerifyLevel) -> Self {
        match level {
            VerifyLevel::Never => Self::Never,
            VerifyLevel::Trusted => Self::Trusted,
            VerifyLevel::FirstUse => Self::FirstUse,
            VerifyLevel::Always => Self::Always,
        }
    }
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 system error, 2 usage, 3 parts unreadable, 4 limit or space, 5 refused by policy, \
                          7 unsupported, 8 corrupt image, 9 not found in the guest, 75 try again later, 130 cancelled. \
                          compare and check have those of qemu-img, diff those of diff(1): 1 different, 2 trouble.";

impl Args {
    /// The program's arguments. When they name a subcommand only that one is defined: defining all of them takes as long as
    /// answering a question about an image.
    pub fn from_command_line() -> Self {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let command = clap::Command::new("guestctl").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
        let command = Everywhere::augment_args(command).disable_help_subcommand(true);
        let word = Everywhere::subcommand(&command, &arguments);
        let Some(only) = word.and_then(Command::definition) else { return Self::parse() };
        let is_find = word == Some("find");
        let arguments = arguments.iter().cloned();
        let arguments = arguments.map(|word| if is_find { cmd::find::two_hyphens(word) } else { word });
        let mut matches = command.subcommand(only).get_matches_from(arguments);
        Self::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
    }
}

impl Everywhere {
    /// The argument that names the subcommand: the first that is no option of `command`, nor such an option's value. `None`
    /// when something else comes before it.
    fn subcommand<'a>(command: &clap::Command, arguments: &'a [OsString]) -> Option<&'a str> {
        let mut arguments = arguments.iter().skip(1);
        loop {
            let word = arguments.next()?.to_str()?;
            let Some(option) = word.strip_prefix('-') else { return Some(word) };
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let is_named = |known: &&clap::Arg| match name.strip_prefix('-') {
                Some(long) => known.get_long() == Some(long),
                None => known.get_short().is_some_and(|short| name == short.to_string()),
            };
            if command.get_arguments().find(is_named)?.get_action().takes_values() && value.is_none() {
                arguments.next()?;
            }
        }
    }
}

/// The subcommands, and the definition of each on its own.
macro_rules! subcommands {
    ($(#[doc = $about:literal] $name:ident($arguments:ty) = $word:literal,)*) => {
        /// The subcommands.
        #[derive(Debug, Subcommand)]
        #[allow(clippy::large_enum_variant, reason = "there is one of these in the program's life")]
        pub enum Command {
            $(#[doc = $about] $name($arguments),)*
        }

        impl Command {
            /// The definition of the subcommand that is called `word`.
            pub fn definition(word: &str) -> Option<clap::Command> {
                match word {
                    $($word => Some(<$arguments>::augment_args(clap::Command::new($word)).about($about.trim())),)*
                    _ => None,
                }
            }
        }
    };
}

subcommands! {
    /// Say what is installed in a guest.
    Inspect(cmd::inspect::Inspect) = "inspect",
    /// List filesystems, partitions and logical volumes.
    Filesystems(cmd::filesystems::Filesystems) = "filesystems",
    /// List a guest directory.
    Ls(cmd::ls::Ls) = "ls",
    /// Print guest files.
    Cat(cmd::cat::Cat) = "cat",
    /// Find paths in a guest.
    Find(cmd::find::Find) = "find",
    /// Search guest files for a pattern.
    Grep(cmd::grep::Grep) = "grep",
    /// Show what is known of guest paths.
    Stat(cmd::stat::Stat) = "stat",
    /// Copy a guest file or device out.
    Download(cmd::download::Download) = "download",
    /// Write a guest directory as a cpio archive.
    CpioOut(cmd::cpio_out::CpioOut) = "cpio-out",
    /// Copy a guest's newest kernel out.
    GetKernel(cmd::get_kernel::GetKernel) = "get-kernel",
    /// List what is in an initial RAM disk of a guest.
    InitrdList(cmd::initrd::InitrdList) = "initrd-list",
    /// Print files of an initial RAM disk of a guest.
    InitrdCat(cmd::initrd::InitrdCat) = "initrd-cat",
    /// Print digests of guest files, trees and devices.
    Checksum(cmd::checksum::Checksum) = "checksum",
    /// Copy a guest's tree out as a tar archive.
    TarOut(cmd::tar_out::TarOut) = "tar-out",
    /// Copy guest files and directories out.
    CopyOut(cmd::copy_out::CopyOut) = "copy-out",
    /// Show the free space of a guest's filesystems.
    Df(cmd::df::Df) = "df",
    /// Show how much space guest directories take.
    Du(cmd::du::Du) = "du",
    /// Show what an image file says about itself.
    Info(cmd::info::Info) = "info",
    /// Show which parts of a disk are data.
    Map(cmd::map::Map) = "map",
    /// Say whether two disks hold the same bytes.
    Compare(cmd::compare::Compare) = "compare",
    /// Keep extracted trees, and bring them back.
    Cache(cmd::cache::Cache) = "cache",
    /// Say what differs between two guests.
    Diff(cmd::diff::Diff) = "diff",
    /// Make a new image.
    Create(cmd::create::Create) = "create",
    /// Convert an image into another format.
    Convert(cmd::convert::Convert) = "convert",
    /// Say how many bytes a new image would need.
    Measure(cmd::measure::Measure) = "measure",
    /// Check an image's tables, and repair them.
    Check(cmd::check::Check) = "check",
    /// Write an overlay's changes into its backing file.
    Commit(cmd::commit::Commit) = "commit",
    /// Put an overlay onto another backing file.
    Rebase(cmd::rebase::Rebase) = "rebase",
    /// Give the disk in an image another size.
    Resize(cmd::resize::Resize) = "resize",
    /// List, make, apply and delete internal snapshots.
    Snapshot(cmd::snapshot::Snapshot) = "snapshot",
    /// Serve images over NBD.
    Serve(cmd::serve::Serve) = "serve",
    /// Do the same with many images.
    Batch(cmd::batch::Batch) = "batch",
    /// Print each setting, and where it comes from.
    Settings(cmd::settings::Settings) = "settings",
    /// Print the JSON Schema of `inspect --json`.
    Schema(cmd::schema::Schema) = "schema",
    /// Print a shell's completions.
    Completions(cmd::completions::Completions) = "completions",
    /// Write the man pages.
    Man(cmd::man::Man) = "man",
    /// Print the version.
    Version(cmd::version::Version) = "version",
}

/// Which images, and how to open them.
#[derive(Debug, Clone, ClapArgs)]
pub struct ImageArgs {
    /// The image: raw, qcow2, vmdk, vdi, vhd, vhdx or ova; `disk.qcow2#name` reads an internal snapshot.
    #[arg(value_name = "IMAGE")]
    pub image: PathBuf,
    /// A further drive of the same guest; repeatable.
    #[arg(short = 'a', long = "add", value_name = "IMAGE")]
    pub more: Vec<PathBuf>,
    #[command(flatten)]
    pub open: OpenArgs,
    /// Open each image in a process of its own, so that what a hostile image may break is not this program.
    #[arg(long)]
    pub isolate: bool,
}

/// How to open images.
#[derive(Debug, Clone, ClapArgs)]
pub struct OpenArgs {
    /// The format of the images; without it the format is probed.
    #[arg(id = "input_format", short = 'f', long = "input-format", value_name = "FORMAT", value_parser = format)]
    pub format: Option<ImageFormat>,
    /// Open files that the image names (backing files, extents) if they lie in or below this directory; repeatable.
    #[arg(long, value_name = "DIR")]
    pub allow_backing: Vec<PathBuf>,
    /// Open files that the image names if they lie in the image's own directory.
    #[arg(long, conflicts_with = "allow_backing")]
    pub allow_same_dir: bool,
    /// Give up on an NBD server that does not answer for so long, 60 without it; a read with all that is tried again takes
    /// three times as long at most.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub nbd_timeout: Option<Duration>,
}

/// Seconds, with a fraction if need be.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.filter(|time| !time.is_zero()).ok_or_else(|| "a number of seconds above 0".to_owned())
}

/// Whether images are opened in processes of their own, for commands that read whole disks.
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct Isolation {
    /// Open each image in a process of its own, so that what a hostile image may break is not this program.
    #[arg(long)]
    pub isolate: bool,
}

/// Images, and what to mount from them.
#[derive(Debug, Clone, ClapArgs)]
pub struct GuestArgs {
    #[command(flatten)]
    pub images: ImageArgs,
    /// Mount this and do not inspect: a device, and where if not at /; repeatable.
    #[arg(short, long = "mount", value_name = "DEV[:MOUNTPOINT]", action = ArgAction::Append)]
    pub mount: Vec<String>,
}

/// Which entries of a tree.
#[derive(Debug, Clone, ClapArgs)]
pub struct FilterArgs {
    /// Leave out what matches this pattern, in gitignore's syntax on guest paths; repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Take only what matches this pattern, and what is below it; repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
}

/// Which entries of a tree, and on how many threads.
#[derive(Debug, Clone, ClapArgs)]
pub struct BulkArgs {
    #[command(flatten)]
    pub entries: FilterArgs,
    /// Threads; without a number as many as there are processors. The output is the same on any number.
    #[arg(short = 'j', long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// How results are printed, in qemu-img's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// An image format by its name.
pub fn format(name: &str) -> Result<ImageFormat, String> {
    name.parse().map_err(|_| format!("known formats: {}", ImageFormat::ALL.map(ImageFormat::name).join(", ")))
}
