//! `guestctl inspect` in all its forms, and the schema of its JSON.

use quick_xml::events::Event;
use serde_json::{Value, json};

use super::*;

/// Text, XML and YAML of one image agree with its JSON, and the JSON with its schema.
#[track_caller]
fn forms_agree(inputs: &Inputs, image: &str) -> Value {
    let report = inputs.run(&format!("inspect --json {image}")).json();
    let yaml = inputs.run(&format!("inspect --yaml {image}")).text();
    assert_eq!(serde_norway::from_str::<Value>(&yaml).unwrap(), report, "YAML of {image}");
    let xml = inputs.run(&format!("inspect --xml {image}")).text();
    assert_eq!(parse(&xml), expected_xml(&report), "XML of {image}");
    if have("xmllint") {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &xml).unwrap();
        shell(Path::new("/"), &format!("xmllint --noout '{}'", file.path().display()));
    }
    validate(&report);
    let short = inputs.run(&format!("inspect --json --no-applications {image}")).json();
    validate(&short);
    assert!(short["operating_systems"].as_array().unwrap().iter().all(|system| system.get("packages").is_none()));
    assert_eq!(parse(&inputs.run(&format!("inspect --xml --no-applications {image}")).text()), expected_xml(&short));
    report
}

fn schema() -> Value {
    guestctl(["schema"]).json()
}

#[track_caller]
fn validate(report: &Value) {
    let schema = jsonschema::draft202012::new(&schema()).unwrap();
    let errors: Vec<_> =
        schema.iter_errors(report).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn demo_is_told_to_people() {
    let demo = Inputs::demo();
    let image = demo.path("demo.qcow2").display().to_string();
    let text = demo.run("inspect @demo.qcow2").text().replace(&image, "demo.qcow2");
    assert_eq!(text, include_str!("demo.txt"));
    let short = demo.run("inspect --no-applications @demo.qcow2").text().replace(&image, "demo.qcow2");
    assert_eq!(
        short,
        text.lines().filter(|line| !line.starts_with("  packages")).map(|line| format!("{line}\n")).collect::<String>()
    );
}

#[test]
fn demo_is_told_alike_in_all_forms() {
    let demo = Inputs::demo();
    let report = forms_agree(&demo, "@demo.qcow2");
    let system = &report["operating_systems"][0];
    assert_eq!(
        report["drives"],
        json!([{"path": demo.path("demo.qcow2"), "format": "qcow2", "format_probed": true, "virtual_size_bytes": 92_274_688}])
    );
    assert_eq!(system["hostname"], json!({"value": "demo", "source": "/etc/hostname"}));
    assert_eq!(system["version"]["value"], json!({"major": 12, "minor": 7, "text": "12.7"}));
    assert_eq!(system["mountpoints"], json!({"/": "/dev/sda2", "/boot/efi": "/dev/sda1"}));
    let bash = system["packages"][0]["packages"].as_array().unwrap().iter().find(|package| package["name"] == "bash");
    assert_eq!(bash.unwrap()["release"], "2+b7");
    let ssh = system["packages"][0]["packages"].as_array().unwrap().iter().find(|package| package["epoch"] == 1);
    assert_eq!(ssh.unwrap()["name"], "openssh-server");
}

/// A system with as little as there can be, one with odd characters, and none.
#[test]
fn bare_and_odd_guests_are_told_alike_in_all_forms() {
    if !have("mke2fs") {
        return;
    }
    let inputs = Inputs::new();
    inputs.shell(
        "mkdir -p tree/etc tree/bin tree/usr tree/var/lib/dpkg; cd tree
         echo 'ID=strange' > etc/os-release; mke2fs -q -F -t ext4 -d . ../bare.raw 4M
         printf 'ID=strange\\nPRETTY_NAME=\"<A> & \\033[1m b\\\\rc\"\\nBUILD_ID=x\\n' > etc/os-release
         printf 'Package: p\\nStatus: install ok installed\\nVersion: 2:1-1\\nHomepage: http://x/?a&b\\nDescription: <d>\\n \\001\\n .\\n end\\n' > var/lib/dpkg/status
         echo '/dev/sda / ext4 defaults 0 0' > etc/fstab
         mke2fs -q -F -t ext4 -L 'a<b' -d . ../odd.raw 4M; cd ..; rm -r tree; truncate -s 1M none.raw",
    );
    let bare = forms_agree(&inputs, "@bare.raw");
    assert_eq!(bare["operating_systems"][0]["hostname"], Value::Null);
    let odd = forms_agree(&inputs, "@odd.raw");
    assert_eq!(odd["operating_systems"][0]["filesystems"][0]["label"], "a<b");
    assert_eq!(forms_agree(&inputs, "@none.raw")["operating_systems"], json!([]));
}

/// What the recipes in `images/` build.
#[cfg(feature = "mkimages")]
#[test]
fn generated_guests_are_told_alike_in_all_forms() {
    let tools = ["mke2fs", "debugfs", "e2fsck", "mkfs.vfat", "mcopy", "mkswap", "qemu-img"];
    if !tools.into_iter().all(have) {
        return;
    }
    let inputs = Inputs::new();
    for name in ["mbr", "multiboot"] {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("images/{name}.toml"));
        let mut build = std::process::Command::new(env!("CARGO_BIN_EXE_mkimages"));
        let built = build.arg("--out").arg(inputs.directory.path()).arg(recipe).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let disk = String::from_utf8(built.stdout).unwrap().lines().next().unwrap().to_owned();
        let report = forms_agree(&inputs, &format!("@{}", Path::new(&disk).file_name().unwrap().to_str().unwrap()));
        let systems = report["operating_systems"].as_array().unwrap().iter().map(|system| &system["root"]);
        let expected: &[&str] = if name == "multiboot" { &["/dev/sda2", "/dev/sda4"] } else { &[] };
        assert_eq!(systems.collect::<Vec<_>>(), expected, "{name}");
    }
}

