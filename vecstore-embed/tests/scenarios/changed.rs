//! Files that are not what they were.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use vecstore_embed::{Embedder, Model, Run, Summary};

use crate::common::{Place, RunOn, Stored, Strips, contents, tree, write_picture};

fn embed(run: &Run) -> Summary {
    run.run_on(&Model::builtin().unwrap(), Strips::boxed()).unwrap()
}

fn touch(path: &std::path::Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn a_changed_file_is_embedded_again_and_a_touched_one_is_not() {
    let place = Place::new();
    let (photos, store) = (place.photos(8), place.join("photos.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let run = tree(&photos, &store);
    assert_eq!(embed(&run).embedded, 8);
    let before = contents(&store);

    write_picture(&photos.join("a/000.png"), 77);
    touch(&photos.join("a/000.png"), 1_000_000_000);
    touch(&photos.join("a/002.png"), 1_000_000_000);
    touch(&photos.join("a/bad.jpg"), 1_000_000_000);
    let summary = embed(&run);
    assert_eq!((summary.embedded, summary.changed, summary.already), (1, 1, 8), "{summary:?}");
    assert!(summary.is_complete());
    let after = contents(&store);
    assert!(after.keys().eq(before.keys()));
    let changed: Vec<&String> = after.keys().filter(|key| after[*key] != before[*key]).collect();
    assert_eq!(changed, ["a/000.png"]);

    // The new times are remembered: nothing is looked into again.
    let plan = run.survey(&Embedder::builder(&Model::builtin().unwrap()).build()).unwrap();
    assert_eq!((plan.to_do, plan.changed), (0, 0));
    let again = embed(&run);
    assert_eq!((again.embedded, again.already, again.changed, again.commits), (0, 9, 0, 0), "{again:?}");

    // What was rejected gets another chance when it changes.
    write_picture(&photos.join("a/bad.jpg"), 5);
    let repaired = embed(&run);
    assert_eq!((repaired.embedded, repaired.changed, repaired.rejected), (1, 1, 0), "{repaired:?}");
    assert!(matches!(contents(&store)["a/bad.jpg"], Stored::Vector(_)));
    // And what was a picture may be none any more.
    fs::write(photos.join("a/004.png"), "cut off").unwrap();
    let spoiled = embed(&run);
    assert_eq!((spoiled.embedded, spoiled.rejected), (0, 1), "{spoiled:?}");
    assert!(matches!(contents(&store)["a/004.png"], Stored::Rejected(_)));
}
