//! What a batch says of images: the same as the program on each alone, in the order of the list.

use std::process::Command;

use serde_json::{Value, json};

use crate::{Yard, commands_of, wait_until};

/// Forty images, one in ten of them hostile in a way of its own.
fn mixed() -> (Yard, Vec<String>) {
    let yard = Yard::of(40);
    let good = std::fs::read(yard.path("00.qcow2")).unwrap();
    yard.write("03.qcow2", &good[..70_000]);
    let mut loops = good.clone();
    // An L1 table where there is none.
    loops[40..48].copy_from_slice(&u64::MAX.to_be_bytes());
    yard.write("13.qcow2", loops);
    std::fs::remove_file(yard.path("23.qcow2")).unwrap();
    std::fs::remove_file(yard.path("33.qcow2")).unwrap();
    assert!(Command::new("mkfifo").arg(yard.path("33.qcow2")).status().unwrap().success());
    let names: Vec<String> = (0..40).map(|at| format!("{at:02}.qcow2")).collect();
    yard.write("list", names.join("\n"));
    (yard, names)
}

#[test]
fn hostile_images_harm_no_other() {
    let (yard, names) = mixed();
    let batch = yard.batch("--op inspect --list list -j 3 --quiet");
    assert_eq!((batch.code, batch.err.as_str()), (Some(3), ""));
    assert_eq!(batch.all("image"), names);
    assert_eq!(batch.indices(), (0..40).collect::<Vec<_>>());
    for (name, result) in names.iter().zip(&batch.results) {
        let alone = yard.program().args(["inspect", "--json", name]).output().unwrap();
        assert_eq!(result["exit_code"], json!(alone.status.code()), "{name}");
        if alone.status.success() {
            assert_eq!(result["status"], "ok");
            assert_eq!(result["output"], serde_json::from_slice::<Value>(&alone.stdout).unwrap(), "{name}");
            assert_eq!(result["bytes"], alone.stdout.len());
            continue;
        }
        let said = String::from_utf8(alone.stderr).unwrap();
        let message = said.lines().next().unwrap().strip_prefix("guestctl: error: ").unwrap();
        assert_eq!((&result["status"], &result["message"]), (&json!("failed"), &json!(message)), "{name}");
    }
    let kinds = [3, 13, 23, 33].map(|at| batch.results[at]["error_kind"].as_str().unwrap().to_owned());
    assert_eq!(kinds, ["corrupt", "corrupt", "io", "invalid-argument"]);
}

#[test]
fn output_files_are_what_the_program_prints_alone() {
    let (yard, names) = mixed();
    let batch = yard.batch("--op inspect --list list --output out -j 4 -q");
    for (name, result) in names.iter().zip(&batch.results) {
        let file = yard.path("out").join(name.replace("qcow2", "out"));
        let alone = yard.program().args(["inspect", "--json", name]).output().unwrap();
        if alone.status.success() {
            assert_eq!(std::fs::read(&file).unwrap(), alone.stdout, "{name}");
            assert_eq!(result["output_file"], format!("out/{}", file.file_name().unwrap().to_str().unwrap()));
            assert_eq!((&result["output"], &result["bytes"]), (&Value::Null, &json!(alone.stdout.len())));
        } else {
            assert_eq!((file.exists(), &result["output_file"]), (false, &Value::Null), "{name}");
        }
    }
    // Nothing else was left.
    assert_eq!(std::fs::read_dir(yard.path("out")).unwrap().count(), 36);
}

#[test]
fn the_order_does_not_depend_on_the_number_of_jobs() {
    let (yard, _) = mixed();
    let one = yard.batch("--op inspect --list list -j 1 -q").timeless();
    for more in ["-j 2", "-j 7 --io-depth 7", "-j 7 --io-depth 1", "-j 4 --memory 1 --memory-per-image 1G"] {
        assert_eq!(one, yard.batch(&format!("--op inspect --list list -q {more}")).timeless(), "{more}");
    }
}

