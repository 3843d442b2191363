//! Many files at once: the calls that the performance guide means by "one bulk operation, not a loop". They run on the rayon pool
//! that the caller is in.

use std::io::{BufWriter, Write};
use std::path::Path;

use super::Guestfs;
use crate::error::{Error, Result};
use crate::fs::GuestPath;
use crate::host::Staged;
use crate::ops::{self, Algorithm, ChecksumOptions, StreamCompression, TarOptions, TarReport};
use crate::progress::{Progress, Silent};

impl Guestfs {
    /// Copies a guest directory out as a tar archive, not compressed. When parts could not be read the archive is there and the
    /// error, [`Partial`](crate::ErrorKind::Partial), lists them.
    pub fn tar_out(&self, directory: impl AsRef<[u8]>, tarfile: impl AsRef<Path>) -> Result<()> {
        self.tar_out_opts(directory, tarfile, None)
    }

    /// The same, compressed by gzip, bzip2, xz, zstd or lz4.
    pub fn tar_out_opts(
        &self,
        directory: impl AsRef<[u8]>,
        tarfile: impl AsRef<Path>,
        compress: Option<&str>,
    ) -> Result<()> {
        let compression = compress.map_or(Ok(StreamCompression::None), str::parse)?;
        let options = TarOptions { compression, ..TarOptions::default() };
        self.tar_out_with(directory, tarfile, &options, &Silent)?.problems.complete()
    }

    /// The same with all options; the report tells what could not be read.
    pub fn tar_out_with(
        &self,
        directory: impl AsRef<[u8]>,
        tarfile: impl AsRef<Path>,
        options: &TarOptions,
        progress: &dyn Progress,
    ) -> Result<TarReport> {
        ops::tar_out_file(&*self.mounted()?, &GuestPath::parse(directory)?, tarfile.as_ref(), options, progress)
    }

    /// The same into any stream.
    pub fn tar_out_to(
        &self,
        directory: impl AsRef<[u8]>,
        out: &mut (dyn Write + Send),
        options: &TarOptions,
        progress: &dyn Progress,
    ) -> Result<TarReport> {
        ops::tar_out(&*self.mounted()?, &GuestPath::parse(directory)?, out, options, progress)
    }

    /// Writes the digests of all regular files below a directory into a host file, in the form of `sha256sum` and its like, names
    /// beginning with `./`.
    pub fn checksums_out(&self, csumtype: &str, directory: impl AsRef<[u8]>, sumsfile: impl AsRef<Path>) -> Result<()> {
        let algorithm: Algorithm = csumtype.parse()?;
        let path = sumsfile.as_ref();
        let failed = |error| Error::io("write", path.display(), error);
        let staged = Staged::create(path)?;
        let mut out = BufWriter::new(&staged.file);
        let visit = |file: ops::Digested| {
            let name = [b"./", &file.path[..]].concat();
            ops::write_sum_line(&mut out, algorithm, &file.digests[0], file.size, &name).map_err(failed)
        };
        let options = ChecksumOptions::new(vec![algorithm]);
        let report = ops::checksums_out(&*self.mounted()?, &GuestPath::parse(directory)?, &options, visit, &Silent)?;
        out.flush().map_err(failed)?;
        drop(out);
        staged.publish()?;
        report.problems.complete()
    }
}
