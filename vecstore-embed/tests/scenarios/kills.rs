//! `kill -9` again and again, in the middle of the work.
//!
//! Small by itself. `scripts/kill-embed` runs it with thousands of pictures, at random moments:
//! `VECSTORE_EMBED_PHOTOS` names a folder of them, `VECSTORE_EMBED_KILLS` says how often to kill.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vecstore::Reader;

use crate::command::{json, run, run_tiny, said};
use crate::common::{Place, TINY, assert_same, contents, random, seed, size};
use crate::fed::Fed;

fn entries(store: &Path) -> u64 {
    let totals = Reader::open(store).map(|store| store.snapshot().totals());
    totals.map_or(0, |totals| totals.entries)
}

/// What there is after the last run, against a store that an undisturbed one fills.
fn assert_complete(photos: &Path, store: &Path, undisturbed: &Path, model: &[&str]) {
    assert_eq!(said(run(photos, store, &[model, &["--quiet"]].concat())).code, 0);
    let expected = contents(undisturbed);
    assert_same(&contents(store), &expected);
    let again = json(run(photos, store, &[model, &["--json", "--quiet"]].concat()));
    assert_eq!((&again["embedded"], &again["already"]), (&0.into(), &expected.len().into()));
}

#[test]
fn killed_in_the_middle_of_a_list_a_run_goes_on_to_the_same_store() {
    let place = Place::new();
    let kills = size("VECSTORE_EMBED_KILLS", 4, 12);
    let in_each = size("VECSTORE_EMBED_BETWEEN_KILLS", 7, 20);
    let pictures = kills * in_each;
    let (photos, store) = (place.photos(pictures), place.join("photos.vecs"));
    let name = |at: u32| format!("{}/{at:03}.png", if at.is_multiple_of(2) { "a" } else { "b" });
    let mut state = seed();
    println!("{pictures} pictures, {kills} kills, seed {state}");
    assert_eq!(said(run_tiny(&photos, &store, &["--quiet", "--include", &name(0)])).code, 0);
    for kill in 0..kills {
        // A bad picture among the others: when it is rejected, what was before it is under way or stored.
        let bad = format!("bad-{kill}.jpg");
        fs::write(photos.join(&bad), "Dear diary").unwrap();
        let mut lines: Vec<String> = (kill * in_each..(kill + 1) * in_each).map(name).collect();
        lines.insert(random(&mut state, u64::from(in_each)) as usize + 1, bad.clone());
        let before = entries(&store);
        let command = run_tiny(&photos, &store, &["--batch-size=3", "--commit-rows=1"]);
        let mut fed = Fed::start(command, place.join(&bad), &lines);
        fed.list.feed(&lines, &name(0));
        fed.err.until(&format!("{bad}: rejected"));
        fed.signal(Signal::KILL);
        let ended = fed.ended();
        let after = entries(&store);
        println!("kill {kill}: {before} entries before, {after} after");
        assert_eq!(ended.code, -1, "{}", ended.err);
        assert!(
            after > before && after <= u64::from(pictures + kills),
            "{before} and {after}: {}",
            ended.err
        );
    }
    let undisturbed = place.join("undisturbed.vecs");
    assert_eq!(said(run_tiny(&photos, &undisturbed, &["--quiet"])).code, 0);
    assert_complete(&photos, &store, &undisturbed, TINY);
}

#[test]
fn a_killed_run_goes_on_to_the_same_store() {
    let place = Place::new();
    let (photos, model, sizes): (_, &[&str], _) = match env::var_os("VECSTORE_EMBED_PHOTOS") {
        Some(photos) => (PathBuf::from(photos), &[], ["--batch-size=32", "--commit-rows=32"]),
        None => (place.photos(90), TINY, ["--batch-size=3", "--commit-rows=3"]),
    };
    let kills = size("VECSTORE_EMBED_KILLS", 2, 10);
    let undisturbed = place.join("undisturbed.vecs");
    let began = Instant::now();
    assert_eq!(said(run(&photos, &undisturbed, &[model, &["--quiet"]].concat())).code, 0);
    let undisturbed_for = began.elapsed();
    let expected = entries(&undisturbed);

    // Half of the time an undisturbed run takes is spread over the kills, so that most of them find work to
    // do. Of a small run the beginning takes most: there, each may come at any moment of it.
    let store = place.join("photos.vecs");
    let parts = if model.is_empty() { kills.max(1) } else { 1 };
    let longest = (undisturbed_for / parts).as_nanos() as u64 + 1;
    let mut state = seed();
    println!("{expected} inputs, {kills} kills, {undisturbed_for:?} undisturbed, seed {state}");
    for kill in 0..kills {
        let before = entries(&store);
        let mut command = run(&photos, &store, &[model, &["--quiet"], &sizes].concat());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // any duration passes: a run may be killed before it begins, and may have ended by then
        thread::sleep(Duration::from_nanos(random(&mut state, longest)));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let after = entries(&store);
        println!("kill {kill}: {before} entries before, {after} after, {ended}");
        assert!(after >= before && after <= expected, "{before} and {after}");
        assert!(ended.success() || ended.code().is_none(), "{ended}");
    }
    assert_complete(&photos, &store, &undisturbed, model);
}