#[test]
fn commands_killed_at_random_are_started_again_and_nothing_is_left_behind() {
    let yard = Yard::of(30);
    let lines =
        [["checksum", "-q", "{image}", "/"], ["ls", "-R", "{image}", "/etc"], ["checksum", "-q", "{image}", "/etc"]];
    yard.write("script", lines.map(|line| line.join(" ")).join("\n"));
    let alone = lines.map(|line| yard.alone(&line.map(|word| if word == "{image}" { "00.qcow2" } else { word })));
    let alone = String::from_utf8(alone.concat()).unwrap();
    let batch = yard.start("--script script *.qcow2 -j 3 -q");
    let pid = batch.pid();
    let (mut killed, mut chance) = (0, 0x9e37_79b9_u32);
    let begun = std::time::Instant::now();
    while killed < 10 && begun.elapsed().as_secs() < 20 && std::path::Path::new(&format!("/proc/{pid}")).exists() {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(std::time::Duration::from_millis(u64::from(chance >> 26)));
        let commands = commands_of(pid);
        if let Some(command) = commands.get(chance as usize % commands.len().max(1)) {
            let done = Command::new("kill").args(["-9", &command.to_string()]).output().unwrap();
            killed += usize::from(done.status.success());
        }
        if std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) {
            break;
        }
    }
    let batch = batch.end();
    assert_eq!(batch.indices(), (0..30).collect::<Vec<_>>());
    let mut attempts = 0;
    for result in &batch.results {
        attempts += result["attempts"].as_u64().unwrap() as usize;
        if result["status"] == "ok" {
            assert_eq!(result["output"], alone);
        } else {
            assert_eq!(
                (&result["status"], &result["signal"], &result["attempts"]),
                (&json!("crashed"), &json!(9), &json!(2))
            );
        }
    }
    let crashed = batch.all("status").iter().filter(|status| *status == "crashed").count();
    // Each command that was killed in time was one more attempt, or the last of an image.
    assert!(attempts - 30 + crashed <= killed, "{:?}", batch.all("attempts"));
    assert_eq!(batch.code, Some(if crashed > 0 { 3 } else { 0 }));
    wait_until("all commands to be gone", || commands_of(pid).is_empty());
}

#[test]
fn images_come_from_wildcards_lists_and_arguments() {
    let yard = Yard::new(["b.qcow2", "a.qcow2", "sub/c.qcow2", "z z.qcow2", ".hidden.qcow2"]);
    yard.write("list", "# some\n\n z z.qcow2 \nsub/c.qcow2\n");
    let images = |arguments: &str| {
        let batch = yard.batch(&format!("--op inspect -q {arguments}"));
        assert_eq!((batch.code, batch.err.as_str()), (Some(0), ""), "{arguments}");
        batch.all("image")
    };
    assert_eq!(images("*.qcow2"), ["a.qcow2", "b.qcow2", "z z.qcow2"]);
    assert_eq!(images("**/*.qcow2"), ["a.qcow2", "b.qcow2", "sub/c.qcow2", "z z.qcow2"]);
    assert_eq!(images("b.qcow2 --list list a.q*"), ["b.qcow2", "a.qcow2", "z z.qcow2", "sub/c.qcow2"]);
    let mut command = yard.program();
    command.args(["batch", "--op", "inspect", "-q", "--list", "-"]);
    command.stdin(std::fs::File::open(yard.path("list")).unwrap());
    assert_eq!(crate::Batch::of(command.output().unwrap()).all("name"), ["z_z", "c"]);
    for (arguments, said) in [
        ("--op inspect *.vmdk", "no image matches *.vmdk"),
        ("--op inspect a.qcow2 ./a.q*", "./a.qcow2 is in the list twice"),
        ("--op inspect", "there are no images"),
        ("--op inspect --list - --list -", "standard input can be read once"),
        ("--op convert a.qcow2", "--op convert needs the new format, -O FORMAT"),
        ("--op tar a.qcow2", "what is made needs a directory, --output DIR"),
        ("--op inspect -O raw a.qcow2", "-O is for --op convert"),
        ("--op inspect -j 0 a.qcow2", "there must be one job at least"),
    ] {
        let batch = yard.batch(arguments);
        let first = batch.err.lines().next().unwrap();
        assert_eq!((batch.code, first), (Some(2), format!("guestctl: error: {said}").as_str()));
        assert!(batch.results.is_empty());
    }
    assert_eq!(yard.batch("a.qcow2").code, Some(2));
}

