//! Inputs of no item, of one and of seven.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vecstore::{Field, Kind, Reader, Value};
use vecstore_embed::{Observer, Outcome, Run};

use crate::common::{Letters, Table, embedder, vector};

const SEVEN: &str = "a\nbb\nccc\ndddd\neeeee\nffffff\nggggggg";

/// What became of each input, as it was told.
#[derive(Default)]
struct Settled(Mutex<BTreeMap<Vec<u8>, String>>);

impl Observer for Settled {
    fn settled(&self, key: &[u8], outcome: &Outcome) {
        let what = match outcome {
            Outcome::Embedded(embedded) => format!("{} rows", embedded.rows().len()),
            Outcome::Rejected(rejected) => rejected.to_string(),
            Outcome::Unread(error) => error.to_string(),
            _ => unreachable!("there is nothing else"),
        };
        assert_eq!(self.0.lock().unwrap().insert(key.to_vec(), what), None, "told once");
    }
}

#[test]
fn an_input_has_as_many_rows_as_items_and_each_row_its_own_fields() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("texts.vecs");
    let table = Table::of(&[
        ("none", ""),
        ("one", "hello"),
        ("seven", SEVEN),
        ("bad", "fine\nwith\ta tab"),
        ("worse", "first\npanic"),
    ]);
    table.0.lock().unwrap().insert(b"away".to_vec(), None);
    let settled = Arc::new(Settled::default());
    let run = Run::new(table, &store).with_observer(Arc::clone(&settled) as Arc<dyn Observer>);
    let summary = run.run(&embedder(Letters::boxed(|_, _| Ok(()))).batch(64).build()).unwrap();
    assert_eq!((summary.embedded, summary.rows, summary.rejected), (3, 8, 2), "{summary:?}");
    assert_eq!((summary.found, summary.unread.count(), summary.is_complete()), (6, 1, false));

    let snapshot = Reader::open(&store).unwrap().snapshot();
    let entry = |key: &str| snapshot.get(key).unwrap().unwrap();
    assert_eq!((entry("none").kind(), entry("none").row_count()), (Kind::Empty, 0));
    assert_eq!(entry("one").to_f32().unwrap(), vector("hello"));
    let seven = entry("seven");
    let vectors: Vec<f32> = SEVEN.lines().flat_map(vector).collect();
    assert_eq!((seven.row_count(), seven.to_f32().unwrap()), (7, vectors));
    let fields = Field::decode(seven.payload()).unwrap();
    let lines: Vec<(Option<u32>, &str)> = fields
        .iter()
        .filter(|field| field.tag == *b"line")
        .map(|field| (field.row, std::str::from_utf8(field.value).unwrap()))
        .collect();
    assert_eq!(
        lines,
        SEVEN.lines().enumerate().map(|(at, line)| (Some(at as u32), line)).collect::<Vec<_>>()
    );
    assert_eq!(Field::find(seven.payload(), b"leng"), Some(&b"34"[..]));
    assert_eq!(seven.attribute("lines").unwrap(), Some(Value::I64(7)));
    assert_eq!(seven.attribute("title").unwrap(), Some(Value::Text("a")));
    assert_eq!(entry("none").attribute("lines").unwrap(), Some(Value::I64(0)));
    assert_eq!(entry("bad").reason(), Some("a tab"));
    assert_eq!(entry("worse").reason(), Some("the decoder failed on this content"));
    assert!(snapshot.get("away").unwrap().is_none());

    let told: Vec<(String, String)> = settled
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|(key, what)| (String::from_utf8_lossy(key).into_owned(), what.clone()))
        .collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(key, what)| (&key[..], &what[..])).collect();
    assert_eq!(
        told,
        [
            ("away", "the database is away"),
            ("bad", "a tab"),
            ("none", "0 rows"),
            ("one", "1 rows"),
            ("seven", "7 rows"),
            ("worse", "the decoder failed on this content"),
        ]
    );
}

#[test]
fn one_item_that_the_model_fails_on_rejects_its_input_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("texts.vecs");
    let table = Table::of(&[("a", "one\ntwo"), ("b", "three\nXour\nfive"), ("c", "six")]);
    let failing = Letters::boxed(|_, first| match first.contains(&f32::from(b'X')) {
        true => Err(vecstore_embed::Error::Inference {
            backend: "letters".to_owned(),
            model: "letters".to_owned(),
            found: "an X".to_owned(),
        }),
        false => Ok(()),
    });
    let summary = Run::new(table, &store).run(&embedder(failing).build()).unwrap();
    assert_eq!((summary.embedded, summary.rows, summary.rejected), (2, 3, 1));
    let snapshot = Reader::open(&store).unwrap().snapshot();
    let reason = snapshot.get("b").unwrap().unwrap().reason().unwrap().to_owned();
    assert_eq!(reason, "item 2 of 3: the model fails on it: an X");
    assert_eq!(snapshot.totals().rows, 3);
}
