//! Embedding without a store.

use std::io;

use vecstore_embed::{Embedded, Error, Outcome, Rejected};

use crate::common::{Letters, Table, embedder, vector};

fn inference(found: &str) -> Error {
    Error::Inference { backend: "letters".to_owned(), model: "letters".to_owned(), found: found.to_owned() }
}

#[test]
fn many_inputs_come_back_in_their_order_each_with_its_vectors_or_the_reason_why_not() {
    let failing = Letters::boxed(|_, first| match first.contains(&f32::from(b'X')) {
        true => Err(inference("an X")),
        false => Ok(()),
    });
    let embedder = embedder(failing).build();
    let texts: Vec<Vec<u8>> = (0..50u8)
        .map(|at| match at % 10 {
            3 => b"X".to_vec(),
            5 => b"a\ttab".to_vec(),
            7 => vec![0xff],
            8 => Vec::new(),
            _ => format!("{at}\nsecond of {at}").into_bytes(),
        })
        .collect();
    let found = embedder.embed_all(&texts).unwrap();
    assert_eq!(found.len(), 50);
    for (at, found) in found.iter().enumerate() {
        let reason = |found: &Result<Embedded, Rejected>| found.as_ref().unwrap_err().reason.clone();
        match at % 10 {
            3 => assert_eq!(reason(found), "the model fails on it: an X"),
            5 => assert_eq!(reason(found), "a tab"),
            7 => assert_eq!(reason(found), "not UTF-8"),
            8 => assert!(found.as_ref().unwrap().rows().is_empty()),
            _ => {
                let rows = found.as_ref().unwrap().rows();
                assert_eq!(rows, [vector(&at.to_string()), vector(&format!("second of {at}"))]);
            }
        }
    }
    assert_eq!(embedder.embed(&b"one"[..]).unwrap(), vector("one"));
    let several = embedder.embed(&b"one\ntwo"[..]).unwrap_err().to_string();
    assert!(several.contains("expected one vector") && several.contains("2 vectors"), "{several}");
    let bad = embedder.embed(&b"a\ttab"[..]).unwrap_err();
    assert!(matches!(&bad, Error::Rejected { rejected } if rejected.reason == "a tab"), "{bad}");
    assert!(embedder.embed_all::<Vec<u8>>(&[]).unwrap().is_empty());
}

#[test]
fn a_stream_gives_every_input_and_ends_when_it_is_dropped() {
    let table = Table::default();
    (0..500).for_each(|at| table.set(&format!("{at:03}"), &format!("text {at}"), 1));
    table.0.lock().unwrap().insert(b"away".to_vec(), None);
    let embedder = embedder(Letters::boxed(|_, _| Ok(()))).build();
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for found in embedder.stream(table.clone()) {
        let (key, outcome) = found.unwrap();
        match outcome {
            Outcome::Embedded(embedded) => {
                let number: u32 = std::str::from_utf8(&key).unwrap().parse().unwrap();
                assert_eq!(embedded.into_vector().unwrap(), vector(&format!("text {number}")));
            }
            Outcome::Unread(error) => {
                assert_eq!((&key[..], error.kind()), (&b"away"[..], io::ErrorKind::Other))
            }
            other => panic!("{other:?}"),
        }
        keys.push(key);
    }
    keys.sort_unstable();
    assert_eq!(keys, table.0.lock().unwrap().keys().cloned().collect::<Vec<_>>());
    // Dropped after a few, it ends its threads, and the embedder can be used again.
    assert_eq!(embedder.stream(table).take(3).count(), 3);
    assert_eq!(embedder.embed(&b"again"[..]).unwrap(), vector("again"));
}

#[test]
fn a_model_that_fails_on_everything_is_an_error_of_the_stream_and_not_an_end() {
    let table = Table::of(&[("a", "one"), ("b", "two")]);
    let embedder = embedder(Letters::boxed(|_, _| Err(inference("the device is gone")))).build();
    let last = embedder.stream(table).last().unwrap();
    assert!(last.unwrap_err().to_string().contains("the device is gone"));
    let all = embedder.embed_all(&[&b"one"[..]]).unwrap_err();
    assert!(all.to_string().contains("the device is gone"));
}
