//! `guestctl cache prewarm`

use std::path::PathBuf;

use clap::Args;
use guestctl::Error;
use serde::Serialize;

use super::add::Add;
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::print;

/// Add the guests of several images, so that later uses find them. One that fails does not stop the others.
#[derive(Debug, Args)]
pub struct Prewarm {
    /// The images.
    #[arg(value_name = "IMAGE", required_unless_present = "list")]
    images: Vec<PathBuf>,
    /// A file with an image in each line.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    image: String,
    tree: Option<String>,
    hit: bool,
    bytes: u64,
    error: Option<String>,
}

impl Prewarm {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open_or_init()?;
        let mut images = self.images.clone();
        if let Some(list) = &self.list {
            let text = std::fs::read_to_string(list).map_err(|error| Error::io("read", list.display(), error))?;
            images.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from));
        }
        let mut rows = Vec::new();
        for image in images {
            let added = Add::of_image(image.as_os_str()).and_then(|add| add.added(&store, context));
            let image = image.display().to_string();
            rows.push(match added {
                Ok(added) => Row {
                    image,
                    tree: Some(added.imported.tree.to_string()),
                    hit: added.hit,
                    bytes: added.imported.report.new_bytes,
                    error: added.problems.listed.first().map(ToString::to_string),
                },
                Err(error) => Row { image, tree: None, hit: false, bytes: 0, error: Some(error.to_string()) },
            });
        }
        if self.json {
            print::json(&rows)?;
        } else {
            let cells = |row: &Row| {
                let state = match (&row.error, row.hit) {
                    (Some(error), _) => error.clone(),
                    (None, true) => "known".to_owned(),
                    (None, false) => "added".to_owned(),
                };
                let tree = row.tree.as_ref().and_then(|tree| tree.get(..12)).unwrap_or_default().to_owned();
                vec![row.image.clone(), tree, print::human(row.bytes), state]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            print::table(&["IMAGE", "TREE", "NEW", ""], &[false, false, true, false], &rows)?;
        }
        if rows.iter().any(|row| row.error.is_some()) { Err(Failure::Answer(3)) } else { Ok(()) }
    }
}
