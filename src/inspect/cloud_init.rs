//! cloud-init: where the guest will look for its configuration, and what it has been given already.

use serde::{Deserialize, Serialize};

use super::reader::{Reader, Sourced, first_line};
use crate::error::Result;

/// How cloud-init is set up in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInit {
    /// Its configuration file.
    pub source: String,
    /// Whether `/etc/cloud/cloud-init.disabled` turns it off.
    pub disabled: bool,
    /// `datasource_list`, from the last file that sets it; `None` when cloud-init searches them all.
    pub datasources: Option<Sourced<Vec<String>>>,
    /// Directories below `/var/lib/cloud/seed`: data sources that carry their data in the image.
    pub seeds: Vec<String>,
    /// The instance that it has configured; `None` before the first boot.
    pub instance_id: Option<Sourced<String>>,
}

const CONFIG: &str = "/etc/cloud/cloud.cfg";

/// `None` when cloud-init is not installed.
pub(super) fn cloud_init(reader: &Reader<'_>) -> Result<Option<CloudInit>> {
    let Some(config) = reader.text(CONFIG)? else { return Ok(None) };
    let source = config.source.clone();
    let mut datasources = config.filter_map(|text| datasource_list(&text));
    let names = reader.names("/etc/cloud/cloud.cfg.d")?;
    for name in names.iter().filter(|name| name.ends_with(".cfg")).take(256) {
        let text = reader.text(&format!("/etc/cloud/cloud.cfg.d/{name}"))?;
        datasources = text.and_then(|text| text.filter_map(|text| datasource_list(&text))).or(datasources);
    }
    let seeds = reader.names("/var/lib/cloud/seed")?;
    let seeds = seeds.iter().map(|name| format!("/var/lib/cloud/seed/{name}")).collect();
    let disabled = reader.is_file("/etc/cloud/cloud-init.disabled")?;
    let instance_id = reader.first(&["/var/lib/cloud/data/instance-id"], first_line)?;
    Ok(Some(CloudInit { source, disabled, datasources, seeds, instance_id }))
}

/// Configuration and seed files, in the order in which they were found.
pub(super) fn files(reader: &Reader<'_>) -> Result<Vec<String>> {
    let mut files = vec![CONFIG.to_owned()];
    let names = reader.names("/etc/cloud/cloud.cfg.d")?;
    let names = names.iter().filter(|name| name.ends_with(".cfg")).take(256);
    files.extend(names.map(|name| format!("/etc/cloud/cloud.cfg.d/{name}")));
    for seed in reader.names("/var/lib/cloud/seed")?.into_iter().take(16) {
        let directory = format!("/var/lib/cloud/seed/{seed}");
        let names = reader.names(&directory)?;
        files.extend(names.into_iter().take(64).map(|name| format!("{directory}/{name}")));
    }
    Ok(files)
}

/// The top-level key `datasource_list` of a YAML file: `[ A, B ]` on one or several lines, or a block of `- A`.
fn datasource_list(text: &str) -> Option<Vec<String>> {
    let mut lines = text.lines().map(|line| line.split(" #").next().unwrap_or(line).trim_end());
    let first = lines.find_map(|line| line.strip_prefix("datasource_list:"))?.trim();
    let word = |text: &str| text.trim_matches([' ', '\'', '"', '[', ']']).to_owned();
    let words: Vec<String> = if first.starts_with('[') {
        let rest = lines.take_while(|line| line.starts_with([' ', ']']));
        let joined = std::iter::once(first).chain(rest).collect::<Vec<_>>().join(" ");
        let inner = joined.split(']').next().unwrap_or_default();
        inner.split(',').map(word).filter(|word| !word.is_empty()).collect()
    } else if first.is_empty() {
        lines.map_while(|line| line.trim_start().strip_prefix('-')).map(word).collect()
    } else {
        return None;
    };
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_in_both_styles() {
        let list = |text| datasource_list(text).map(|list| list.join(" "));
        assert_eq!(
            list("# x\ndatasource_list: [ NoCloud, \"ConfigDrive\", None ] # c\n").unwrap(),
            "NoCloud ConfigDrive None"
        );
        assert_eq!(list("datasource_list: [NoCloud,\n  Ec2,\n]\nx: [y]\n").unwrap(), "NoCloud Ec2");
        assert_eq!(list("datasource_list:\n  - Azure\n  - None\nother: 1\n").unwrap(), "Azure None");
        assert_eq!(list("  datasource_list: [ nested ]\n"), None);
        assert_eq!(list("system_info:\n"), None);
    }
}
