//! Two towers in one space.

use vecstore::Reader;
use vecstore_embed::{Embedder, Error, Run};

use crate::common::{Letters, Lines, Table, embedder};

/// Another model than that of `embedder`: its vectors are twice as long.
fn other() -> vecstore_embed::EmbedderBuilder {
    Embedder::custom("doubled", "1", Lines, vec![Letters::scaled(2.0, |_, _| Ok(()))]).unwrap()
}

#[test]
fn towers_of_one_space_search_each_others_stores_and_write_only_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("texts.vecs");
    let table = Table::of(&[("a", "aaaa"), ("z", "zzzz")]);
    let first = embedder(Letters::boxed(|_, _| Ok(()))).space("letters").build();
    Run::new(table.clone(), &store).run(&first).unwrap();
    let reader = Reader::open(&store).unwrap();
    assert_eq!(reader.snapshot().setting("model.space"), Some("letters"));

    let second = other().space("letters").build();
    second.check_query(&reader).unwrap();
    let query = second.embed(&b"aaaa"[..]).unwrap();
    assert_eq!(reader.snapshot().search(&query, 1).unwrap()[0].key, b"a");
    for stranger in [other().build(), other().space("numbers").build()] {
        let refused = stranger.check_query(&reader).unwrap_err();
        assert!(refused.to_string().contains("doubled 1"), "{refused}");
    }
    // What is stored comes from one tower.
    let refused = Run::new(table, &store).run(&second).unwrap_err();
    let Error::Store(refused) = refused else { panic!("{refused}") };
    assert!(matches!(*refused, vecstore::Error::FingerprintMismatch { .. }), "{refused}");
}
