//! What holds for every subcommand: options, the environment, the settings file.

use super::program::{Ran, guestctl, program};
use super::support::shell;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn config(&self, text: &str) -> &Self {
        std::fs::write(self.path("config.toml"), text).unwrap();
        self
    }

    /// Runs a command line, split at blanks, with the settings file and these variables.
    fn run(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = program();
        command.env_remove("RAYON_NUM_THREADS").env("GUESTCTL_CONFIG", self.path("config.toml"));
        let output = command.envs(variables.iter().copied()).args(line.split(' ')).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code().unwrap(), out: output.stdout, err }
    }

    /// Value and origin of a setting.
    fn setting(&self, name: &str, options: &str, variables: &[(&str, &str)]) -> (String, String) {
        let report = self.run(&format!("{options}settings --json"), variables).json();
        let rows = report["settings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name).unwrap();
        let value = row["value"].as_str().map_or_else(|| row["value"].to_string(), str::to_owned);
        let origin = row["variable"].as_str().or(row["origin"].as_str()).unwrap();
        (value, origin.to_owned())
    }
}

fn pair(value: &str, origin: &str) -> (String, String) {
    (value.to_owned(), origin.to_owned())
}

#[test]
fn options_win_over_the_environment_and_that_over_the_file() {
    let place = Place::new();
    place.config("");
    let cache_home = [("XDG_CACHE_HOME", "/home/of/caches")];
    assert_eq!(place.setting("cache.dir", "", &cache_home), pair("/home/of/caches/guestctl", "default"));
    let processors = std::thread::available_parallelism().unwrap().to_string();
    assert_eq!(place.setting("jobs", "", &[]), pair(&processors, "default"));
    assert_eq!(place.setting("cache.enabled", "", &[]), pair("true", "default"));
    assert_eq!(place.setting("ttl.short", "", &[]), pair("86400", "default"));
    place.config("jobs = 5\n[cache]\ndir = '/from/file'\nverify = 'always'\nmax_size = '2k'\n[ttl]\nnormal = '2d'\n");
    assert_eq!(place.setting("cache.dir", "", &[]), pair("/from/file", "file"));
    assert_eq!(place.setting("cache.max_size", "", &[]), pair("2048", "file"));
    assert_eq!(place.setting("ttl.normal", "", &[]), pair("172800", "file"));
    let variables = [("GUESTCTL_CACHE_DIR", "/from/variable"), ("RAYON_NUM_THREADS", "6")];
    assert_eq!(place.setting("cache.dir", "", &variables), pair("/from/variable", "GUESTCTL_CACHE_DIR"));
    assert_eq!(place.setting("cache.dir", "", &[("GUESTCTL_CACHE_DIR", "")]), pair("/from/file", "file"));
    assert_eq!(place.setting("cache.dir", "--cache-dir /flag ", &variables), pair("/flag", "flag"));
    assert_eq!(place.setting("cache.dir", "--cache-dir=/flag -v ", &variables), pair("/flag", "flag"));
    assert_eq!(place.setting("jobs", "", &[]), pair("5", "file"));
    assert_eq!(place.setting("jobs", "", &variables), pair("6", "RAYON_NUM_THREADS"));
    let both = [("GUESTCTL_JOBS", "7"), ("RAYON_NUM_THREADS", "6")];
    assert_eq!(place.setting("jobs", "", &both), pair("7", "GUESTCTL_JOBS"));
    assert_eq!(place.setting("cache.verify", "", &[]), pair("always", "file"));
    assert_eq!(place.setting("cache.verify", "--verify-level first-use ", &[]), pair("first-use", "flag"));
    assert_eq!(place.setting("cache.enabled", "--no-cache ", &[]), pair("false", "flag"));
    let text = place.run("settings", &variables).text();
    assert!(text.contains("cache.dir              /from/variable  GUESTCTL_CACHE_DIR\n"), "{text}");
    assert!(
        text.contains(&format!("cache.max_size         2048 bytes      {}\n", place.path("config.toml"))),
        "{text}"
    );
}

