//! One system taken apart into items.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Fields, Topic};
use crate::error::Result;
use crate::inspect::budget::Budget;
use crate::inspect::packages::PackageList;
use crate::inspect::reader::{Notes, Reader, Sourced};
use crate::inspect::ssh::PublicKey;
use crate::inspect::{OperatingSystem, Password, authorized_keys, cloud_init, fstab, packages, ssh, sysctl, users};

/// A system's items by topic and name.
pub(super) struct Items {
    topics: BTreeMap<Topic, BTreeMap<String, Fields>>,
    /// How many items of one name there were, of those with more than one.
    repeated: HashMap<(Topic, String), u32>,
    pub(super) packages: Vec<PackageList>,
    /// The password fields of shadow, which are compared and never shown.
    secrets: HashMap<String, String>,
    pub(super) notes: Vec<String>,
}

impl Items {
    pub(super) fn take(&mut self, topic: Topic) -> BTreeMap<String, Fields> {
        self.topics.remove(&topic).unwrap_or_default()
    }

    /// Adds an item; a second one of the same name is told apart by a number.
    fn add<const N: usize>(&mut self, about: Topic, name: &str, fields: [(&'static str, Option<String>); N]) {
        let topic = self.topics.entry(about).or_default();
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if !topic.contains_key(name) {
            topic.insert(name.to_owned(), fields);
            return;
        }
        let count = self.repeated.entry((about, name.to_owned())).or_insert(1);
        *count = count.saturating_add(1);
        topic.insert(format!("{name} ({count})"), fields);
    }
}

/// Everything but packages as items, and the packages.
pub(super) fn of(system: &OperatingSystem) -> Result<Items> {
    let budget = Budget::new();
    let notes = Notes::new(&budget);
    let reader = Reader::new(notes.guest(&system.mounts), &notes)?;
    let mut items = Items {
        topics: BTreeMap::new(),
        repeated: HashMap::new(),
        packages: packages(&system.guest())?,
        secrets: users::password_fields(&reader)?,
        notes: Vec::new(),
    };
    facts(&mut items, system);
    boot(&mut items, system);
    people(&mut items, system);
    keys(&mut items, system, &reader)?;
    cloud(&mut items, system, &reader)?;
    mounts(&mut items, &reader)?;
    for (name, setting) in sysctl::settings(&reader)? {
        items.add(Topic::Sysctl, &name, [("value", Some(setting.value)), ("source", Some(setting.source))]);
    }
    for file in &system.network_files {
        let kind = serde_json::to_value(file.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
        let digest = digest(&reader, &file.path)?;
        items.add(Topic::Network, &file.path, [("kind", kind), ("sha256", digest)]);
    }
    let lists = items.packages.iter().flat_map(|list| list.notes.iter().map(|note| format!("{}: {note}", list.source)));
    let noted: Vec<String> = system.notes.iter().cloned().chain(lists).collect();
    items.notes = noted.into_iter().chain(notes.into_inner()).collect();
    items.notes.dedup();
    Ok(items)
}

fn digest(reader: &Reader<'_>, path: &str) -> Result<Option<String>> {
    Ok(reader.bytes(path)?.map(|bytes| ssh::sha256_hex(&bytes)))
}

fn facts(items: &mut Items, system: &OperatingSystem) {
    let text = |sourced: &Option<Sourced<String>>| sourced.as_ref().map(|sourced| sourced.value.clone());
    let word = |value: Option<serde_json::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
    for (name, value) in [
        ("distribution", text(&system.distro)),
        ("product", text(&system.product_name)),
        ("variant", text(&system.product_variant)),
        ("version", system.version.as_ref().map(|version| version.value.text.clone())),
        ("build_id", text(&system.build_id)),
        ("arch", text(&system.arch)),
        ("hostname", text(&system.hostname)),
        ("timezone", text(&system.timezone)),
        ("locale", text(&system.locale)),
        ("keymap", text(&system.keymap)),
        ("selinux", text(&system.selinux)),
        ("init_system", word(system.init_system.as_ref().and_then(|init| serde_json::to_value(init.value).ok()))),
        ("machine_id", word(serde_json::to_value(system.machine_id.value).ok())),
        ("package_format", system.package_format.clone()),
    ] {
        if value.is_some() {
            items.add(Topic::System, name, [("value", value)]);
        }
    }
}

fn boot(items: &mut Items, system: &OperatingSystem) {
    for kernel in &system.kernels {
        let fields = [
            ("path", Some(kernel.path.clone())),
            ("initrd", kernel.initrd.clone()),
            ("modules", kernel.modules.clone()),
            ("default", Some(kernel.default.to_string())),
        ];
        items.add(Topic::Kernels, &kernel.version, fields);
    }
    let line = system.kernel_command_line.as_ref().map_or("", |line| line.value.as_str());
    for argument in line.split_ascii_whitespace() {
        let (name, value) = argument.split_once('=').map_or((argument, None), |(name, value)| (name, Some(value)));
        items.add(Topic::KernelArguments, name, [("value", value.map(str::to_owned))]);
    }
    for loader in &system.bootloaders {
        let kind = serde_json::to_value(loader.kind).ok().and_then(|kind| kind.as_str().map(str::to_owned));
        items.add(Topic::BootLoaders, &loader.config, [("kind", kind)]);
    }
    for service in &system.services {
        let state = serde_json::to_value(service.state).ok().and_then(|state| state.as_str().map(str::to_owned));
        let wanted_by = sorted(&service.wanted_by);
        items.add(Topic::Services, &service.name, [("state", state), ("wanted_by", wanted_by)]);
    }
}

fn people(items: &mut Items, system: &OperatingSystem) {
    for user in system.users.iter().flat_map(|users| &users.value) {
        let password = serde_json::to_value(user.password).ok().and_then(|set| set.as_str().map(str::to_owned));
        let fields = [
            ("uid", Some(user.uid.to_string())),
            ("gid", Some(user.gid.to_string())),
            ("gecos", Some(user.gecos.clone())),
            ("home", Some(user.home.clone())),
            ("shell", Some(user.shell.clone())),
            ("password", password),
        ];
        items.add(Topic::Users, &user.name, fields);
        if user.password != Password::Set {
            items.secrets.remove(&user.name);
        }
    }
    for group in system.groups.iter().flat_map(|groups| &groups.value) {
        let members = sorted(&group.members);
        items.add(Topic::Groups, &group.name, [("gid", Some(group.gid.to_string())), ("members", members)]);
    }
}

/// Says of users whose passwords are set on both sides that the new one is another.
pub(super) fn tell_passwords_apart(old: &Items, new: &mut Items) {
    let Items { topics, secrets, .. } = new;
    let Some(users) = topics.get_mut(&Topic::Users) else { return };
    for (name, secret) in secrets.iter() {
        let is_another = old.secrets.get(name).is_some_and(|old| old != secret);
        if is_another && let Some(password) = users.get_mut(name).and_then(|user| user.get_mut("password")) {
            password.push_str(" to another");
        }
    }
}

fn keys(items: &mut Items, system: &OperatingSystem, reader: &Reader<'_>) -> Result<()> {
    for key in &system.ssh_host_keys {
        let text = reader.text(&key.source)?.map(|text| text.value).unwrap_or_default();
        let found = ssh::public_keys(&text).into_iter().next();
        let fingerprint = found.map(|key| key.fingerprint);
        items.add(
            Topic::SshHostKeys,
            &key.key_type,
            [("fingerprint", fingerprint), ("source", Some(key.source.clone()))],
        );
    }
    let users = system.users.as_ref().map_or(&[][..], |users| &users.value);
    for key in authorized_keys::authorized_keys(reader, users)? {
        let PublicKey { key_type, fingerprint, options, comment } = key.key;
        let fields =
            [("type", Some(key_type)), ("options", options), ("comment", comment), ("source", Some(key.source))];
        items.add(Topic::AuthorizedKeys, &format!("{} {fingerprint}", key.user), fields);
    }
    Ok(())
}

fn cloud(items: &mut Items, system: &OperatingSystem, reader: &Reader<'_>) -> Result<()> {
    let Some(cloud) = &system.cloud_init else { return Ok(()) };
    let datasources = cloud.datasources.as_ref().map(|list| list.value.join(", "));
    let instance = cloud.instance_id.as_ref().map(|instance| instance.value.clone());
    for (name, value) in
        [("disabled", Some(cloud.disabled.to_string())), ("datasources", datasources), ("instance_id", instance)]
    {
        if value.is_some() {
            items.add(Topic::CloudInit, name, [("value", value)]);
        }
    }
    for path in cloud_init::files(reader)? {
        let Some(bytes) = reader.bytes(&path)? else { continue };
        items.add(Topic::CloudInit, &path, [("sha256", Some(ssh::sha256_hex(&bytes)))]);
        for key in ssh::public_keys(&String::from_utf8_lossy(&bytes)) {
            let fields = [("type", Some(key.key_type)), ("comment", key.comment), ("source", Some(path.clone()))];
            items.add(Topic::CloudInit, &format!("key {}", key.fingerprint), fields);
        }
    }
    Ok(())
}

fn mounts(items: &mut Items, reader: &Reader<'_>) -> Result<()> {
    let mut add = |entry: fstab::Entry, source: String| {
        let name = if entry.file.starts_with('/') { entry.file } else { format!("{} {}", entry.file, entry.spec) };
        let fields = [
            ("device", Some(entry.spec)),
            ("type", Some(entry.vfstype)),
            ("options", (!entry.options.is_empty()).then_some(entry.options)),
            ("source", Some(source)),
        ];
        items.add(Topic::Mounts, &name, fields);
    };
    if let Some(text) = reader.text("/etc/fstab")? {
        fstab::parse(&text.value).into_iter().for_each(|entry| add(entry, text.source.clone()));
    }
    for unit in reader.names("/etc/systemd/system")? {
        if let Some(text) = reader.text(&format!("/etc/systemd/system/{unit}"))?.filter(|_| unit.ends_with(".mount")) {
            fstab::parse_mount_unit(&text.value).into_iter().for_each(|entry| add(entry, text.source.clone()));
        }
    }
    Ok(())
}

/// Words in an order that is not the file's; `None` when there are none.
fn sorted(words: &[String]) -> Option<String> {
    let words: BTreeSet<&str> = words.iter().map(String::as_str).collect();
    (!words.is_empty()).then(|| words.into_iter().collect::<Vec<_>>().join(", "))
}
