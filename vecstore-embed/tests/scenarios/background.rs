//! Runs that go on by themselves, and what can be seen and asked of them.

use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use crate::command::{json, program, run_tiny, said};
use crate::common::{Place, TINY, assert_same, contents};
use crate::fed::{Fed, List};

fn start(photos: &Path, store: &Path, more: &[&str]) -> Command {
    let mut command = program(&[&"start", &"--recursive", &"--folder", &photos, &"--store", &store]);
    command.args(TINY).args(more);
    command
}

fn of_store(name: &str, store: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vecstore-embed"));
    command.args([name, "--store"]).arg(store).args(more);
    command
}

fn status(store: &Path) -> Value {
    json(of_store("status", store, &["--json"]))
}

/// Waits until the run has ended, or the last one that began.
fn wait_for_the_end(store: &Path, run: &[&str]) {
    let followed = said(of_store("logs", store, &[&["--follow"][..], run].concat()));
    assert_eq!(followed.code, 0, "{}", followed.err);
}

#[test]
fn a_run_is_started_watched_stopped_and_goes_on() {
    let place = Place::new();
    let (photos, store, alone) = (place.photos(24), place.join("photos.vecs"), place.join("alone.vecs"));
    std::fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let first = "a/000.png";
    assert_eq!(said(run_tiny(&photos, &store, &["--quiet", "--include", first])).code, 0);
    let name = |at: u32| format!("{}/{at:03}.png", if at.is_multiple_of(2) { "a" } else { "b" });
    let lines: Vec<String> = (1..24).map(name).chain(["a/bad.jpg".to_owned()]).collect();
    let mut list = List::new(place.join("list"));
    let small = ["--batch-size=4", "--workers=1", "--commit-rows=4"];
    let starting = start(&photos, &store, &[&["--list", list.path.to_str().unwrap()], &small[..]].concat());
    let starting = thread::spawn(move || said(starting));
    list.counted(&lines);
    let started = starting.join().unwrap();
    assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    assert!(started.out.contains("started, process"), "{}", started.out);
    list.opened();
    assert!(started.out.contains("24 to do") || started.out.contains("still counting"), "{}", started.out);

    // Wherever it is, all are either settled or left.
    list.feed(&lines[..10], first);
    let working = status(&store);
    assert_eq!(working["live"], 1);
    let number = |name: &str| working[name].as_u64().unwrap();
    assert_eq!(number("left") + number("done") + number("rejected"), 25, "{working}");
    let text = said(of_store("status", &store, &[])).out;
    assert!(text.contains("left      ") && text.contains(": working, "), "{text}");

    let stop = of_store("stop", &store, &["--timeout=600"]);
    let stopping = thread::spawn(move || said(stop));
    list.until_closed(first);
    let stopped = stopping.join().unwrap();
    assert_eq!(stopped.code, 0, "{}{}", stopped.out, stopped.err);
    assert!(stopped.out.contains(": stopped after "), "{}", stopped.out);
    let idle = status(&store);
    assert_eq!((&idle["live"], &idle["left"]), (&Value::from(0), &Value::Null), "{idle}");
    let ended = idle["runs"].as_array().unwrap().iter().find(|run| run["exit"] == 75).unwrap();
    assert_eq!((&ended["ended"], &ended["live"]), (&"stopped".into(), &false.into()));
    assert!(contents(&store).len() <= 11);
    assert!(said(of_store("stop", &store, &[])).out.contains("no run is live"));

    let id = ended["id"].as_str().unwrap();
    let logs = said(of_store("logs", &store, &[id]));
    let lines: Vec<Value> = logs.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |what: &str| lines.iter().any(|line| line["message"].as_str().unwrap().contains(what));
    assert!(has("24 to do") && has("asked to stop") && has("stopped: "), "{}", logs.out);
    let none = said(of_store("logs", &store, &["1999"]));
    assert!(none.code == 1 && none.err.contains("found \"1999\"; the runs are: 20"), "{}", none.err);

    // Two more, which share what is left.
    for _ in 0..2 {
        let started = said(start(&photos, &store, &small));
        assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    }
    let ids = |status: &Value| -> Vec<String> {
        let runs = status["runs"].as_array().unwrap().iter();
        runs.map(|run| run["id"].as_str().unwrap().to_owned()).collect()
    };
    for id in ids(&status(&store)) {
        wait_for_the_end(&store, &[&id]);
        let logs = said(of_store("logs", &store, &[&id])).out;
        assert!(
            logs.contains("finished: ") || logs.contains("stopped: "),
            "it goes on until the run ends: {logs}"
        );
    }
    let several = said(of_store("logs", &store, &["2"]));
    assert!(several.code == 1 && several.err.contains("found \"2\"; so begin: 2"), "{}", several.err);
    let done = status(&store);
    assert_eq!((&done["live"], ids(&done).len()), (&Value::from(0), 4), "{done}");
    assert_eq!((&done["done"], &done["rejected"]), (&Value::from(24), &Value::from(1)), "{done}");
    let embedded = |run: &Value| run["progress"]["embedded"].as_u64().unwrap();
    assert_eq!(done["runs"].as_array().unwrap().iter().map(embedded).sum::<u64>(), 24, "{done}");
    let twice = |run: &Value| run["progress"]["overtaken"].as_u64().unwrap();
    assert_eq!(done["runs"].as_array().unwrap().iter().map(twice).sum::<u64>(), 0, "nothing twice: {done}");
    assert_eq!(said(run_tiny(&photos, &alone, &["--quiet"])).code, 0);
    assert_same(&contents(&store), &contents(&alone));
}

#[test]
fn mistakes_are_seen_where_the_run_is_started() {
    let place = Place::new();
    let (photos, store) = (place.photos(1), place.join("photos.vecs"));
    let missing = said(start(&place.join("nowhere"), &store, &[]));
    assert!(
        missing.code == 1 && missing.out.contains("there is no such folder"),
        "{}{}",
        missing.out,
        missing.err
    );
    let list = said(start(&photos, &store, &["--list=-"]));
    assert!(list.code == 1 && list.err.contains("cannot read a list from standard input"), "{}", list.err);
    let other = place.join("other.vecs");
    vecstore::Store::create(&other, vecstore::StoreConfig::new(2)).unwrap().close().unwrap();
    let none = said(of_store("logs", &other, &[]));
    assert!(none.code == 1 && none.err.contains("found none; vecstore-embed run begins one"), "{}", none.err);
    let quick = said(start(&photos, &store, &["--quiet"]));
    assert_eq!((quick.code, &*quick.out, &*quick.err), (0, "", ""));
    wait_for_the_end(&store, &[]);
    let done = status(&store);
    assert_eq!((&done["done"], &done["live"]), (&Value::from(1), &Value::from(0)), "{done}");
}

#[test]
fn a_killed_run_is_not_taken_for_a_live_one() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    let mut fed = Fed::start(run_tiny(&photos, &store, &[]), place.join("list"), &["a/000.png", "b/001.png"]);
    fed.list.opened();
    let before = status(&store);
    assert_eq!(
        (&before["live"], &before["runs"][0]["phase"]),
        (&Value::from(1), &"working".into()),
        "{before}"
    );
    fed.signal(Signal::KILL);
    fed.ended();
    let after = status(&store);
    assert_eq!((&after["live"], &after["runs"][0]["ended"]), (&Value::from(0), &Value::Null), "{after}");
    let text = said(of_store("status", &store, &[])).out;
    assert!(text.contains("killed; what it had begun is found again"), "{text}");
}
