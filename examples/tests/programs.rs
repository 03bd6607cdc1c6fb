//! The programs that are meant to be copied from do what they say.

use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, dir: &Path) -> Output {
    Command::new(program).arg(dir).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn quickstart_runs_once_and_then_says_why_not() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("quickstart.vecs");
    let text = printed(&run(env!("CARGO_BIN_EXE_quickstart"), &dir));
    assert!(text.contains("appended 6 entries with 5 rows"), "{text}");
    assert!(text.contains("still missing: [2]"), "{text}");
    let nearest: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("nearest")).skip(1).collect();
    assert!(nearest[0].ends_with("apple") && nearest[1].ends_with("pear"), "{text}");

    let again = run(env!("CARGO_BIN_EXE_quickstart"), &dir);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("quickstart.vecs"));
}

#[test]
fn resume_goes_on_where_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let text = printed(&run(env!("CARGO_BIN_EXE_resume"), &place.path().join("resume.vecs")));
    let left = |run: &str| -> usize {
        let line = text.lines().find_map(|line| line.strip_prefix(run)).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(left("first run:"), 1000);
    // A third or more was stored before the kill, which may come late.
    assert!(left("second run:") <= 680, "{text}");
    assert!(text.contains("now the store holds 1000 words in 1000 rows"), "{text}");
}

#[test]
fn pictures_in_memory_are_embedded() {
    let text = printed(&Command::new(env!("CARGO_BIN_EXE_embed_in_memory")).output().unwrap());
    let cosine: f32 = text.rsplit(' ').next().unwrap().trim().parse().unwrap();
    assert!((0.95..1.0001).contains(&cosine), "{text}");
}

#[test]
fn a_source_of_a_program_is_embedded_once_and_searched() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("lines.vecs");
    for first in ["3 embedded, 0 already", "0 embedded, 3 already"] {
        let text = printed(&run(env!("CARGO_BIN_EXE_own_source"), &dir));
        assert!(text.contains(&format!("first run: {first}")), "{text}");
        assert!(text.contains("second run: 0 embedded, 3 already"), "{text}");
        assert!(text.contains("document 102, line 3 of 4"), "{text}");
        assert!(text.ends_with(": The rails are made of steel.\n"), "{text}");
    }
    // Lines that are not empty are rows; a document without any is an entry all the same.
    let snapshot = vecstore::Reader::open(&dir).unwrap().snapshot();
    assert_eq!((snapshot.len(), snapshot.totals().rows), (3, 5));
}

#[test]
fn make_pictures_makes_distinct_pictures_that_do_not_depend_on_their_number() {
    let place = tempfile::tempdir().unwrap();
    let (few, many) = (place.path().join("few"), place.path().join("many"));
    for (dir, count) in [(&few, "6"), (&many, "12")] {
        let output = Command::new(env!("CARGO_BIN_EXE_make_pictures"))
            .arg(dir)
            .args([count, "--size", "40x30", "--folders=4"])
            .output()
            .unwrap();
        printed(&output);
    }
    let files = |dir: &Path| {
        let mut found = std::collections::BTreeMap::new();
        for folder in std::fs::read_dir(dir).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
        found
    };
    let (few, many) = (files(&few), files(&many));
    assert_eq!((few.len(), many.len()), (6, 12));
    assert!(few.iter().all(|(path, bytes)| many.get(path) == Some(bytes)));
    let distinct: std::collections::BTreeSet<&Vec<u8>> = many.values().collect();
    assert_eq!(distinct.len(), 12);
    assert_eq!(image::load_from_memory(many.values().next().unwrap()).unwrap().width(), 40);
}

#[test]
fn make_pictures_refuses_nonsense() {
    for words in
        [&["x"][..], &["x", "1", "--size", "0x5"], &["x", "1", "--size", "9"], &["x", "1", "--folders", "0"]]
    {
        let output = Command::new(env!("CARGO_BIN_EXE_make_pictures")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}");
    }
}
