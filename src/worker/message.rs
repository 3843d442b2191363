//! The two messages before NBD begins: a length in 32 bits, and fields, each with a length in 32 bits; all big-endian.
//!
//! | request | | answer | | error | |
//! |---|---|---|---|---|---|
//! | 0 | path | 0 | `ok` | 0 | `error` |
//! | 1 | format or empty | 1 | format | 1.. | see [`super::error`] |
//! | 2 | snapshot or empty | 2.. | see [`answer`] | | |
//! | 3 | `whole` if all of the disk is going to be read, or empty | | | | |
//! | 4 | milliseconds: `connect_timeout`, `request_timeout`, `total_timeout` for NBD, spaces between | | | | |
//! | 5 | gate: `none`, `same`, `directories` | | | | |
//! | 6.. | directories | | | | |

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::block::nbd::{NbdOptions, Stream};
use crate::block::{AllowDirectories, DenyAll, GatePolicy, ImageInfo, OpenGate, OpenOptions, SameDirectory};
use crate::error::{Error, Result};
use crate::limits;

/// Bytes of a message. Ours; directories that a user allows are the longest of what is in one.
const MESSAGE_BYTES: u64 = 1 << 20;

const WHOLE: &[u8] = b"whole";

pub(super) type Fields = Vec<Vec<u8>>;

pub(super) fn send(stream: &Stream, fields: &Fields, deadline: Instant) -> Result<()> {
    let part = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        [&len.to_be_bytes()[..], bytes].concat()
    };
    let body: Vec<u8> = fields.iter().flat_map(|field| part(field)).collect();
    limits::check("bytes of a message to a worker", body.len() as u64, MESSAGE_BYTES)?;
    stream.write_all(&part(&body), deadline).map_err(|error| Error::io("write to", "the worker process", error))
}

pub(super) fn receive(stream: &Stream, deadline: Instant) -> Result<Fields> {
    let read = |buf: &mut [u8]| {
        stream.read_exact(buf, deadline).map_err(|error| Error::io("read from", "the worker process", error))
    };
    let mut len = [0; 4];
    read(&mut len)?;
    let len = limits::check("bytes of a worker's message", u32::from_be_bytes(len).into(), MESSAGE_BYTES)?;
    let mut body = vec![0; crate::bytes::to_usize(len)];
    read(&mut body)?;
    let mut fields = Vec::new();
    let mut rest = &body[..];
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let len = crate::bytes::to_usize(u32::from_be_bytes(*len).into());
        let (field, after) = after.split_at_checked(len).ok_or_else(malformed)?;
        fields.push(field.to_vec());
        rest = after;
    }
    Ok(fields)
}

pub(super) fn malformed() -> Error {
    Error::io("read from", "the worker process", std::io::Error::from(std::io::ErrorKind::InvalidData))
}

/// What to open, and under which rules.
pub(super) fn request(path: &Path, options: &OpenOptions, whole: bool) -> Result<Fields> {
    // The child stands in another directory. A URI stays what it is.
    let path = if crate::block::nbd::Uri::is_uri(path) {
        path.to_owned()
    } else {
        std::path::absolute(path).map_err(|error| Error::io("find", path.display(), error))?
    };
    let (gate, directories): (&str, &[PathBuf]) = match &options.gate.policy() {
        Some(GatePolicy::Nothing) => ("none", &[]),
        Some(GatePolicy::SameDirectory) => ("same", &[]),
        Some(GatePolicy::Directories(directories)) => ("directories", &directories.clone()),
        None => return Err(Error::invalid("a gate of the program's own cannot decide in another process")),
    };
    let mut fields = vec![
        path.into_os_string().into_vec(),
        options.format.map_or("", |format| format.name()).into(),
        options.snapshot.clone().unwrap_or_default().into_bytes(),
        if whole { WHOLE.to_vec() } else { Vec::new() },
        [options.nbd.connect_timeout, options.nbd.request_timeout, options.nbd.total_timeout]
            .map(|time| time.as_millis().to_string())
            .join(" ")
            .into_bytes(),
        gate.into(),
    ];
    fields.extend(directories.iter().map(|directory| directory.as_os_str().as_bytes().to_vec()));
    Ok(fields)
}