/// Real guests, in a directory that the environment names.
#[test]
fn real_guests_are_told_alike_in_all_forms() {
    let Some(directory) = std::env::var_os("GUESTCTL_GUESTS").map(PathBuf::from) else {
        super::support::skipped(format_args!("GUESTCTL_GUESTS names no directory with guests"));
        return;
    };
    for name in ["debian-ext4.qcow2", "debian-lvm.raw", "debian-mbr.raw"] {
        // Too large to be digested before and after each run.
        let image = directory.join(name);
        let run = |form: &str| guestctl(["inspect".as_ref(), form.as_ref(), image.as_os_str()]);
        let report = run("--json").json();
        validate(&report);
        assert_eq!(serde_norway::from_str::<Value>(&run("--yaml").text()).unwrap(), report);
        assert_eq!(parse(&run("--xml").text()), expected_xml(&report));
    }
}

#[test]
fn the_schema_describes_every_field_and_knows_no_others() {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    described("", &schema);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        described(name, definition);
    }
    let mut report = forms_agree(&Inputs::demo(), "@demo.qcow2");
    report["operating_systems"][0]["surprise"] = json!(1);
    assert!(!jsonschema::draft202012::new(&schema).unwrap().is_valid(&report));
}

/// Every object says what it holds and allows nothing else; everything has a description.
fn described(place: &str, schema: &Value) {
    if schema.get("$ref").is_none() && schema["type"] != "null" && !place.ends_with("[]") {
        assert!(schema["description"].as_str().is_some_and(|text| text.ends_with('.')), "{place}");
    }
    if let Some(properties) = schema["properties"].as_object() {
        assert_eq!(schema["additionalProperties"], false, "{place}");
        let required: Vec<_> =
            schema["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        for (name, property) in properties {
            assert!(required.contains(&name.as_str()) || name == "packages", "{place}.{name}");
            described(&format!("{place}.{name}"), property);
        }
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        described(place, choice);
    }
    if let Some(items) = schema.get("items") {
        described(&format!("{place}[]"), items);
    }
}

/// An element: name, attributes, text or children.
#[derive(Debug, PartialEq, Eq)]
struct Element {
    name: String,
    dev: Option<String>,
    text: String,
    children: Vec<Element>,
}

