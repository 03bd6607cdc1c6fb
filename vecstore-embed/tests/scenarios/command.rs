//! The built program: what it prints, and what it exits with.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vecstore::{Fingerprint, Reader, Store, StoreConfig};

use crate::common::{Place, TINY, contents, picture, write_picture};

/// The program with its arguments.
pub fn program(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    // What the machine has installed must not decide what is tested.
    command.env_remove("ORT_DYLIB_PATH").env_remove("RUST_LOG").args(
        matches!(arguments.first(), Some(first) if first.as_ref() != "status").then_some("--backend=tract"),
    );
    command
}

/// `run --folder photos --store store --recursive` with more arguments.
pub fn run(photos: &Path, store: &Path, more: &[&str]) -> Command {
    let mut command = program(&[&"run", &"--recursive", &"--folder", &photos, &"--store", &store]);
    command.args(more);
    command
}

/// The same with a model that takes no time, for what is about everything else.
pub fn run_tiny(photos: &Path, store: &Path, more: &[&str]) -> Command {
    run(photos, store, &[TINY, more].concat())
}

pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn said(mut command: Command) -> Said {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Said {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

pub fn json(command: Command) -> Value {
    let said = said(command);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {} {}", said.out, said.err))
}

#[test]
fn run_status_and_search_tell_one_story() {
    let place = Place::new();
    let (photos, store) = (place.photos(5), place.join("photos.vecs"));
    picture(2).save(photos.join("a/002-copy.jpg")).unwrap();
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();

    let first = said(run(&photos, &store, &["--batch-size", "4"]));
    assert_eq!(first.code, 0, "{}", first.err);
    assert!(first.out.contains("6 embedded, 1 rejected, 0 already stored"), "{}", first.out);
    assert!(first.out.contains("\nrejected: 1 decode (no pictures"), "{}", first.out);
    assert!(first.err.contains("7 pictures, 0 already stored, 7 to do; about "), "{}", first.err);
    assert!(first.err.contains(" free\n"), "{}", first.err);

    let again = json(run(&photos, &store, &["--json", "--quiet"]));
    assert_eq!(
        (&again["ended"], &again["already"], &again["embedded"]),
        (&"finished".into(), &7.into(), &0.into())
    );

    let status = json(program(&[&"status", &"--json", &"--rejected", &"--store", &store]));
    for (name, value) in [("done", 6), ("empty", 0), ("rejected", 1), ("rows", 6), ("dim", 512)] {
        assert_eq!(status[name], Value::from(value), "{name} in {status}");
    }
    let snapshot = Reader::open(&store).unwrap().snapshot();
    assert_eq!(status["commits"], Value::from(snapshot.last_commit()), "{status}");
    let model = snapshot.fingerprint().unwrap();
    assert_eq!(status["model"], model.description());
    assert_eq!(status["roots"][0]["dir"], photos.to_str().unwrap());
    assert_eq!(status["rejected_list"][0]["key"], "a/bad.jpg");
    let shown = said(program(&[&"status", &"--store", &store]));
    assert!(shown.out.contains("done      6\n") && shown.out.contains(model.description()), "{}", shown.out);

    let shown = said(program(&[&"status", &"--rejected", &"--store", &store]));
    assert!(shown.out.contains(&format!("vecstore delete {} KEY", store.display())), "{}", shown.out);

    let image = photos.join("a/002.png");
    let hits = said(program(&[&"search", &"--store", &store, &"--image", &image, &"-k", &"3"]));
    assert_eq!(hits.code, 0, "{}", hits.err);
    let keys: Vec<&str> = hits.out.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(keys[..2], ["a/002.png", "a/002-copy.jpg"], "{}", hits.out);
    assert_eq!(keys.len(), 3);
    let hits = json(program(&[&"search", &"--json", &"--store", &store, &"--image", &image, &"-k", &"1"]));
    assert_eq!(hits["hits"][0]["key"], "a/002.png");
    assert!(hits["hits"][0]["score"].as_f64().unwrap() > 0.9999);
}

#[test]
fn a_run_tells_what_its_stages_did_with_their_time() {
    let place = Place::new();
    let (photos, store) = (place.photos(20), place.join("photos.vecs"));
    let text = said(run(&photos, &store, &["--exclude=b", "-v"])).err;
    let model = text.split_once("the model ").unwrap_or_else(|| panic!("{text}")).1;
    let shares: Vec<f64> =
        model.split(" %").take(3).map(|part| part.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!((98.0..=102.0).contains(&shares.iter().sum::<f64>()), "{text}");
    let told = json(run(&photos, &store, &["--quiet", "--json"]));
    assert!(told["stages"]["the model"]["busy"].as_f64().unwrap() > 0.0, "{told}");
}

#[test]
fn a_quiet_run_says_nothing_but_errors() {
    let place = Place::new();
    let (photos, store) = (place.photos(5), place.join("photos.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let quiet = said(run(&photos, &store, &["--quiet"]));
    assert_eq!((quiet.code, &*quiet.out, &*quiet.err), (0, "", ""));
    assert_eq!(contents(&store).len(), 6);
    let asked = json(run(&photos, &store, &["--quiet", "--json"]));
    assert_eq!(asked["already"], 6);
    let plan = said(run(&photos, &store, &["--quiet", "--dry-run"]));
    assert!(
        plan.out.contains("6 already stored, 0 to do") && plan.err.is_empty(),
        "{}{}",
        plan.out,
        plan.err
    );

    // What is an error is said: files that cannot be read, and a prune that was asked for and refused.
    std::os::unix::fs::symlink("nowhere", photos.join("a/gone.jpg")).unwrap();
    let unread = said(run(&photos, &store, &["--quiet", "--follow-links"]));
    assert_eq!((unread.code, &*unread.out), (75, ""), "{}", unread.err);
    assert!(
        unread.err.starts_with("error: 1 could not be read, and stay missing, the first: "),
        "{}",
        unread.err
    );
    assert!(
        unread.err.contains("a/gone.jpg: No such file") && unread.err.lines().count() == 1,
        "{}",
        unread.err
    );
    fs::remove_file(photos.join("a/gone.jpg")).unwrap();
    for at in [0, 2, 4] {
        fs::remove_file(photos.join(format!("a/{at:03}.png"))).unwrap();
    }
    let refused = said(run(&photos, &store, &["--quiet", "--prune"]));
    assert_eq!((refused.code, &*refused.out), (1, ""), "{}", refused.err);
    assert!(refused.err.starts_with("error: nothing was pruned: 3 of 6 files are gone"), "{}", refused.err);
    assert_eq!(refused.err.lines().count(), 1, "{}", refused.err);
}

#[test]
fn mistakes_are_answered_with_a_message_and_a_code() {
    let place = Place::new();
    let (photos, store, empty) = (place.photos(1), place.join("photos.vecs"), place.join("empty"));
    fs::create_dir(&empty).unwrap();
    fs::write(place.join("file"), "precious").unwrap();
    let other = StoreConfig::new(512).fingerprint(Fingerprint::new([1; 32], "another CLIP"));
    Store::create(place.join("other.vecs"), other).unwrap().close().unwrap();
    Store::create(place.join("small.vecs"), StoreConfig::new(64)).unwrap().close().unwrap();

    for (command, code, message) in [
        (run(&place.join("nowhere"), &store, &[]), 1, "nowhere: there is no such folder"),
        (run(&photos.join("a/000.png"), &store, &[]), 1, "000.png: expected a folder"),
        (run(&photos, &place.join("file"), &[]), 1, "file: this is not a store"),
        (run(&photos, &place.join("other.vecs"), &[]), 1, "holds vectors of \"another CLIP\""),
        (run(&photos, &place.join("small.vecs"), &[]), 1, "has dimension 64, the model"),
        (run(&photos, &store, &["--root", "x"]), 2, "expected NAME=DIR"),
        (run(&photos, &store, &["--batch-size", "0"]), 2, "--batch-size"),
        (run(&photos, &store, &["--batch-size", "4097"]), 2, "1..=4096"),
        (run(&photos, &store, &["--workers", "0"]), 2, "1..=256"),
        (run(&photos, &store, &["--workers", "257"]), 2, "1..=256"),
        (run(&photos, &store, &["--max-pixels", "0"]), 2, "--max-pixels"),
        (
            run(&photos, &store, &["--model", "m.onnx", "--std", "-0.2,0.2,0.2"]),
            2,
            "expected numbers above zero",
        ),
        (run(&photos, &store, &["--model", "m.onnx", "--std", "0"]), 2, "expected numbers above zero"),
        (run(&photos, &store, &["--model", "m.onnx", "--mean", "-0.2", "--std", "0.2"]), 1, "m.onnx"),
        (run(&photos, &store, &["--size", "224"]), 2, "--model"),
        (run(&photos, &store, &["--model", "/nowhere.onnx"]), 1, "/nowhere.onnx"),
        (run(&photos, &store, &["--dtype", "f64"]), 2, "use f32, f16"),
        (program(&[&"run"]), 2, "--folder"),
        (run(&photos, Path::new("no/such/photos.vecs"), &[]), 1, "found no folder no/such;"),
        (run(Path::new("no\x1b[2J"), &store, &[]), 1, "no\\u{1b}[2J: there is no such folder"),
        (program(&[&"status", &"--store", &store]), 1, "`vecstore-embed run` creates one"),
        (program(&[&"search", &"--store", &store, &"--image", &"x.jpg"]), 1, "there is no store here"),
        (
            run(&photos, &store, &["--list", "no-list"]),
            1,
            "cannot read the list no-list: No such file or directory (os error 2); a list is a file with one \
             path or JSON object per line (--list",
        ),
    ] {
        let said = said(command);
        assert_eq!(said.code, code, "{}", said.err);
        assert!(said.err.contains(message), "{message:?} is not in {:?}", said.err);
        assert_eq!(said.out, "");
    }
    let nothing = said(run(&empty, &store, &[]));
    assert_eq!(
        (nothing.code, nothing.out.contains("no pictures in this folder")),
        (0, true),
        "{}",
        nothing.out
    );
    assert!(!store.exists());
    assert_eq!(fs::read(place.join("file")).unwrap(), b"precious");
}

#[test]
fn what_may_not_be_read_is_listed_and_asks_for_another_run() {
    let place = Place::new();
    let (photos, store) = (place.photos(4), place.join("out/photos.vecs"));
    fs::create_dir(place.join("out")).unwrap();
    write_picture(&photos.join("c/1.png"), 1);
    let forbid = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    forbid(&photos.join("a/000.png"), 0);
    forbid(&photos.join("c"), 0);
    // The superuser may read everything, and so becomes user 65534, which has to be let in first.
    let unprivileged = (fs::metadata(&photos).unwrap().uid() == 0).then_some(65_534);
    let as_user = |mut command: Command| {
        if let Some(unprivileged) = unprivileged {
            command.uid(unprivileged).gid(unprivileged);
        }
        said(command)
    };
    forbid(place.path.as_path(), 0o755);
    forbid(&place.join("out"), 0o777);

    let partly = as_user(run(&photos, &store, &[]));
    assert_eq!(partly.code, 75, "{}{}", partly.out, partly.err);
    assert!(
        partly.out.contains("3 embedded, 0 rejected, 0 already stored, 2 could not be read"),
        "{}",
        partly.out
    );
    for path in ["a/000.png", "c"] {
        let listed = format!("  {}: Permission denied", photos.join(path).display());
        assert!(partly.out.contains(&listed), "{listed} is not in {}", partly.out);
    }
    assert!(partly.out.contains("run the same command again:\n  "), "{}", partly.out);

    let failures =
        as_user(run(&photos, &place.join("out/failures.vecs"), &["--max-read-failures=1", "--workers=1"]));
    assert_eq!(failures.code, 75, "{}", failures.err);
    let past = "stopped: 1 in a row could not be read (is the drive still there?); to go on, run the same \
        command again, or with `--max-read-failures 0` to go past them:\n  ";
    assert!(failures.out.contains(past), "{}", failures.out);

    // Without a picture's extension it may be one all the same, whether or not there is anything else to do.
    let album = place.join("album");
    write_picture(&album.join("1.png"), 1);
    fs::copy(album.join("1.png"), album.join("scan")).unwrap();
    forbid(&album.join("scan"), 0);
    for already in [0, 1] {
        let unread = as_user(run(&album, &place.join("out/album.vecs"), &[]));
        assert_eq!(unread.code, 75, "{}{}", unread.out, unread.err);
        let said =
            format!("{} embedded, 0 rejected, {already} already stored, 1 could not be read", 1 - already);
        assert!(
            unread.out.contains(&said) && unread.out.contains("scan: Permission denied"),
            "{}",
            unread.out
        );
    }
    forbid(&album.join("scan"), 0o644);
    let read = as_user(run(&album, &place.join("out/album.vecs"), &[]));
    assert_eq!(read.code, 0, "{}", read.err);
    assert!(read.err.contains("2 pictures, 1 already stored, 1 to do"), "{}", read.err);

    let closed = as_user(run(&photos.join("c"), &store, &[]));
    assert_eq!(closed.code, 1);
    assert!(closed.err.contains("c: Permission denied"), "{}", closed.err);

    forbid(&place.join("out"), 0o555);
    let no_store = as_user(run(&photos, &place.join("out/more.vecs"), &[]));
    assert_eq!(no_store.code, 1);
    assert!(
        no_store.err.contains("more.vecs") && no_store.err.contains("Permission denied"),
        "{}",
        no_store.err
    );

    forbid(&place.join("out"), 0o777);
    forbid(&photos.join("a/000.png"), 0o644);
    forbid(&photos.join("c"), 0o755);
    let whole = as_user(run(&photos, &store, &[]));
    assert_eq!(whole.code, 0, "{}", whole.err);
    assert!(whole.out.contains("2 embedded, 0 rejected, 3 already stored"), "{}", whole.out);
}

#[test]
fn names_are_shown_without_what_moves_the_cursor_and_a_closed_pipe_is_no_failure() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    assert_eq!(said(run(&photos, &store, &["--quiet"])).code, 0);
    fs::write(photos.join("a\x1b[2J\n.png"), "").unwrap();
    let told = said(run(&photos, &store, &["-v"]));
    assert!(told.err.contains("a\\u{1b}[2J\\n.png: rejected") && !told.err.contains('\x1b'), "{}", told.err);
    let status = said(program(&[&"status", &"--rejected", &"--store", &store])).out;
    assert_eq!(
        status.lines().filter(|line| line.starts_with("  a\\u{1b}[2J\\n.png: ")).count(),
        1,
        "{status}"
    );
    fs::remove_file(photos.join("a\x1b[2J\n.png")).unwrap();

    write_picture(&photos.join("more.png"), 9);
    let mut command = run(&photos, &store, &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(contents(&store).len(), 4);
}

#[test]
fn the_model_of_a_store_is_asked_for_when_it_has_moved() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    assert_eq!(said(run(&photos, &store, &["--quiet"])).code, 0);
    let opened = Store::open(&store).unwrap();
    opened.set_setting("model", "/gone/model.onnx").unwrap();
    opened.close().unwrap();
    let image = photos.join("a/000.png");
    for command in [
        program(&[&"search", &"--store", &store, &"--image", &image]),
        program(&[&"verify", &"--store", &store]),
    ] {
        let moved = said(command);
        assert_eq!(moved.code, 1);
        assert!(
            moved
                .err
                .contains("/gone/model.onnx, and is no longer there; give the file of the model (--model)"),
            "{}",
            moved.err
        );
    }
}

#[test]
fn numbers_at_their_limits_and_an_empty_variable_are_no_mistakes() {
    let place = Place::new();
    let (photos, store) = (place.photos(3), place.join("photos.vecs"));
    let mut command = run(&photos, &store, &["--batch-size=4096", "--workers=256", "--max-pixels=1"]);
    command.env("ORT_DYLIB_PATH", "");
    let run = said(command);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.out.contains("0 embedded, 3 rejected"), "{}", run.out);
    for help in ["run", "search"] {
        let help = said(program(&[&help, &"--help"])).out;
        assert!(help.contains("ORT_DYLIB_PATH") && !help.contains("GPU"), "{help}");
    }
}