/// The other direction of [`request`].
pub(super) fn parse_request(fields: Fields) -> Result<(PathBuf, OpenOptions, bool)> {
    let mut fields = fields.into_iter();
    let mut next = || fields.next().ok_or_else(malformed);
    let path = PathBuf::from(OsString::from_vec(next()?));
    let format = text(next()?)?;
    let snapshot = text(next()?)?;
    let whole = next()? == WHOLE;
    let times = text(next()?)?;
    let mut times = times.split(' ').map(|time| time.parse().map(Duration::from_millis).map_err(|_| malformed()));
    let mut time = || times.next().ok_or_else(malformed)?;
    let nbd = NbdOptions {
        connect_timeout: time()?,
        request_timeout: time()?,
        total_timeout: time()?,
        ..NbdOptions::default()
    };
    let gate = next()?;
    let gate: Arc<dyn OpenGate> = match &gate[..] {
        b"none" => Arc::new(DenyAll),
        b"same" => Arc::new(SameDirectory),
        b"directories" => {
            Arc::new(AllowDirectories::new(fields.map(|field| PathBuf::from(OsStr::from_bytes(&field))))?)
        }
        _ => return Err(malformed()),
    };
    let format = if format.is_empty() { None } else { Some(format.parse()?) };
    let snapshot = Some(snapshot).filter(|name| !name.is_empty());
    Ok((path, OpenOptions { format, gate, snapshot, nbd }, whole))
}

/// The image's facts, as far as they cross the boundary.
pub(super) fn answer(info: &ImageInfo) -> Fields {
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default().into_bytes();
    let text = |value: &Option<String>| value.clone().unwrap_or_default().into_bytes();
    vec![
        b"ok".to_vec(),
        info.format.name().into(),
        number(Some(info.probed.into())),
        number(Some(info.virtual_size)),
        number(info.actual_size),
        number(info.cluster_size),
        number(info.dirty_flag.map(u64::from)),
        text(&info.backing_filename),
        text(&info.full_backing_filename),
        text(&info.backing_filename_format),
    ]
}

/// The other direction of [`answer`]; `filename` is what the parent calls the image.
pub(super) fn parse_answer(fields: Fields, filename: String) -> Result<ImageInfo> {
    let mut fields = fields.into_iter().skip(1);
    let mut next = || fields.next().ok_or_else(malformed).and_then(text);
    let number =
        |text: String| if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| malformed()) };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let format = next()?.parse().map_err(|_| malformed())?;
    let probed = number(next()?)? == Some(1);
    let mut info = ImageInfo::new(filename, format, number(next()?)?.ok_or_else(malformed)?);
    info.probed = probed;
    info.actual_size = number(next()?)?;
    info.cluster_size = number(next()?)?;
    info.dirty_flag = number(next()?)?.map(|flag: u64| flag == 1);
    info.backing_filename = some(next()?);
    info.full_backing_filename = some(next()?);
    info.backing_filename_format = some(next()?);
    Ok(info)
}

pub(super) fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ImageFormat;

    #[test]
    fn requests_and_answers_arrive_as_they_were_sent() {
        let options = OpenOptions {
            format: Some(ImageFormat::Qcow2),
            gate: Arc::new(AllowDirectories::new([PathBuf::from("/")]).unwrap()),
            snapshot: Some("one".to_owned()),
            nbd: NbdOptions { request_timeout: Duration::from_millis(1500), ..NbdOptions::default() },
        };
        let sent = request(Path::new("/a/b#c"), &options, true).unwrap();
        let (path, parsed, whole) = parse_request(sent).unwrap();
        assert!(whole && !parse_request(request(Path::new("a"), &options, false).unwrap()).unwrap().2);
        assert_eq!(parsed.nbd.request_timeout, Duration::from_millis(1500));
        assert_eq!(parsed.nbd.total_timeout, options.nbd.total_timeout);
        assert_eq!(
            (path.as_path(), parsed.format, parsed.snapshot),
            (Path::new("/a/b#c"), options.format, options.snapshot)
        );
        assert_eq!(parsed.gate.policy(), Some(GatePolicy::Directories(vec![PathBuf::from("/")])));

        let mut info = ImageInfo::new("x".to_owned(), ImageFormat::Vmdk, 1 << 40);
        info.dirty_flag = Some(false);
        info.cluster_size = Some(65_536);
        info.backing_filename = Some("base".to_owned());
        assert_eq!(parse_answer(answer(&info), "x".to_owned()).unwrap(), info);
    }

    #[test]
    fn messages_are_limited() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (ours, theirs) = (Stream::try_from(ours).unwrap(), Stream::try_from(theirs).unwrap());
        let deadline = Instant::now() + std::time::Duration::from_secs(5);
        for (bytes, code) in [(&[0xff; 4][..], 4), (&[0, 0, 0, 5, 0, 0, 0, 9, 1], 1)] {
            ours.write_all(bytes, deadline).unwrap();
            assert_eq!(receive(&theirs, deadline).unwrap_err().exit_code(), code);
        }
        send(&ours, &vec![b"a".to_vec(), Vec::new()], deadline).unwrap();
        assert_eq!(receive(&theirs, deadline).unwrap(), [b"a".to_vec(), Vec::new()]);
    }
}
