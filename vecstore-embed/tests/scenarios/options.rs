//! Which inputs a run takes, and where its options come from.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use vecstore_embed::{Files, Filter, Model, Run, Shard};

use crate::command::{self, json, program, said};
use crate::common::{Place, RunOn, Stored, Strips, assert_same, contents, keys, tree, write_picture};

fn embed(run: Run) -> vecstore_embed::Summary {
    run.run_on(&Model::builtin().unwrap(), Strips::boxed()).unwrap()
}

#[test]
fn a_list_gives_the_keys_and_vectors_that_its_folder_would() {
    let place = Place::new();
    let (photos, by_list, by_folder) = (place.photos(12), place.join("list.vecs"), place.join("folder.vecs"));
    fs::write(photos.join("notes.txt"), "no picture").unwrap();
    embed(tree(&photos, &by_folder));
    let lines: String = (0..12)
        .map(|at| match at % 3 {
            0 => format!("{}/{at:03}.png\n", if at % 2 == 0 { "a" } else { "b" }),
            1 => format!("{}/{}/{at:03}.png\n", photos.display(), if at % 2 == 0 { "a" } else { "b" }),
            _ => format!(
                "{{\"path\": \"{}/{at:03}.png\", \"n\": {at}}}\n",
                if at % 2 == 0 { "a" } else { "b" }
            ),
        })
        .collect();
    let list = place.join("list");
    fs::write(&list, format!("{lines}notes.txt\ngone.png\n")).unwrap();
    let listed = || Run::new(Files::new(&photos).with_list(&list), &by_list);
    let summary = embed(listed());
    assert_eq!(
        (summary.embedded, summary.ignored.count(), summary.unread.count()),
        (12, 1, 1),
        "{summary:?}"
    );
    assert!(!summary.is_complete());
    assert_same(&contents(&by_list), &contents(&by_folder));
    assert_eq!(embed(listed()).already, 12);

    // From standard input, in a folder of its own.
    let mut child = program(&[&"run", &"--json", &"--list", &"-", &"--store", &place.join("stdin.vecs")])
        .current_dir(&photos)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a/000.png\nb/001.png\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(keys(&place.join("stdin.vecs")), ["a/000.png", "b/001.png"]);
    let mut unread = program(&[&"run", &"--list", &"-", &"--store", &place.join("unread.vecs")]);
    let unread = unread.stdin(File::open(place.join("")).unwrap()).output().unwrap();
    let says = String::from_utf8_lossy(&unread.stderr).into_owned();
    assert!(says.contains("cannot read standard input: Is a directory"), "{says}");
}

