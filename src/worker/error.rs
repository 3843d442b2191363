//! Errors that cross the process boundary with kind, place and hint.
//!
//! | field | |
//! |---|---|
//! | 0 | `error` |
//! | 1 | kind: [`ErrorKind::name`] |
//! | 2 to 4 | image, device, path; empty when not known |
//! | 5 | hint or empty |
//! | 6.. | by kind |

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::message::{Fields, malformed, text};
use crate::error::{Corrupt, Error, ErrorKind};

/// Names of formats, fields and limits that a worker may teach this process, and bytes of one. Far more than there are.
const NAMES: usize = 4096;
const NAME_BYTES: usize = 128;

pub(super) fn encode(error: &Error) -> Fields {
    let place = error.place();
    let optional = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let mut fields = vec![
        "error".to_owned(),
        error.kind().name().to_owned(),
        optional(place.image.as_deref()),
        optional(place.device.as_deref()),
        optional(place.path.as_deref()),
        optional(error.hint()),
    ];
    match error.kind() {
        ErrorKind::Io { action, subject, source } => {
            let errno = source.raw_os_error().unwrap_or(0);
            fields.extend([(*action).to_owned(), subject.clone(), errno.to_string(), source.to_string()]);
        }
        ErrorKind::InvalidArgument(message) | ErrorKind::Partial(message) | ErrorKind::Denied(message) => {
            fields.push(message.clone());
        }
        ErrorKind::Limit { what, limit, found } => {
            fields.extend([(*what).to_owned(), limit.to_string(), found.to_string()]);
        }
        ErrorKind::Unsupported { format, feature } => fields.extend([(*format).to_owned(), feature.clone()]),
        ErrorKind::Corrupt(Corrupt { format, field, offset, found, expected }) => {
            fields.extend([*format, field].map(str::to_owned));
            fields.extend([offset.to_string(), found.clone(), expected.clone()]);
        }
        ErrorKind::Path { .. } => fields.push(error.kind().to_string()),
        ErrorKind::Cancelled => {}
    }
    fields.into_iter().map(String::into_bytes).collect()
}

/// The error that the worker tells of; when it makes no sense, that.
pub(super) fn decode(fields: Fields) -> Error {
    parse(fields).unwrap_or_else(|error| error)
}

fn parse(fields: Fields) -> Result<Error, Error> {
    let mut fields = fields.into_iter().skip(1);
    let mut next = || fields.next().ok_or_else(malformed).and_then(text);
    let (kind, image, device, path, hint) = (next()?, next()?, next()?, next()?, next()?);
    let number = |text: String| text.parse::<u64>().map_err(|_| malformed());
    let mut error = match &*kind {
        "io" => {
            let (action, subject, errno, message) = (name(&next()?), next()?, next()?, next()?);
            let source = match errno.parse() {
                Ok(errno) if errno != 0 => io::Error::from_raw_os_error(errno),
                _ => io::Error::other(message),
            };
            Error::io(action, subject, source)
        }
        "partial" => ErrorKind::Partial(next()?).into(),
        "denied" => Error::denied(next()?),
        "limit" => Error::limit(name(&next()?), number(next()?)?, number(next()?)?),
        "unsupported" => Error::unsupported(name(&next()?), next()?),
        "corrupt" => {
            let (format, field, offset) = (name(&next()?), name(&next()?), number(next()?)?);
            Error::corrupt(format, field, offset, next()?, next()?)
        }
        "cancelled" => ErrorKind::Cancelled.into(),
        _ => Error::invalid(next()?),
    };
    for (value, add) in
        [(image, Error::in_image as fn(Error, String) -> Error), (device, Error::on_device), (hint, Error::with_hint)]
    {
        if !value.is_empty() {
            error = add(error, value);
        }
    }
    Ok(if path.is_empty() { error } else { error.at_path(path.as_bytes()) })
}

/// A name that lives as long as the process. A worker that has been taken over can make up names, so there is an end.
fn name(text: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(name) = known.get(text) {
        return name;
    }
    if known.len() >= NAMES || text.len() > NAME_BYTES {
        return "image";
    }
    let name: &'static str = Box::leak(text.to_owned().into_boxed_str());
    known.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_arrive_as_they_were() {
        for error in [
            Error::io("open", "/x", io::Error::from_raw_os_error(2)),
            Error::io("read", "/x", io::Error::other("odd")),
            Error::invalid("no"),
            Error::denied("never").with_hint("do not"),
            Error::limit("backing chain depth", 200, 201),
            Error::unsupported("qcow2", "encryption").in_image("disk"),
            Error::corrupt("qcow2", "l1_table_offset", 40, 7, "a multiple of 512")
                .in_image("disk")
                .on_device("/dev/sda"),
            ErrorKind::Cancelled.into(),
        ] {
            let copy = decode(encode(&error));
            assert_eq!(copy.to_string(), error.to_string());
            assert_eq!((copy.exit_code(), copy.place(), copy.hint()), (error.exit_code(), error.place(), error.hint()));
            assert_eq!(copy.as_corrupt(), error.as_corrupt());
        }
        assert_eq!(decode(vec![b"error".to_vec()]).exit_code(), 1);
        assert_eq!(name(&"x".repeat(129)), "image");
    }
}
