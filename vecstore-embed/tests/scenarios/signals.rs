//! Signals: the first lets a run finish what is in flight, the second ends it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::command::{run_tiny, said};
use crate::common::{Place, assert_same, contents};
use crate::fed::Fed;

/// Pictures `from` to `to`, and then one that is bad.
fn lines(photos: &Path, from: u32, to: u32) -> Vec<String> {
    let bad = format!("bad-{to}.jpg");
    fs::write(photos.join(&bad), "Dear diary").unwrap();
    let name = |at: u32| format!("{}/{at:03}.png", if at.is_multiple_of(2) { "a" } else { "b" });
    (from..to).map(name).chain([bad]).collect()
}

#[test]
fn signals_finish_what_is_in_flight_and_the_same_command_goes_on() {
    let place = Place::new();
    let (photos, store, undisturbed) =
        (place.photos(24), place.join("photos.vecs"), place.join("undisturbed.vecs"));
    let stored = "a/000.png";
    assert_eq!(said(run_tiny(&photos, &store, &["--quiet", "--include", stored])).code, 0);
    let (first, second) = (lines(&photos, 1, 7), lines(&photos, 7, 13));
    let all = [first.clone(), second.clone(), lines(&photos, 13, 24)].concat();
    let mut accounted = 1;
    for (signal, some) in [(Signal::INT, first), (Signal::TERM, second)] {
        let bad = some.last().unwrap();
        let command = run_tiny(&photos, &store, &["--batch-size=4", "--commit-rows=1"]);
        let mut fed = Fed::start(command, place.join(bad), &all);
        fed.list.feed(&some, stored);
        // Four make a batch, and two wait for company.
        fed.err.until(&format!("{bad}: rejected"));
        fed.signal(signal);
        fed.err.until("stopping: finishing and saving what is in flight; once more to end at once");
        fed.list.close();
        let ended = fed.ended();
        assert_eq!(ended.code, 75, "{}{}", ended.out, ended.err);
        for words in
            ["stopped before the end", "run the same command again:\n", env!("CARGO_BIN_EXE_vecstore-embed")]
        {
            assert!(ended.out.contains(words), "{words:?} is not in {}", ended.out);
        }
        accounted += some.len();
        assert_eq!(contents(&store).len(), accounted, "{}{}", ended.out, ended.err);
    }
    let last = said(run_tiny(&photos, &store, &[]));
    assert_eq!(last.code, 0, "{}", last.err);
    assert_eq!(said(run_tiny(&photos, &undisturbed, &[])).code, 0);
    assert_same(&contents(&store), &contents(&undisturbed));
    assert_eq!(contents(&store).len(), 27);
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    let mut fed = Fed::start(run_tiny(&photos, &store, &[]), place.join("list"), &["a/000.png", "b/001.png"]);
    fed.list.opened();
    fed.signal(Signal::TERM);
    fed.err.until("stopping: ");
    // Its list does not come to an end: it would go on until it takes too long, and then exit with 75.
    fed.signal(Signal::INT);
    let ended = fed.ended();
    assert_eq!(ended.code, 130, "{}{}", ended.out, ended.err);
    assert!(contents(&store).is_empty());
}
