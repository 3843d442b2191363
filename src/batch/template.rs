//! Words of a command line in which `{image}`, `{name}` and `{out}` stand for what differs between images.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::plan::Item;
use crate::bytes::escape;
use crate::error::{Error, Result};

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Image,
    Name,
    Out,
}

impl Template {
    /// From a word as it is written. `{{` and `}}` stand for braces; other names in braces are refused.
    pub(super) fn parse(word: &OsStr) -> Result<Self> {
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut rest = word.as_bytes();
        while let [first, behind @ ..] = rest {
            match (first, behind.first()) {
                (b'{', Some(b'{')) | (b'}', Some(b'}')) => {
                    text.push(*first);
                    rest = behind.get(1..).unwrap_or_default();
                }
                (b'{', _) => {
                    let end = behind.iter().position(|byte| *byte == b'}');
                    let name = end.and_then(|end| behind.get(..end)).unwrap_or(behind);
                    let part = match name {
                        b"image" => Part::Image,
                        b"name" => Part::Name,
                        b"out" => Part::Out,
                        other => {
                            let message =
                                format!("there is no {{{}}}: {{image}}, {{name}} and {{out}} are known", escape(other));
                            return Err(Error::invalid(message).with_hint("{{ and }} stand for braces"));
                        }
                    };
                    if end.is_none() {
                        return Err(Error::invalid(format!("a brace is not closed in {}", escape(word.as_bytes()))));
                    }
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(part);
                    rest = behind.get(name.len().saturating_add(1)..).unwrap_or_default();
                }
                _ => {
                    text.push(*first);
                    rest = behind;
                }
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self(parts))
    }

    /// The word for one image.
    pub(super) fn expand(&self, item: &Item, out: Option<&Path>) -> OsString {
        let mut word = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => word.extend(text),
                Part::Image => {
                    let image = item.image.as_os_str().as_bytes();
                    // A file's name is never an option.
                    if word.is_empty() && image.first() == Some(&b'-') {
                        word.extend(b"./");
                    }
                    word.extend(image);
                }
                Part::Name => word.extend(item.name.as_bytes()),
                Part::Out => word.extend(out.map_or(&b""[..], |out| out.as_os_str().as_bytes())),
            }
        }
        OsString::from_vec(word)
    }

    pub(super) fn names_image(&self) -> bool {
        self.0.contains(&Part::Image)
    }

    pub(super) fn names_out(&self) -> bool {
        self.0.contains(&Part::Out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(word: &str, image: &str) -> String {
        let item = Item { image: image.into(), name: "disk".to_owned() };
        Template::parse(OsStr::new(word)).unwrap().expand(&item, Some(Path::new("/o"))).into_string().unwrap()
    }

    #[test]
    fn words_are_filled_in_and_braces_can_be_meant() {
        for (word, image, expected) in [
            ("", "a", ""),
            ("plain", "a", "plain"),
            ("{image}", "a b.qcow2", "a b.qcow2"),
            ("{image}", "-rf", "./-rf"),
            ("x{image}", "-rf", "x-rf"),
            ("{out}/{name}.raw", "a", "/o/disk.raw"),
            ("{{image}}", "a", "{image}"),
            ("{{{name}}}", "a", "{disk}"),
            ("{image}", "{name}", "{name}"),
        ] {
            assert_eq!(expand(word, image), expected, "{word}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for (word, message) in [
            ("{imge}", "there is no {imge}: {image}, {name} and {out} are known"),
            ("{image", "a brace is not closed in {image"),
            ("{", "there is no {}: {image}, {name} and {out} are known"),
        ] {
            let error = Template::parse(OsStr::new(word)).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.exit_code()), (message, 2));
        }
    }
}
