//! What a run says at its end.

use std::fs;

use crate::command::{json, run, said};
use crate::common::Place;

#[test]
fn the_summary_is_three_lines_a_person_reads() {
    let place = Place::new();
    let (photos, store) = (place.photos(4), place.join("photos.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    fs::write(photos.join("a/worse.png"), "").unwrap();
    image::RgbImage::new(300, 300).save(photos.join("b/large.png")).unwrap();
    let whole = said(run(&photos, &store, &["--max-pixels=50000"]));
    assert_eq!(whole.code, 0, "{}", whole.err);
    let lines: Vec<&str> = whole.out.lines().collect();
    let [done, rejected, limit] = lines[..] else { panic!("{}", whole.out) };
    assert!(done.contains("4 embedded, 3 rejected, 0 already stored; 7 found"), "{done}");
    let classes = "2 decode (no pictures that can be decoded), 1 size (larger than the limits)";
    let list = format!("which and why: vecstore-embed status --rejected --store {}", store.display());
    assert_eq!(rejected, format!("rejected: {classes}; {list}"));
    assert!(limit.starts_with("limit: ") && limit.ends_with(" pictures a second"), "{limit}");
    assert!(!whole.err.contains("busy: "), "{}", whole.err);

    // Nothing rejected and nothing done has one line.
    let again = said(run(&photos, &store, &["--max-pixels=50000"]));
    assert_eq!(again.out.lines().count(), 1, "{}", again.out);
    assert!(again.out.contains("0 embedded, 0 rejected, 7 already stored"), "{}", again.out);
}

#[test]
fn the_stages_are_told_to_those_who_ask() {
    let place = Place::new();
    let (photos, store) = (place.photos(4), place.join("photos.vecs"));
    fs::write(photos.join("a/bad.jpg"), "Dear diary").unwrap();
    let run = said(run(&photos, &store, &["-v"]));
    assert!(run.err.contains("busy: listing files "), "{}", run.err);
    assert!(run.err.contains("bad.jpg: rejected: "), "each rejected file: {}", run.err);
    assert_eq!(run.out.lines().count(), 3, "{}", run.out);
}

#[test]
fn kinds_that_are_not_looked_at_are_named() {
    let place = Place::new();
    let (photos, store) = (place.photos(2), place.join("photos.vecs"));
    for name in ["1.heic", "2.HEIC", "a.txt", "b.txt", "c.txt", "README", "d.tar.gz"] {
        fs::write(photos.join("a").join(name), "Dear diary").unwrap();
    }
    // A picture by its content is one, whatever it is called.
    fs::copy(photos.join("a/000.png"), photos.join("a/picture.txt")).unwrap();
    let named = "not looked at: 1 .gz, 2 .heic, 3 .txt, 1 without an extension\n";
    let beforehand = said(run(&photos, &store, &["--dry-run"]));
    assert!(beforehand.out.contains("3 pictures") && beforehand.out.ends_with(named), "{}", beforehand.out);
    for embedded in ["3 embedded", "0 embedded"] {
        let run = said(run(&photos, &store, &[]));
        assert!(run.out.contains(embedded) && run.out.ends_with(named), "{}", run.out);
    }
    let found = json(run(&photos, &store, &["--json"]));
    assert_eq!(
        (&found["ignored"], &found["ignored_by_extension"]["heic"]),
        (&7.into(), &2.into()),
        "{found}"
    );
}