fn parse(xml: &str) -> Element {
    let mut reader = quick_xml::Reader::from_str(xml);
    let mut open = vec![Element { name: String::new(), dev: None, text: String::new(), children: Vec::new() }];
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                let name = start.name().as_ref().to_owned();
                let attributes: Vec<_> = start.attributes().map(Result::unwrap).collect();
                assert!(attributes.iter().all(|attribute| attribute.key.as_ref() == "dev"));
                let dev = attributes.first().map(|attribute| attribute.value.to_string());
                open.push(Element { name, dev, text: String::new(), children: Vec::new() });
            }
            Event::End(_) => {
                let mut element = open.pop().unwrap();
                if !element.children.is_empty() || element.text.trim().is_empty() {
                    assert_eq!(element.text.trim(), "", "text beside elements");
                    element.text.clear();
                }
                open.last_mut().unwrap().children.push(element);
            }
            Event::Text(text) => open.last_mut().unwrap().text.push_str(&text.xml10_content()),
            Event::GeneralRef(name) => {
                let text = match name.resolve_char_ref().unwrap() {
                    Some(character) => character.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&name.into_inner()).unwrap().to_owned(),
                };
                open.last_mut().unwrap().text.push_str(&text);
            }
            Event::Eof => return open.pop().unwrap().children.pop().unwrap(),
            Event::Decl(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn parent(name: &str, children: Vec<Element>) -> Element {
    Element { name: name.to_owned(), dev: None, text: String::new(), children }
}

/// An element for a value; none for null, empty text and, as an epoch, 0.
fn leaf(name: &str, value: &Value) -> Option<Element> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    // XML 1.0 has no way to write the other control characters.
    let text: String = text.chars().map(|c| if c < ' ' && !"\t\n\r".contains(c) { '\u{fffd}' } else { c }).collect();
    (!text.is_empty()).then(|| Element { text, ..parent(name, Vec::new()) })
}

/// What virt-inspector's schema has a place for, in its order.
fn expected_xml(report: &Value) -> Element {
    parent("operatingsystems", report["operating_systems"].as_array().unwrap().iter().map(system).collect())
}

fn system(system: &Value) -> Element {
    let libguestfs_knows = |name: &&Value| !["strange"].contains(&name.as_str().unwrap_or_default());
    let number = |part: &str| match &system["version"]["value"][part] {
        Value::Null => json!(0),
        number => number.clone(),
    };
    let identity = [
        ("root", system["root"].clone()),
        ("name", system["os_type"].clone()),
        ("arch", system["arch"]["value"].clone()),
        ("distro", Some(&system["distro"]["value"]).filter(libguestfs_knows).cloned().unwrap_or_default()),
        ("product_name", system["product_name"]["value"].clone()),
        ("product_variant", system["product_variant"]["value"].clone()),
        ("major_version", number("major")),
        ("minor_version", number("minor")),
        ("package_format", system["package_format"].clone()),
        ("package_management", system["package_management"].clone()),
        ("hostname", system["hostname"]["value"].clone()),
        ("build_id", system["build_id"]["value"].clone()),
        ("osinfo", if system["osinfo"] == "unknown" { Value::Null } else { system["osinfo"].clone() }),
    ];
    let mut children: Vec<_> = identity.iter().filter_map(|(name, value)| leaf(name, value)).collect();

    let mut mountpoints: Vec<_> = system["mountpoints"].as_object().unwrap().iter().collect();
    mountpoints.sort_by_key(|(path, _)| (path.len(), (*path).clone()));
    let mountpoint = |(path, device): (&String, &Value)| Element {
        dev: device.as_str().map(str::to_owned),
        ..leaf("mountpoint", &json!(path)).unwrap()
    };
    children.push(parent("mountpoints", mountpoints.into_iter().map(mountpoint).collect()));

    let mut filesystems: Vec<_> = system["filesystems"].as_array().unwrap().iter().collect();
    filesystems.sort_by_key(|filesystem| filesystem["mountable"].as_str());
    let filesystem = |filesystem: &Value| Element {
        dev: filesystem["mountable"].as_str().map(str::to_owned),
        ..parent(
            "filesystem",
            [("type", "fs_type"), ("label", "label"), ("uuid", "uuid")]
                .iter()
                .filter_map(|(name, key)| leaf(name, &filesystem[key]))
                .collect(),
        )
    };
    children.push(parent("filesystems", filesystems.into_iter().map(filesystem).collect()));

    if let Some(lists) = system.get("packages") {
        let packages = lists.as_array().unwrap().iter().flat_map(|list| list["packages"].as_array().unwrap());
        children.push(parent("applications", packages.map(application).collect()));
    }
    parent("operatingsystem", children)
}

fn application(package: &Value) -> Element {
    let fields = [
        "name",
        "display_name",
        "epoch",
        "version",
        "release",
        "arch",
        "install_path",
        "publisher",
        "url",
        "source_package",
        "summary",
        "description",
    ];
    let told = fields.iter().filter(|field| **field != "epoch" || package["epoch"] != 0);
    parent("application", told.filter_map(|field| leaf(field, &package[field])).collect())
}
