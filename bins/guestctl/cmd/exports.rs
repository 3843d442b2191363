//! `guestctl info` of an NBD URI: what `nbdinfo` says, with the same JSON keys.

use std::io::Write;
use std::path::Path;

use guestctl::block::nbd::client::{ExportInfo, Listing, list_exports};
use guestctl::block::nbd::{NbdOptions, Uri};
use guestctl::bytes::escape;
use serde::Serialize;

use crate::exit::Outcome;
use crate::print;

/// A server, with the keys of `nbdinfo --json`; `extended-headers` is ours.
#[derive(Debug, Serialize)]
struct Server {
    protocol: &'static str,
    #[serde(rename = "TLS")]
    tls: bool,
    structured: bool,
    #[serde(rename = "extended-headers")]
    extended: bool,
    exports: Vec<Export>,
}

#[derive(Debug, Serialize)]
struct Export {
    #[serde(rename = "export-name")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    uri: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contexts: Vec<String>,
    #[serde(flatten)]
    facts: Facts,
    #[serde(rename = "export-size")]
    size: u64,
    #[serde(rename = "export-size-str", skip_serializing_if = "Option::is_none")]
    size_text: Option<String>,
}

/// What text and JSON call by the same names, in nbdinfo's order.
#[derive(Debug, Serialize)]
struct Facts {
    is_rotational: bool,
    is_read_only: bool,
    can_cache: bool,
    can_df: bool,
    can_fast_zero: bool,
    can_flush: bool,
    can_fua: bool,
    can_multi_conn: bool,
    can_trim: bool,
    can_zero: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size_minimum: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size_preferred: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size_maximum: Option<u32>,
}

impl Facts {
    fn flags(&self) -> [(&'static str, bool); 10] {
        [
            ("is_rotational", self.is_rotational),
            ("is_read_only", self.is_read_only),
            ("can_cache", self.can_cache),
            ("can_df", self.can_df),
            ("can_fast_zero", self.can_fast_zero),
            ("can_flush", self.can_flush),
            ("can_fua", self.can_fua),
            ("can_multi_conn", self.can_multi_conn),
            ("can_trim", self.can_trim),
            ("can_zero", self.can_zero),
        ]
    }

    fn sizes(&self) -> [(&'static str, Option<u32>); 3] {
        [
            ("block_size_minimum", self.block_size_minimum),
            ("block_size_preferred", self.block_size_preferred),
            ("block_size_maximum", self.block_size_maximum),
        ]
    }
}

/// Shows the export of `uri`, or with `list` all that its server shows.
pub fn run(uri: &Path, list: bool, json: bool, options: &NbdOptions) -> Outcome {
    let uri: Uri = uri.to_string_lossy().parse()?;
    let server = Server::new(list_exports(&uri, !list, options)?, &uri);
    if json { Ok(print::json(&server)?) } else { server.print() }
}

impl Server {
    fn new(listing: Listing, uri: &Uri) -> Self {
        let Listing { server, exports, .. } = listing;
        Self {
            protocol: if server.fixed { "newstyle-fixed" } else { "newstyle" },
            tls: server.tls,
            structured: server.structured,
            extended: server.extended,
            exports: exports.into_iter().map(|export| Export::new(export, uri)).collect(),
        }
    }

    fn print(&self) -> Outcome {
        let mut out = print::stdout()?;
        let packets = match (self.extended, self.structured) {
            (true, _) => "using extended packets",
            (_, true) => "using structured packets",
            _ => "using simple packets",
        };
        writeln!(out, "protocol: {} {} TLS, {packets}", self.protocol, if self.tls { "with" } else { "without" })?;
        for export in &self.exports {
            export.print(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

impl Export {
    fn new(export: ExportInfo, uri: &Uri) -> Self {
        let sizes = export.block_sizes;
        let facts = Facts {
            is_rotational: export.is_rotational(),
            is_read_only: export.is_read_only(),
            can_cache: export.can_cache(),
            can_df: export.can_df(),
            can_fast_zero: export.can_fast_zero(),
            can_flush: export.can_flush(),
            can_fua: export.can_fua(),
            can_multi_conn: export.can_multi_conn(),
            can_trim: export.can_trim(),
            can_zero: export.can_zero(),
            block_size_minimum: sizes.map(|sizes| sizes.minimum),
            block_size_preferred: sizes.map(|sizes| sizes.preferred),
            block_size_maximum: sizes.map(|sizes| sizes.maximum),
        };
        let uri = uri.with_export(&export.name).to_string();
        let ExportInfo { name, description, size, contexts, .. } = export;
        Self { name, description, uri, contexts, facts, size, size_text: whole(size) }
    }

    fn print(&self, out: &mut impl Write) -> Outcome {
        writeln!(out, "export=\"{}\":", escape(self.name.as_bytes()))?;
        if let Some(description) = &self.description {
            writeln!(out, "\tdescription: {}", escape(description.as_bytes()))?;
        }
        match &self.size_text {
            Some(text) => writeln!(out, "\texport-size: {} ({text})", self.size)?,
            None => writeln!(out, "\texport-size: {}", self.size)?,
        }
        writeln!(out, "\turi: {}", self.uri)?;
        if !self.contexts.is_empty() {
            writeln!(out, "\tcontexts:")?;
            for context in &self.contexts {
                writeln!(out, "\t\t{}", escape(context.as_bytes()))?;
            }
        }
        for (name, value) in self.facts.flags() {
            writeln!(out, "\t{name}: {value}")?;
        }
        for (name, value) in self.facts.sizes() {
            if let Some(value) = value {
                writeln!(out, "\t{name}: {value}")?;
            }
        }
        Ok(())
    }
}

/// A size that is a whole number of a binary unit, in the largest such: `6G`.
fn whole(size: u64) -> Option<String> {
    let mut value = size;
    let mut unit = "";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if value == 0 || !value.is_multiple_of(1024) {
            break;
        }
        (value, unit) = (value / 1024, next);
    }
    (!unit.is_empty()).then(|| format!("{value}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn only_whole_units_are_shown() {
        assert_eq!([0, 1023, 1536, 1_000_000].map(whole), [None, None, None, None]);
        assert_eq!(whole(1 << 20).as_deref(), Some("1M"));
        assert_eq!(whole(6 << 30).as_deref(), Some("6G"));
        assert_eq!(whole(1025 << 10).as_deref(), Some("1025K"));
    }
}
