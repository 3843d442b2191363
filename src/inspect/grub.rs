//! GRUB's menu: the entries of grub.cfg (GRUB 2) and menu.lst (GRUB legacy), and which one boots.
//!
//! grub.cfg is a script; it is not run. Of it are read: `menuentry` and `submenu` blocks with title and `--id` (or
//! `$menuentry_id_option`), in them the first `linux*` and `initrd*` command, `set default=` with a fixed value, and
//! whether the entries come from `blscfg`. Of grubenv: `saved_entry`, `kernelopts`.

/// One entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MenuEntry {
    /// Its number; in a submenu after the submenu's: `1>0`.
    pub(super) index: String,
    pub(super) title: String,
    pub(super) id: Option<String>,
    pub(super) linux: Option<String>,
    pub(super) initrd: Option<String>,
    pub(super) options: String,
}

/// What grub.cfg says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) entries: Vec<MenuEntry>,
    /// A number, an identifier, a title, or several of them joined by `>`.
    pub(super) default: Option<String>,
    pub(super) blscfg: bool,
}

impl Config {
    /// The entry that `wanted`, else `default`, names; else the first that boots Linux.
    pub(super) fn default_entry(&self, wanted: Option<&str>) -> Option<&MenuEntry> {
        let named = |name: &str| {
            let last = name.rsplit('>').next().unwrap_or(name);
            let by_index = self.entries.iter().find(|entry| entry.index == name);
            by_index
                .or_else(|| self.entries.iter().find(|entry| entry.id.as_deref() == Some(last) || entry.title == last))
        };
        let chosen = wanted.and_then(named).or_else(|| self.default.as_deref().and_then(named));
        chosen.filter(|entry| entry.linux.is_some()).or_else(|| self.entries.iter().find(|entry| entry.linux.is_some()))
    }
}

/// Entries kept of one file. Ours; real menus have some dozens.
const ENTRIES: usize = 1_024;

/// Blocks in one another; a file with more is not a menu. Ours; GRUB's own generator stays below four.
const DEPTH: usize = 16;

enum Block {
    Menuentry,
    /// The submenu's index and the number of entries in it so far.
    Submenu(String, usize),
    Other,
}

/// Reads a grub.cfg.
pub(super) fn parse(text: &str) -> Config {
    let mut config = Config::default();
    let mut blocks: Vec<Block> = Vec::new();
    let mut at_top = 0usize;
    for line in text.lines().map(str::trim) {
        if line == "}" {
            blocks.pop();
            continue;
        }
        if blocks.len() > DEPTH {
            break;
        }
        let command = line.split_ascii_whitespace().next().unwrap_or_default();
        let in_entry = blocks.iter().any(|block| matches!(block, Block::Menuentry));
        match command {
            "menuentry" | "submenu" if config.entries.len() < ENTRIES => {
                let index = next_index(&mut blocks, &mut at_top);
                if command == "menuentry" {
                    config.entries.push(menu_entry(line, index.clone()));
                }
                if line.ends_with('{') {
                    blocks.push(if command == "submenu" { Block::Submenu(index, 0) } else { Block::Menuentry });
                }
                continue;
            }
            "blscfg" => config.blscfg = true,
            "set" if config.default.is_none() && !in_entry => config.default = fixed_default(line),
            "linux" | "linux16" | "linuxefi" | "initrd" | "initrd16" | "initrdefi" if in_entry => {
                if let Some(entry) = config.entries.last_mut() {
                    boot_command(entry, command, line);
                }
            }
            _ => {}
        }
        if line.ends_with('{') {
            blocks.push(Block::Other);
        }
    }
    config
}

fn next_index(blocks: &mut [Block], at_top: &mut usize) -> String {
    let submenu = blocks.iter_mut().rev().find_map(|block| match block {
        Block::Submenu(index, count) => Some((index, count)),
        _ => None,
    });
    match submenu {
        Some((index, count)) => {
            let number = *count;
            *count = count.saturating_add(1);
            format!("{index}>{number}")
        }
        None => {
            let number = *at_top;
            *at_top = at_top.saturating_add(1);
            number.to_string()
        }
    }
}

fn menu_entry(line: &str, index: String) -> MenuEntry {
    let words = words(line);
    let id = words.windows(2).find_map(|pair| match pair {
        [flag, id] if flag == "--id" || flag.ends_with("menuentry_id_option") => Some(id.clone()),
        _ => None,
    });
    MenuEntry { index, title: words.get(1).cloned().unwrap_or_default(), id, ..MenuEntry::default() }
}

fn boot_command(entry: &mut MenuEntry, command: &str, line: &str) {
    let words = words(line);
    let Some(path) = words.get(1).cloned() else { return };
    if command.starts_with("linux") && entry.linux.is_none() {
        entry.linux = Some(without_device(path));
        entry.options = words.get(2..).unwrap_or_default().join(" ");
    } else if command.starts_with("initrd") && entry.initrd.is_none() {
        entry.initrd = Some(without_device(path));
    }
}

/// `(hd0,gpt2)/vmlinuz` or `($root)/vmlinuz` without the device.
fn without_device(path: String) -> String {
    match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path.to_owned(),
        None => path,
    }
}

