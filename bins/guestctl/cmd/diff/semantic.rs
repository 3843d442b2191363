//! The comparison of what the guests are: by topic for people, or one JSON document.

use std::io::Write;

use guestctl::bytes::escape;
use guestctl::inspect::{Difference, DifferenceKind, Differences, Topic};
use guestctl::{Error, Guestfs};
use serde::Serialize;

use crate::args::GuestArgs;
use crate::exit::Failure;
use crate::print;

/// The document.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    schema_version: u32,
    old: Compared,
    new: Compared,
    #[serde(flatten)]
    differences: &'a Differences,
}

/// Which system was compared.
#[derive(Serialize)]
struct Compared {
    image: String,
    root: String,
}

/// Compares, and prints. Whether nothing differs.
pub(super) fn compare((old, new): (&GuestArgs, &GuestArgs), json: bool, quiet: bool) -> Result<bool, Failure> {
    let ((old_guest, old_root), (new_guest, new_root)) = (system(old)?, system(new)?);
    let differences = old_guest.inspect_differences(&old_root, &new_guest, &new_root)?;
    for (image, notes) in [(old.image(), &differences.old_notes), (new.image(), &differences.new_notes)] {
        for note in notes {
            log::info!("{}: {note}", image.display());
        }
    }
    let compared = |guest: &GuestArgs, root| Compared { image: guest.image().display().to_string(), root };
    if json && !quiet {
        let (old, new) = (compared(old, old_root), compared(new, new_root));
        let document = Document { schema: "guestctl/diff", schema_version: 1, old, new, differences: &differences };
        print::json(&document)?;
    } else if !quiet {
        text(&differences)?;
    }
    Ok(differences.is_empty())
}

/// The guest launched, and the root of the system that is meant: the one that `-m` mounts at `/`, or the only one.
fn system(guest: &GuestArgs) -> guestctl::Result<(Guestfs, String)> {
    let g = guest.images.launch()?;
    let roots = g.inspect_os()?;
    let mounted = guest.mount.iter().find_map(|mount| match mount.split_once(':') {
        Some((device, "/")) => Some(device),
        Some(_) => None,
        None => Some(mount.as_str()),
    });
    let root = match (mounted, &roots[..]) {
        (Some(device), _) => roots.iter().find(|root| *root == device).cloned().ok_or_else(|| {
            Error::invalid(format!("{device} is not the root of an operating system"))
                .with_hint(format!("there are: {}", roots.join(", ")))
        }),
        (None, [root]) => Ok(root.clone()),
        (None, []) => Err(Error::invalid("there is no operating system on the disk")),
        (None, roots) => {
            Err(Error::invalid(format!("there are {} operating systems: {}", roots.len(), roots.join(", ")))
                .with_hint("choose one with -m DEV"))
        }
    };
    let root = root.map_err(|error| error.in_image(guest.image().display()))?;
    Ok((g, root))
}

fn text(differences: &Differences) -> std::io::Result<()> {
    let mut out = print::stdout()?;
    for topic in Topic::ALL {
        let found = differences.of(topic);
        if found.is_empty() {
            continue;
        }
        writeln!(out, "{}", topic.name().replace('_', " "))?;
        for difference in found {
            writeln!(out, "  {}", line(difference))?;
        }
    }
    out.flush()
}

/// `+ name field value …`, `~ name: field old -> new, …`
fn line(difference: &Difference) -> String {
    let Difference { name, change, fields } = difference;
    let name = escape(name.as_bytes());
    let shown = |value: &Option<String>| match value.as_deref() {
        None => "none".to_owned(),
        Some("") => "''".to_owned(),
        Some(value) => escape(value.as_bytes()),
    };
    let sign = match change {
        DifferenceKind::Added => "+",
        DifferenceKind::Removed => "-",
        DifferenceKind::Changed => "~",
        DifferenceKind::Upgraded => "upgraded",
        DifferenceKind::Downgraded => "downgraded",
    };
    let told = fields.iter().map(|(field, change)| {
        let field = if *field == "value" { String::new() } else { format!("{field} ") };
        match difference.change {
            DifferenceKind::Added => format!("{field}{}", shown(&change.new)),
            DifferenceKind::Removed => format!("{field}{}", shown(&change.old)),
            _ => format!("{field}{} -> {}", shown(&change.old), shown(&change.new)),
        }
    });
    let told = told.collect::<Vec<_>>().join(", ");
    if told.is_empty() { format!("{sign} {name}") } else { format!("{sign} {name}: {told}") }
}
