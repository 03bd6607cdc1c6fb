//! A store whose folder is there before it: that of a drive which is mounted, or is not.

use std::fs;

use vecstore::Reader;

use crate::command::{run_tiny, said};
use crate::common::Place;

#[test]
fn an_empty_folder_becomes_a_store_unless_runs_had_one_there() {
    let place = Place::new();
    let (photos, store, away) = (place.photos(4), place.join("photos.vecs"), place.join("drive"));
    fs::create_dir_all(store.join("lost+found")).unwrap();
    let failed = said(run_tiny(&place.join("nowhere"), &store, &[]));
    assert_eq!(failed.code, 1, "{}", failed.err);
    let first = said(run_tiny(&photos, &store, &[]));
    assert_eq!(first.code, 0, "a run that failed before had no store: {}", first.err);
    assert!(store.join("lost+found").exists());

    fs::rename(&store, &away).unwrap();
    fs::create_dir(&store).unwrap();
    for more in [&[][..], &["--dry-run"]] {
        let refused = said(run_tiny(&photos, &store, more));
        assert_eq!(refused.code, 1, "{}", refused.err);
        for part in ["found an empty folder", "photos.vecs.runs", "is the drive mounted?", "mount it"] {
            assert!(refused.err.contains(part), "{part}: {}", refused.err);
        }
        assert_eq!(fs::read_dir(&store).unwrap().count(), 0, "nothing was put there");
    }
    fs::remove_dir(&store).unwrap();
    fs::rename(&away, &store).unwrap();
    let again = said(run_tiny(&photos, &store, &[]));
    assert!(again.code == 0 && again.out.contains("4 already stored"), "{}{}", again.out, again.err);

    fs::remove_dir_all(&store).unwrap();
    fs::create_dir(&store).unwrap();
    fs::rename(place.join("photos.vecs.runs"), away).unwrap();
    assert_eq!(
        said(run_tiny(&photos, &store, &[])).code,
        0,
        "a new store, as the error says how to begin one"
    );
    assert_eq!(Reader::open(&store).unwrap().snapshot().totals().with_rows, 4);
}

#[test]
fn a_folder_that_holds_something_is_no_place_for_a_store() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    fs::create_dir(&store).unwrap();
    fs::write(store.join("notes.txt"), "mine").unwrap();
    let refused = said(run_tiny(&photos, &store, &[]));
    assert_eq!(refused.code, 1, "{}", refused.err);
    assert!(refused.err.contains("photos.vecs: this is not a store"), "{}", refused.err);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 1);
}