/// The value of `set default=…`, unless it is a variable's.
fn fixed_default(line: &str) -> Option<String> {
    let value = line.strip_prefix("set")?.trim_start().strip_prefix("default=")?;
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty() && !value.contains('$')).then(|| value.to_owned())
}

/// The words of a command, quotes removed, up to an opening brace.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Reads a menu.lst or grub.conf of GRUB legacy: `title`, `kernel`, `initrd`, `default`.
pub(super) fn parse_legacy(text: &str) -> Config {
    let mut config = Config::default();
    for line in text.lines().map(str::trim) {
        let (key, value) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        let value = value.trim();
        let count = config.entries.len();
        match (key, config.entries.last_mut()) {
            ("default", None) => config.default = Some(value.to_owned()),
            ("title", _) if count < ENTRIES => {
                let index = count.to_string();
                config.entries.push(MenuEntry { index, title: value.to_owned(), ..MenuEntry::default() });
            }
            ("kernel", Some(entry)) => boot_command(entry, "linux", line),
            ("initrd", Some(entry)) => boot_command(entry, "initrd", line),
            _ => {}
        }
    }
    config
}

/// Reads a syslinux or extlinux configuration: `DEFAULT`, `LABEL`, `LINUX` or `KERNEL`, `INITRD`, `APPEND`.
pub(super) fn parse_syslinux(text: &str) -> Config {
    let mut config = Config::default();
    for line in text.lines().map(str::trim) {
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim();
        let count = config.entries.len();
        match (key.to_ascii_lowercase().as_str(), config.entries.last_mut()) {
            ("default", None) => config.default = Some(value.to_owned()),
            ("label", _) if count < ENTRIES => {
                let index = count.to_string();
                config.entries.push(MenuEntry { index, title: value.to_owned(), ..MenuEntry::default() });
            }
            ("linux" | "kernel", Some(entry)) => entry.linux = Some(value.to_owned()),
            ("initrd", Some(entry)) => entry.initrd = value.split(',').next().map(str::to_owned),
            ("append", Some(entry)) => value.clone_into(&mut entry.options),
            _ => {}
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = r#"
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
else
   set default="0"
fi
function load_video {
  insmod all_video
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1' {
	load_video
	linux	/boot/vmlinuz-6.1.0-18-amd64 root=UUID=1 ro  quiet
	initrd	/boot/initrd.img-6.1.0-18-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-17-amd64' --id old {
		linux	($root)/vmlinuz-6.1.0-17-amd64 root=UUID=1 ro single
	}
}
menuentry "UEFI Firmware Settings" {
	fwsetup
}
"#;

    #[test]
    fn a_debian_menu_is_read_with_its_submenu() {
        let config = parse(DEBIAN);
        let indices: Vec<_> = config.entries.iter().map(|entry| entry.index.as_str()).collect();
        assert_eq!(indices, ["0", "1>0", "2"]);
        assert_eq!(config.default.as_deref(), Some("0"));
        let first = config.default_entry(None).unwrap();
        assert_eq!(first.linux.as_deref(), Some("/boot/vmlinuz-6.1.0-18-amd64"));
        assert_eq!(first.initrd.as_deref(), Some("/boot/initrd.img-6.1.0-18-amd64"));
        assert_eq!((first.options.as_str(), first.id.as_deref()), ("root=UUID=1 ro quiet", Some("gnulinux-simple-1")));
        let saved = config.default_entry(Some("gnulinux-advanced-1>old")).unwrap();
        assert_eq!(saved.linux.as_deref(), Some("/vmlinuz-6.1.0-17-amd64"));
        assert_eq!(config.default_entry(Some("2")).unwrap().index, "0");
    }

    #[test]
    fn older_loaders_are_read() {
        let legacy = parse_legacy("default=1\ntitle A\n kernel /a ro\ntitle B\n kernel (hd0,0)/b ro\n initrd /i\n");
        let entry = legacy.default_entry(None).unwrap();
        assert_eq!((entry.linux.as_deref(), entry.initrd.as_deref()), (Some("/b"), Some("/i")));
        let text = "DEFAULT virt\nLABEL lts\n  LINUX vmlinuz-lts\nLABEL virt\n  LINUX vmlinuz-virt\n  INITRD i,j\n  APPEND ro\n";
        let entry = parse_syslinux(text);
        let entry = entry.default_entry(None).unwrap();
        assert_eq!((entry.linux.as_deref(), entry.options.as_str()), (Some("vmlinuz-virt"), "ro"));
        assert_eq!(entry.initrd.as_deref(), Some("i"));
    }

    #[test]
    fn unbalanced_braces_and_endless_menus_are_harmless() {
        assert_eq!(parse("}\n}\nmenuentry x {\n").entries.len(), 1);
        assert_eq!(parse(&"menuentry x {\n}\n".repeat(5_000)).entries.len(), ENTRIES);
        assert_eq!(parse(&"submenu x {\nmenuentry y {\n}\n".repeat(5_000)).entries.len(), DEPTH);
    }
}
