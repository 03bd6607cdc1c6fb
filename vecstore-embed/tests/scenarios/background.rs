//! Runs that go on by themselves, and what can be seen and asked of them.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{json, program, run, said};
use crate::common::{Place, assert_same, contents};

fn start(photos: &Path, store: &Path, more: &[&str]) -> Command {
    let mut command = program(&[&"start", &"--recursive", &"--folder", &photos, &"--store", &store]);
    command.args(more);
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

/// Waits until the status is like that.
fn wait_until(store: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = status(store);
        if is(&status) {
            return status;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{what}: {status}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_run_is_started_watched_stopped_and_goes_on() {
    let place = Place::new();
    let (photos, store, alone) = (place.photos(120), place.join("photos.vecs"), place.join("alone.vecs"));
    std::fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let slowly = ["--batch-size=2", "--workers=1", "--commit-rows=2"];
    let started = said(start(&photos, &store, &slowly));
    assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    assert!(started.out.contains("started, process") && started.out.contains("121 to do"), "{}", started.out);

    let working = wait_until(&store, "something is done", |status| status["done"].as_u64().unwrap() > 2);
    assert_eq!(working["live"], 1);
    let left = working["left"].as_u64().unwrap();
    let settled = working["done"].as_u64().unwrap() + working["rejected"].as_u64().unwrap();
    assert_eq!(left + settled, 121, "{working}");
    let text = said(of_store("status", &store, &[])).out;
    assert!(text.contains("left      ") && text.contains(": working, "), "{text}");

    let stopped = said(of_store("stop", &store, &[]));
    assert_eq!(stopped.code, 0, "{}{}", stopped.out, stopped.err);
    assert!(stopped.out.contains(": stopped after "), "{}", stopped.out);
    let idle = status(&store);
    assert_eq!((&idle["live"], &idle["left"]), (&Value::from(0), &Value::Null), "{idle}");
    let ended = idle["runs"][0].clone();
    assert_eq!(
        (&ended["ended"], &ended["exit"], &ended["live"]),
        (&"stopped".into(), &75.into(), &false.into())
    );
    assert!(contents(&store).len() < 121);
    assert!(said(of_store("stop", &store, &[])).out.contains("no run is live"));

    let logs = said(of_store("logs", &store, &[]));
    let lines: Vec<Value> = logs.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |what: &str| lines.iter().any(|line| line["message"].as_str().unwrap().contains(what));
    assert!(has("121 to do") && has("asked to stop") && has("stopped: "), "{}", logs.out);
    let id = ended["id"].as_str().unwrap();
    assert_eq!(said(of_store("logs", &store, &[id])).out, logs.out);
    let none = said(of_store("logs", &store, &["1999"]));
    assert!(none.code == 1 && none.err.contains("found \"1999\"; the runs are: 20"), "{}", none.err);

    // Two more, which share what is left.
    for _ in 0..2 {
        let started = said(start(&photos, &store, &slowly));
        assert_eq!(started.code, 0, "{}{}", started.out, started.err);
    }
    let followed = said(of_store("logs", &store, &["-f"]));
    assert!(followed.out.contains("finished: "), "it goes on until the run ends: {}", followed.out);
    wait_until(&store, "all have ended", |status| status["live"] == 0);
    let several = said(of_store("logs", &store, &["2"]));
    assert!(several.code == 1 && several.err.contains("found \"2\"; so begin: 2"), "{}", several.err);
    let done = status(&store);
    assert_eq!((&done["done"], &done["rejected"]), (&Value::from(120), &Value::from(1)), "{done}");
    let embedded = |run: &Value| run["progress"]["embedded"].as_u64().unwrap();
    assert_eq!(done["runs"].as_array().unwrap().iter().map(embedded).sum::<u64>(), 120, "{done}");
    let twice = |run: &Value| run["progress"]["overtaken"].as_u64().unwrap();
    assert_eq!(done["runs"].as_array().unwrap().iter().map(twice).sum::<u64>(), 0, "nothing twice: {done}");
    assert_eq!(said(run(&photos, &alone, &["--quiet"])).code, 0);
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
    wait_until(&store, "it is done", |status| status["done"] == 1 && status["live"] == 0);
}

#[test]
fn a_killed_run_is_not_taken_for_a_live_one() {
    let place = Place::new();
    let (photos, store) = (place.photos(80), place.join("photos.vecs"));
    let mut child = run(&photos, &store, &["--quiet", "--batch-size=2", "--workers=1", "--commit-rows=2"])
        .spawn()
        .unwrap();
    wait_for_a_run(&store);
    child.kill().unwrap();
    child.wait().unwrap();
    let after = status(&store);
    assert_eq!((&after["live"], &after["runs"][0]["ended"]), (&Value::from(0), &Value::Null), "{after}");
    let text = said(of_store("status", &store, &[])).out;
    assert!(text.contains("killed; what it had begun is found again"), "{text}");
}

fn wait_for_a_run(store: &Path) {
    let began = Instant::now();
    loop {
        let said = said(of_store("status", store, &["--json"]));
        if said.code == 0 && said.out.contains("\"done\"") && status(store)["done"].as_u64().unwrap() > 0 {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "{}{}", said.out, said.err);
        thread::sleep(Duration::from_millis(10));
    }
}