#[test]
fn the_file_is_looked_for_where_such_files_are() {
    let place = Place::new();
    shell(
        place.dir.path(),
        "mkdir -p xdg/guestctl home/.config/guestctl
         echo 'jobs = 11' > xdg/guestctl/config.toml; echo 'jobs = 12' > home/.config/guestctl/config.toml",
    );
    let (xdg, home) = (place.path("xdg"), place.path("home"));
    let file = |variables: &[(&str, &str)]| {
        let mut command = program();
        command.env_remove("GUESTCTL_CONFIG").env_remove("XDG_CONFIG_HOME").env_remove("RAYON_NUM_THREADS");
        let output = command.envs(variables.iter().copied()).args(["settings", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["file"].as_str().map(str::to_owned)
    };
    assert_eq!(file(&[("XDG_CONFIG_HOME", &xdg), ("HOME", &home)]), Some(format!("{xdg}/guestctl/config.toml")));
    assert_eq!(file(&[("HOME", &home)]), Some(format!("{home}/.config/guestctl/config.toml")));
    if !std::path::Path::new("/etc/guestctl/config.toml").exists() {
        assert_eq!(file(&[("HOME", &xdg)]), None);
    }
}

#[test]
fn mistakes_in_settings_are_usage_errors_that_say_where() {
    let place = Place::new();
    let path = place.path("config.toml");
    let hint = "hint: guestctl settings --help lists the keys\n";
    place.config("[cache]\nmax-size = '1G'\n").run("settings", &[]).fails(
        2,
        &format!(
            "guestctl: error: the settings file {path}, line 2: cache.max-size: unknown field `max-size`, expected one of \
             `dir`, `enabled`, `verify`, `max_size`, `days`\n{hint}"
        ),
    );
    place.config("[cache]\ndir = 'here'\n").run("version", &[]).fails(
        2,
        &format!("guestctl: error: the settings file {path}, line 2: cache.dir: here is no absolute path\n{hint}"),
    );
    std::fs::remove_file(&path).unwrap();
    place.run("settings", &[]).fails(
        2,
        &format!(
            "guestctl: error: cannot read the settings file {path}: No such file or directory (os error 2)\n\
             hint: guestctl looks for the file that GUESTCTL_CONFIG names first\n"
        ),
    );
    place
        .config("")
        .run("settings", &[("GUESTCTL_JOBS", "0")])
        .fails(2, "guestctl: error: GUESTCTL_JOBS is '0', expected a number of threads above 0\n");
}

#[test]
fn options_for_all_stand_before_and_behind_the_subcommand() {
    let place = Place::new();
    let store = place.path("store");
    guestctl(["cache", "--cache-dir", &store, "init"]).text();
    for line in [
        format!("--cache-dir {store} cache ls"),
        format!("cache --cache-dir {store} ls"),
        format!("cache ls --cache-dir {store}"),
        format!("-v --cache-dir={store} cache ls"),
    ] {
        let ran = guestctl(line.split(' '));
        assert_eq!((ran.code, ran.out.starts_with(b"NAME")), (0, true), "{line}: {}", ran.err);
    }
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    // find(1)'s tests with one hyphen are known behind such options, too.
    let found = guestctl(["--no-cache", "find", demo, "/etc", "-name", "hostname"]).text();
    assert_eq!(found, "hostname\n");
    let ran = guestctl(["--no-cache", "cache", "--cache-dir", &store, "ls"]);
    ran.fails(2, "guestctl: error: --no-cache leaves the cache alone, and this command is about it\n");
    let help = guestctl(["--no-cache", "--help"]).text();
    assert!(help.contains("  inspect ") && help.contains("  settings "), "{help}");
    assert_eq!(guestctl(["--cache-dir"]).code, 2);
}

#[test]
fn what_a_batch_starts_has_its_options() {
    let place = Place::new();
    std::fs::write(place.path("script"), "stat {image} /etc/hostname\nsettings --json\n").unwrap();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    let line = format!("--no-cache --cache-dir /flag batch -q --script {} {demo}", place.path("script"));
    // Threads are dealt out among the images, whatever the user has for all of them.
    let result = place.config("").run(&line, &[("GUESTCTL_JOBS", "1000")]).json();
    let output = result["output"].as_str().unwrap();
    let at = output.find("\n{").unwrap();
    let report: serde_json::Value = serde_json::from_str(&output[at..]).unwrap();
    let row =
        |name: &str| report["settings"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap().clone();
    assert_eq!(
        (&row("cache.dir")["value"], &row("cache.dir")["origin"]),
        (&"/flag".into(), &"flag".into()),
        "{report}"
    );
    assert_eq!(
        (&row("cache.enabled")["value"], &row("jobs")["variable"]),
        (&false.into(), &"RAYON_NUM_THREADS".into())
    );
}
