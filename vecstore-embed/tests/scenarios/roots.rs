//! Keys, whatever folder a run starts in.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use vecstore::Reader;
use vecstore_embed::{Error, Result, RootArg, Roots, Summary};

use crate::common::{Place, RunOn, Strips, keys, tiny, tree, write_picture};

fn run(folder: &Path, store: &Path, roots: &[(&str, &Path)]) -> Result<Summary> {
    let roots = roots.iter().map(|(name, dir)| RootArg::new(name, dir).unwrap());
    tree(folder, store).with_roots(roots).run_on(&tiny(), Strips::boxed())
}

/// `all/{mine/{1,2},yours/3}.png`
fn nested() -> Place {
    let place = Place::new();
    for (name, seed) in [("mine/people/1.png", 1), ("mine/2.png", 2), ("yours/3.png", 3)] {
        write_picture(&place.join("all").join(name), seed);
    }
    place
}

#[test]
fn a_run_one_folder_lower_finds_the_same_keys() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    assert_eq!(run(&all, &store, &[]).unwrap().embedded, 3);
    let lower = run(&all.join("mine"), &store, &[]).unwrap();
    assert_eq!((lower.already, lower.embedded), (2, 0));
    write_picture(&all.join("mine/people/4.png"), 4);
    assert_eq!(run(&all.join("mine/people"), &store, &[]).unwrap().embedded, 1);
    assert_eq!(keys(&store), ["mine/2.png", "mine/people/1.png", "mine/people/4.png", "yours/3.png"]);
}

#[test]
fn a_run_one_folder_higher_keeps_the_keys_and_asks_for_a_name_for_the_rest() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    assert_eq!(run(&all.join("mine"), &store, &[]).unwrap().embedded, 2);
    let refused = run(&all, &store, &[]).unwrap_err();
    let Error::OutsideRoots { example, count, .. } = &refused else { panic!("{refused}") };
    assert_eq!((example, *count), (&all.join("yours/3.png"), 1));
    assert!(
        refused.to_string().contains(&format!("as a root, for example more={}", all.display())),
        "{refused}"
    );
    assert_eq!(keys(&store), ["2.png", "people/1.png"]);

    let higher = run(&all, &store, &[("more", &all)]).unwrap();
    assert_eq!((higher.already, higher.embedded), (2, 1));
    assert_eq!(keys(&store), ["//more/yours/3.png", "2.png", "people/1.png"]);
    // The root is recorded, so its name is not needed again.
    let again = run(&all, &store, &[]).unwrap();
    assert_eq!((again.already, again.embedded), (3, 0));
    let again = run(&all.join("yours"), &store, &[]).unwrap();
    assert_eq!((again.already, again.embedded), (1, 0));
}

#[test]
fn nothing_above_the_root_but_its_own_pictures_needs_no_name() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    run(&all.join("mine"), &store, &[]).unwrap();
    fs::remove_dir_all(all.join("yours")).unwrap();
    assert_eq!(run(&all, &store, &[]).unwrap().already, 2);
}

#[test]
fn a_folder_elsewhere_needs_a_name() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    run(&all.join("mine"), &store, &[]).unwrap();
    let refused = run(&all.join("yours"), &store, &[]).unwrap_err();
    assert!(matches!(refused, Error::OutsideRoots { .. }), "{refused}");
    let named = run(&all.join("yours"), &store, &[("yours", &all.join("yours"))]).unwrap();
    assert_eq!(named.embedded, 1);
    assert_eq!(keys(&store), ["//yours/3.png", "2.png", "people/1.png"]);
}