#[test]
fn pictures_in_tar_files_are_embedded_where_they_lie() {
    let place = Place::new();
    let (photos, plain, store) = (place.photos(10), place.join("plain.vecs"), place.join("tar.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    embed(tree(&photos, &plain));
    let tar = |name: &str, folders: &[&str]| {
        let mut builder = tar::Builder::new(File::create(place.join(name)).unwrap());
        for folder in folders {
            builder.append_dir_all(format!("./{folder}"), photos.join(folder)).unwrap();
        }
        let words = b"a caption";
        let mut header = tar::Header::new_gnu();
        header.set_size(words.len() as u64);
        builder.append_data(&mut header, "000.txt", &words[..]).unwrap();
        builder.finish().unwrap();
    };
    tar("0.tar", &["a"]);
    tar("1.tar", &["b"]);
    let shards = place.join("{0..1}.tar");
    let command = || program(&[&"run", &"--json", &"--quiet", &"--tar", &shards, &"--store", &store]);
    let tars = || ["0.tar", "1.tar"].map(|name| place.join(name));
    let summary = embed(Run::new(Files::new(&place.path).with_tars(tars()), &store));
    assert_eq!((summary.embedded, summary.rejected, summary.ignored.count()), (10, 1, 2), "{summary:?}");
    let found = contents(&store);
    for (key, stored) in contents(&plain) {
        let shard = if key.starts_with('a') { "0.tar" } else { "1.tar" };
        let in_tar = &found[&format!("{shard}//{key}")];
        match (in_tar, &stored) {
            (Stored::Vector(_), Stored::Vector(_)) => assert_eq!(in_tar, &stored, "{key}"),
            (Stored::Rejected(_), Stored::Rejected(_)) => {}
            other => panic!("{key}: {other:?}"),
        }
    }
    let again = embed(Run::new(Files::new(&place.path).with_tars(tars()), &store));
    assert_eq!((again.already, again.embedded), (11, 0));
    // The command finds the same keys: its folder is the one that the tar files are in.
    assert_eq!(json(command())["already"], 11);
    fs::remove_dir_all(&store).unwrap();
    assert_eq!(json(command())["embedded"], 10);
    assert_eq!(keys(&store), found.into_keys().collect::<Vec<_>>());
}

#[test]
fn shards_divide_the_work_without_overlap() {
    let place = Place::new();
    let photos = place.photos(40);
    let parts: Vec<Vec<String>> = (0..3)
        .map(|index| {
            let store = place.join(&format!("{index}.vecs"));
            embed(tree(&photos, &store).with_shard(Shard::new(index, 3).unwrap()));
            keys(&store)
        })
        .collect();
    assert!(parts.iter().all(|part| !part.is_empty()), "{parts:?}");
    let all: BTreeSet<&String> = parts.iter().flatten().collect();
    assert_eq!((all.len(), parts.concat().len()), (40, 40));
}

#[test]
fn folders_and_files_can_be_left_out() {
    let place = Place::new();
    let (photos, store) = (place.photos(9), place.join("photos.vecs"));
    write_picture(&photos.join("few/1.png"), 1);
    write_picture(&photos.join("a/1.jpg"), 2);
    write_picture(&photos.join("@eaDir/1.png"), 3);
    let filter = Filter::new(&[], &["@eaDir", "*.jpg"]).unwrap();
    let files = Files::new(&photos).with_recursive(true).with_min_inputs(2).with_filter(filter);
    let summary = embed(Run::new(files, &store));
    assert_eq!((summary.embedded, summary.too_few, summary.excluded), (9, 1, 2), "{summary:?}");
    let text = said(command::run(
        &photos,
        &place.join("text.vecs"),
        &["--min-images=2", "--exclude=@eaDir", "--exclude=*.jpg"],
    ));
    assert!(
        text.out.contains("left out: 1 in folders with fewer than --min-images, 2 by pattern"),
        "{}",
        text.out
    );
    let bad = said(command::run(&photos, &store, &["--include=a[b"]));
    assert!(bad.code == 1 && bad.err.contains("include: expected a pattern"), "{}", bad.err);
}

#[test]
fn options_come_from_the_command_line_variables_and_a_file() {
    let place = Place::new();
    let (photos, store, config) = (place.photos(6), place.join("photos.vecs"), place.join("job.toml"));
    let text = format!(
        "store = {:?}\n[run]\nfolder = {:?}\nrecursive = true\nexclude = [\"00[0-1].png\"]\nbatch-size = 2\n",
        store, photos
    );
    fs::write(&config, text).unwrap();
    let mut command = program(&[&"run", &"--quiet", &"--json", &"--config", &config]);
    command.env("VECSTORE_EMBED_EXCLUDE", "005.png").env("VECSTORE_EMBED_WORKERS", "1");
    let summary = json(command);
    assert_eq!((&summary["embedded"], &summary["excluded"]), (&Value::from(5), &Value::from(1)), "{summary}");
    let mut status = program(&[&"status", &"--json"]);
    status.env("VECSTORE_EMBED_STORE", &store);
    assert_eq!(json(status)["done"], 5);
    assert_eq!(json(program(&[&"status", &"--json", &"--config", &config]))["done"], 5);
    let mut wrong = program(&[&"run", &"--config", &config]);
    wrong.env("VECSTORE_EMBED_BATCH_SIZE", "many");
    let wrong = said(wrong);
    assert!(wrong.code == 2 && wrong.err.contains("--batch-size"), "{}", wrong.err);
    fs::write(&config, "[run]\nfolders = 1\n").unwrap();
    let wrong = said(program(&[&"run", &"--config", &config]));
    assert!(wrong.code == 2 && wrong.err.contains("folders: expected an option of run"), "{}", wrong.err);
    let help = said(program(&[&"run", &"--help"])).out;
    assert!(help.contains("VECSTORE_EMBED_BATCH_SIZE=64") && help.contains("--min-images"), "{help}");
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let place = Place::new();
    let (photos, store) = (place.photos(5), place.join("photos.vecs"));
    let told = json(command::run(&photos, &store, &["--dry-run", "--json", "--quiet"]));
    assert_eq!((&told["to_do"], &told["already"]), (&Value::from(5), &Value::from(0)), "{told}");
    assert_eq!(fs::read_dir(&place.path).unwrap().count(), 1, "the photos are all there is");
    assert_eq!(said(command::run(&photos, &store, &["--exclude=b"])).code, 0);
    let told = said(command::run(&photos, &store, &["--dry-run"]));
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.out.contains("5 pictures, 3 already stored, 2 to do (0 of them changed)"), "{}", told.out);
    assert_eq!(contents(&store).len(), 3);
    let flat = program(&[&"run", &"--folder", &photos, &"--store", &store, &"--dry-run"]);
    let flat = said(flat).out;
    assert!(flat.contains("0 pictures") && flat.contains("without --recursive"), "{flat}");
}

#[test]
fn a_model_is_found_by_its_name() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    fs::create_dir(place.join("models")).unwrap();
    fs::write(place.join("models/clip.onnx"), "").unwrap();
    let dir = format!("--models-dir={}", place.join("models").display());
    let said = said(command::run(&photos, &store, &["--model=face", &dir]));
    assert!(said.code == 1 && said.err.contains("has clip; give one of these"), "{}", said.err);
    let nowhere = command::said(command::run(&photos, &store, &["--model=face"]));
    assert!(nowhere.code == 1 && nowhere.err.contains("no such file; give the path"), "{}", nowhere.err);
}

