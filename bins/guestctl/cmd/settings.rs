//! `guestctl settings`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;
use crate::settings::Shown;

/// Print each setting, and whether it comes from an option, the environment, the settings file or nowhere.
///
/// The settings file is the one that $GUESTCTL_CONFIG names, else $XDG_CONFIG_HOME/guestctl/config.toml (or
/// ~/.config/guestctl/config.toml), else /etc/guestctl/config.toml. Its keys: jobs; [cache] dir, enabled, verify, max_size,
/// days; [restore] strategy, copy_patterns; [ttl] normal, short. The environment has GUESTCTL_CACHE_DIR, and GUESTCTL_JOBS
/// before RAYON_NUM_THREADS. Options win over the environment, and that over the file.
#[derive(Debug, Args)]
pub struct Settings {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    file: Option<&'a PathBuf>,
    settings: Vec<Shown>,
}

impl Settings {
    pub fn run(self, context: &Context) -> Outcome {
        let report = Report { file: context.settings.file.as_ref(), settings: context.settings.shown() };
        if self.json {
            return Ok(print::json(&report)?);
        }
        let cells = |shown: &Shown| {
            let value = match &shown.value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => format!("{other}{}", shown.unit.map(|unit| format!(" {unit}")).unwrap_or_default()),
            };
            let origin = match (shown.origin, shown.variable, report.file) {
                (_, Some(variable), _) => variable.to_owned(),
                ("file", _, Some(file)) => file.display().to_string(),
                (origin, ..) => origin.to_owned(),
            };
            vec![shown.name.to_owned(), value, origin]
        };
        let rows: Vec<_> = report.settings.iter().map(cells).collect();
        Ok(print::table(&["SETTING", "VALUE", "FROM"], &[false; 3], &rows)?)
    }
}