#[test]
fn pictures_that_moved_are_found_by_pointing_their_root_at_the_new_place() {
    let place = nested();
    let (all, moved, store) = (place.join("all"), place.join("moved"), place.join("photos.vecs"));
    run(&all.join("mine"), &store, &[]).unwrap();
    run(&all.join("yours"), &store, &[("yours", &all.join("yours"))]).unwrap();
    fs::rename(&all, &moved).unwrap();
    assert!(run(&moved.join("mine"), &store, &[]).is_err());
    let mine = run(&moved.join("mine"), &store, &[(".", &moved.join("mine"))]).unwrap();
    assert_eq!((mine.already, mine.embedded), (2, 0));
    let yours = run(&moved.join("yours"), &store, &[("yours", &moved.join("yours"))]).unwrap();
    assert_eq!((yours.already, yours.embedded), (1, 0));
    let snapshot = Reader::open(&store).unwrap().snapshot();
    let dirs: Vec<_> =
        Roots::from_settings(snapshot.settings()).unwrap().iter().map(|root| root.dir().to_owned()).collect();
    assert_eq!(dirs, [moved.join("mine"), moved.join("yours")]);
}

#[test]
fn a_root_does_not_grow_or_shrink_while_its_pictures_are_where_they_were() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    let mine = all.join("mine");
    run(&mine, &store, &[]).unwrap();
    // Nothing suggests it: the advice to point the root elsewhere is for folders that its pictures can be in.
    let outside = run(&all, &store, &[]).unwrap_err().to_string();
    assert!(outside.contains("for example more=") && !outside.contains("moved"), "{outside}");
    let elsewhere = run(&all.join("yours"), &store, &[]).unwrap_err().to_string();
    assert!(elsewhere.contains(&format!("name it .={}", all.join("yours").display())), "{elsewhere}");
    let more = format!("as a root, for example more={}", all.display());
    for (folder, advice) in [(&all, &more[..]), (&mine.join("people"), "leave this root away")] {
        let refused = run(folder, &store, &[(".", folder)]).unwrap_err();
        assert!(matches!(refused, Error::RootStillThere { .. }), "{refused}");
        assert!(refused.to_string().contains(advice), "{refused}");
    }
    // The same folder again is no change.
    assert_eq!(run(&mine, &store, &[(".", &mine)]).unwrap().already, 2);
    assert_eq!(keys(&store), ["2.png", "people/1.png"]);
    // They did move, one folder higher.
    for name in ["people", "2.png"] {
        fs::rename(mine.join(name), all.join(name)).unwrap();
    }
    fs::remove_dir(&mine).unwrap();
    let moved = run(&all, &store, &[(".", &all)]).unwrap();
    assert_eq!((moved.already, moved.embedded), (2, 1));
}

#[test]
fn a_root_that_is_refused_changes_nothing() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    run(&all, &store, &[]).unwrap();
    let before = Reader::open(&store).unwrap().snapshot();
    let inside = run(&all, &store, &[("x", &all.join("mine"))]).unwrap_err();
    assert!(matches!(inside, Error::RootsOverlap { .. }), "{inside}");
    let missing = run(&all, &store, &[("x", &place.join("nowhere"))]).unwrap_err();
    assert!(matches!(missing, Error::FolderMissing { .. }), "{missing}");
    assert_eq!(Reader::open(&store).unwrap().snapshot().settings(), before.settings());
}

#[test]
fn the_way_to_the_folder_makes_no_difference() {
    let place = nested();
    let (all, store) = (place.join("all"), place.join("photos.vecs"));
    run(&all, &store, &[]).unwrap();
    std::os::unix::fs::symlink(&all, place.join("link")).unwrap();
    for way in [place.join("link"), place.join("link/mine"), all.join("mine/../yours/."), place.join("all/")]
    {
        let summary = run(&way, &store, &[]).unwrap();
        assert_eq!(summary.embedded, 0, "{}", way.display());
        assert!(summary.already > 0, "{}", way.display());
    }
}

#[test]
fn names_of_any_bytes_are_keys_as_they_are() {
    let place = Place::new();
    let odd = OsStr::from_bytes(b"caf\xe9 \n%");
    let (photos, store) = (place.path.join(odd), place.join("photos.vecs"));
    write_picture(&place.join("1.png"), 1);
    fs::create_dir(&photos).unwrap();
    fs::rename(place.join("1.png"), photos.join(OsStr::from_bytes(b"\xff.png"))).unwrap();
    for embedded in [1, 0] {
        assert_eq!(run(&photos, &store, &[]).unwrap().embedded, embedded);
    }
    assert!(Reader::open(&store).unwrap().snapshot().contains(b"\xff.png").unwrap());
}