/// The program without the options that scenarios have in common.
fn bare(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(words);
    command
}

#[test]
fn variables_are_shown_and_give_way_to_what_is_typed() {
    let place = Place::new();
    let (photos, store) = (place.photos(3), place.join("photos.vecs"));
    let help = said(program(&[&"run", &"--help"])).out;
    for name in ["VECSTORE_EMBED_BATCH_SIZE", "VECSTORE_EMBED_RECURSIVE", "VECSTORE_EMBED_VERBOSE"] {
        assert!(help.contains(&format!("[env: {name}]")), "{name}: {help}");
    }
    let with = |name: &str, value: &str, typed: &[&str]| {
        let mut command = command::run(&photos, &store, typed);
        command.env(name, value);
        said(command)
    };
    // A flag, its opposite, a number of times, another name, and nothing.
    assert!(with("VECSTORE_EMBED_DRY_RUN", "yes", &[]).out.contains("nothing was done"));
    assert!(with("VECSTORE_EMBED_DRY_RUN", "1", &["--dry-run=false"]).out.contains("3 embedded"));
    assert!(with("VECSTORE_EMBED_VERBOSE", "1", &[]).code == 0);
    assert!(with("VECSTORE_EMBED_BATCH_SIZE", "", &[]).code == 0);
    let bad = with("VECSTORE_EMBED_DB_BATCH_SIZE", "0", &[]);
    assert!(
        bad.code == 2 && bad.err.contains("comes from the variable VECSTORE_EMBED_DB_BATCH_SIZE"),
        "{}",
        bad.err
    );
    let bad = with("VECSTORE_EMBED_BATCH_SIZE", "many", &[]);
    let told = "tip: '--batch-size <N>' comes from the variable VECSTORE_EMBED_BATCH_SIZE\n";
    assert!(
        bad.code == 2 && bad.err.contains("'many' for '--batch-size <N>'") && bad.err.contains(told),
        "{}",
        bad.err
    );
    assert_eq!(with("VECSTORE_EMBED_BATCH_SIZE", "many", &["--batch-size=2"]).code, 0);
    let missing = with("VECSTORE_EMBED_SIZE", "8x8", &[]);
    let told = "tip: '--size <PIXELS>' comes from the variable VECSTORE_EMBED_SIZE\n";
    assert!(
        missing.code == 2 && missing.err.contains("--model <FILE.onnx|NAME>") && missing.err.contains(told),
        "{}",
        missing.err
    );
    // Help is help, whatever is set.
    let mut help = bare(&["help", "run"]);
    help.env("VECSTORE_EMBED_BATCH_SIZE", "many").env("VECSTORE_EMBED_STORE", &store);
    let help = said(help);
    assert!(help.code == 0 && help.out.contains("--batch-size"), "{}", help.err);
}

#[test]
fn a_run_in_the_background_has_the_options_of_file_and_variables() {
    let place = Place::new();
    let (photos, store) = (place.photos(4), place.join("photos.vecs"));
    let text = format!(
        "[run]\nfolder = {photos:?}\nexclude = [\"000.png\"]\n[start]\nrecursive = true\nquiet = true\n"
    );
    fs::write(place.join("job.toml"), text).unwrap();
    let mut start = program(&[&"start", &"--config", &"job.toml", &"--quiet=false"]);
    start.current_dir(&place.path).env("VECSTORE_EMBED_STORE", "photos.vecs");
    let started = said(start);
    assert_eq!(started.code, 0, "{}", started.err);
    // It waits for a run that is live, and ends at once where it is not.
    let logs = said(bare(&["logs", "--follow", "--store", store.to_str().unwrap()])).out;
    assert!(logs.contains("3 embedded"), "{logs}");
    assert_eq!(keys(&store).len(), 3);
    let mut status = bare(&["status", "--store", store.to_str().unwrap()]);
    status.env("TZ", "XYZ-5:30");
    let status = said(status).out;
    assert!(status.contains(" XYZ: finished; 3 embedded"), "{status}");
}