#[test]
fn scripts_have_quotes_and_no_shell() {
    let yard = Yard::new(["a b.qcow2", "-c.qcow2"]);
    yard.write("list", "a b.qcow2\n-c.qcow2\n");
    yard.write(
        "script",
        "# two lines\nguestctl cat {image} '/etc/hostname'   # the name\ncat \"{image}\" \"/etc/\"apt/sources.list\n",
    );
    let batch = yard.batch("--script script --list list -q");
    let expected = [&yard.alone(&["cat", "a b.qcow2", "/etc/hostname", "/etc/apt/sources.list"])[..]].concat();
    assert_eq!(batch.code, Some(0), "{batch:?}");
    let expected = String::from_utf8(expected).unwrap();
    assert_eq!(batch.all("output"), [expected.clone(), expected]);
    assert_eq!(batch.all("output_encoding"), ["text", "text"]);
    // The second line fails; what the first printed stays.
    yard.write("script", "cat {image} /etc/hostname\ncat {image} '/etc/{{nope}} $(x)'\ncat {image} /etc/hostname\n");
    let batch = yard.batch("--script script --list list -q");
    let first = &batch.results[0];
    assert_eq!((batch.code, &first["line"], &first["output"]), (Some(3), &json!(2), &json!("demo\n")));
    assert_eq!((&first["error_kind"], &first["exit_code"]), (&json!("path"), &json!(9)));
    assert_eq!(first["message"], "a b.qcow2: /etc/{nope} $(x): no such file or directory in the guest");
    for (script, said) in [
        ("cat {image} /x > y", "line 1 of the script: '>' has no meaning here"),
        ("cat {image} 'x", "line 1 of the script: a single quote is not closed"),
        ("cat {imige}", "there is no {imige}: {image}, {name} and {out} are known"),
        ("cat /etc/hostname", "no command line names the image"),
        ("tar-out {image} / {out}/x", "{out} is used, and there is no output directory"),
        ("rm -rf {image}", "the script's command \"rm\" is none of guestctl's"),
        ("guestctl batch --op inspect {image}", "a batch in a batch has no end"),
        ("# nothing", "there is nothing to do for the images"),
    ] {
        yard.write("script", script);
        let batch = yard.batch("--script script --list list");
        let first = batch.err.lines().next().unwrap();
        assert_eq!((batch.code, first), (Some(2), format!("guestctl: error: {said}").as_str()));
    }
}

#[test]
fn the_summary_counts() {
    let (yard, _) = mixed();
    let batch = yard.batch("--op inspect --list list --summary - -j 2");
    let summary = &batch.results[40]["summary"];
    assert_eq!(
        (&summary["images"], &summary["not_started"], &summary["stopped"]),
        (&json!(40), &json!(0), &json!(false))
    );
    let by_status = json!({"ok": 36, "failed": 4, "timeout": 0, "crashed": 0, "refused": 0, "cancelled": 0});
    assert_eq!(summary["by_status"], by_status);
    assert_eq!(summary["by_error_kind"], json!({"corrupt": 2, "io": 1, "invalid-argument": 1}));
    assert!(summary["images_per_second"].as_f64().unwrap() > 0.0);
    let last = batch.err.lines().last().unwrap();
    assert!(last.starts_with("batch: 40 images in ") && last.ends_with("/s: 36 ok, 4 failed"), "{last}");
    yard.batch("--op inspect 00.qcow2 --summary summary.json -q");
    let summary: Value = serde_json::from_slice(&std::fs::read(yard.path("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["by_status"]["ok"], 1);
}
