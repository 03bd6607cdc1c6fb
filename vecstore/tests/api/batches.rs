//! The effect of each entry of a batch: repeated keys, policies of single entries, conditions, copies.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vecstore::{Address, Appended, Batch, Error, OnDuplicate, Store, StoreConfig};

use crate::common::{assert_whole, on_demand};

fn store(dir: &tempfile::TempDir) -> Store {
    on_demand().create(dir.path().join("s"), StoreConfig::new(1)).unwrap()
}

/// Keys and first elements of the stored entries.
fn contents(store: &Store) -> BTreeMap<String, f32> {
    let snapshot = store.snapshot();
    let entries = snapshot.iter().map(|entry| {
        let entry = entry.unwrap();
        (String::from_utf8_lossy(entry.key()).into_owned(), entry.to_f32().unwrap()[0])
    });
    entries.collect()
}

fn twice(store: &Store, policy: OnDuplicate) -> Result<Appended, Error> {
    let mut batch = store.batch();
    batch.push("a", &[1.0f32]).unwrap();
    batch.push("b", &[2.0f32]).unwrap();
    batch.push("a", &[3.0f32]).unwrap();
    store.append(&mut batch, policy)
}

#[test]
fn skip_stores_the_first_entry_of_a_repeated_key_and_replace_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let appended = twice(&store, OnDuplicate::Skip).unwrap();
    assert_eq!((appended.entries, appended.skipped, appended.replaced), (2, 1, 0));
    assert_eq!(contents(&store)["a"], 1.0);
    let appended = twice(&store, OnDuplicate::Replace).unwrap();
    assert_eq!((appended.entries, appended.skipped, appended.replaced), (2, 1, 2));
    assert_eq!(contents(&store)["a"], 3.0);
    let error = twice(&store, OnDuplicate::Error).unwrap_err();
    assert!(matches!(error, Error::DuplicateKey { count: 3, .. }), "{error}");
    let snapshot = store.snapshot();
    assert_eq!((snapshot.last_commit(), snapshot.len(), snapshot.totals().dead_rows), (2, 2, 2));
    store.close().unwrap();
    assert_whole(&dir.path().join("s"));
}

#[test]
fn a_repeated_new_key_is_an_error_with_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let error = twice(&store, OnDuplicate::Error).unwrap_err();
    assert!(matches!(&error, Error::DuplicateKey { key, count: 1, .. } if key == b"a"), "{error}");
    assert!(store.snapshot().is_empty());
}

#[test]
fn an_entry_has_its_own_policy() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    twice(&store, OnDuplicate::Skip).unwrap();
    let mut batch = store.batch();
    batch.push("a", &[8.0f32]).unwrap();
    batch.entry("b").row(&[9.0f32]).on_duplicate(OnDuplicate::Replace).push().unwrap();
    let appended = store.append(&mut batch, OnDuplicate::Skip).unwrap();
    assert_eq!((appended.skipped, appended.replaced), (1, 1));
    assert_eq!(contents(&store), BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 9.0)]));
    batch.entry("a").row(&[8.0f32]).on_duplicate(OnDuplicate::Error).push().unwrap();
    let error = store.append(&mut batch, OnDuplicate::Replace).unwrap_err();
    assert!(matches!(error, Error::DuplicateKey { .. }), "{error}");
}

#[test]
fn replace_if_loses_no_update_of_two_handles() {
    let dir = tempfile::tempdir().unwrap();
    let first = store(&dir);
    let second = Store::open(dir.path().join("s")).unwrap();
    let mut batch = first.batch();
    batch.push("count", &[0.0f32]).unwrap();
    batch.push_empty("none").unwrap();
    first.append(&mut batch, OnDuplicate::Error).unwrap();
    let increment = |store: &Store| {
        let snapshot = store.refresh().unwrap();
        let entry = snapshot.get("count").unwrap().unwrap();
        let mut batch = store.batch();
        let next = entry.to_f32().unwrap()[0] + 1.0;
        batch.entry("count").row(&[next]).replace_if(entry.address()).push().unwrap();
        batch
    };
    let (mut one, mut two) = (increment(&first), increment(&second));
    first.append(&mut one, OnDuplicate::Error).unwrap();
    let error = second.append(&mut two, OnDuplicate::Error).unwrap_err();
    assert!(matches!(error, Error::EntryChanged { expected: 1, found: Some(2), .. }), "{error}");
    assert!(!error.is_transient() && !error.needs_reopen());
    second.append(&mut increment(&second), OnDuplicate::Error).unwrap();
    assert_eq!(second.snapshot().get("count").unwrap().unwrap().to_f32().unwrap(), [2.0]);
    // An entry without rows has a commit, too; a key that is not stored has no commit.
    let mut batch = second.batch();
    let none = second.snapshot().get_owned("none").unwrap().unwrap();
    batch.entry("none").payload(b"p").replace_if(none.entry().address()).push_empty().unwrap();
    second.append(&mut batch, OnDuplicate::Error).unwrap();
    second.delete(&["none"]).unwrap();
    let (commit, row) = (3, 0);
    batch.entry("none").replace_if(Address { commit, row }).push_empty().unwrap();
    let error = second.append(&mut batch, OnDuplicate::Error).unwrap_err();
    assert!(matches!(error, Error::EntryChanged { found: None, .. }), "{error}");
    let count = second.snapshot().get_owned("count").unwrap().unwrap();
    let mut batch = second.batch();
    batch.delete("count").unwrap();
    batch.entry("count").row(&[9.0f32]).replace_if(count.entry().address()).push().unwrap();
    let error = second.append(&mut batch, OnDuplicate::Error).unwrap_err();
    assert!(matches!(error, Error::EntryChanged { found: None, .. }), "deleted by the batch: {error}");
}

#[test]
fn a_rename_loses_no_update_of_another_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut batch = store.batch();
    batch.push("old", &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let rename = || {
        let found = store.snapshot().get_owned("old").unwrap().unwrap();
        let mut batch = store.batch();
        batch.push_entry_as("new", &found.entry()).unwrap();
        batch.delete_entry(&found.entry()).unwrap();
        batch
    };
    let mut early = rename();
    batch.push("old", &[2.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
    let error = store.append(&mut early, OnDuplicate::Error).unwrap_err();
    assert!(matches!(error, Error::EntryChanged { expected: 1, found: Some(2), .. }), "{error}");
    store.append(&mut rename(), OnDuplicate::Error).unwrap();
    assert_eq!(contents(&store), BTreeMap::from([("new".to_owned(), 2.0)]));
    let error = store.append(&mut early, OnDuplicate::Replace).unwrap_err();
    assert!(matches!(error, Error::EntryChanged { found: None, .. }), "deleted meanwhile: {error}");
}

#[test]
fn a_copy_takes_a_later_payload_attribute_and_row() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut batch = store.batch();
    let entry = batch.entry("a").row(&[1.0f32]).payload(b"old");
    entry.attribute("x", 1).attribute("y", 2).attribute("z", 3).push().unwrap();
    batch.entry("rejected").attribute("x", 1).push_rejected("because").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let snapshot = store.snapshot();
    let (a, rejected) = (snapshot.get("a").unwrap().unwrap(), snapshot.get("rejected").unwrap().unwrap());
    let copy = batch.entry("b").copy_of(&a).payload(b"new").attribute("y", 7).row(&[2.0f32]);
    copy.push().unwrap();
    batch.entry("c").copy_of(&rejected).attribute("x", 8).push().unwrap();
    let twice = batch.entry("d").copy_of(&a).attribute("y", 7).attribute("y", 8).push().unwrap_err();
    assert!(twice.to_string().contains("\"y\" is there twice"), "{twice}");
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let snapshot = store.snapshot();
    let (b, c) = (snapshot.get("b").unwrap().unwrap(), snapshot.get("c").unwrap().unwrap());
    assert_eq!((b.to_f32().unwrap(), b.payload()), (vec![1.0, 2.0], &b"new"[..]));
    let of_b: Vec<_> =
        b.attributes().unwrap().into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    assert_eq!(of_b, ["x=I64(1)", "y=I64(7)", "z=I64(3)"]);
    assert_eq!((c.kind(), c.reason()), (rejected.kind(), Some("because")));
    assert_eq!(c.attribute("x").unwrap(), Some(vecstore::Value::I64(8)));
}

#[test]
fn a_batch_that_expects_a_commit_is_refused_after_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let put = |key: &str, expected: u64| {
        let mut batch = store.batch();
        batch.push(key, &[1.0f32]).unwrap();
        batch.expect_last_commit(expected);
        store.append(&mut batch, OnDuplicate::Skip)
    };
    put("a", 0).unwrap();
    let error = put("b", 0).unwrap_err();
    assert!(matches!(error, Error::StoreChanged { expected: 0, found: 1, .. }), "{error}");
    put("b", 1).unwrap();
    assert_eq!(store.snapshot().len(), 2);
    // The condition holds for a batch without entries, too.
    let mut batch = store.batch();
    batch.expect_last_commit(7);
    assert!(matches!(store.append(&mut batch, OnDuplicate::Skip), Err(Error::StoreChanged { .. })));
    batch.expect_last_commit(2);
    assert_eq!(store.append(&mut batch, OnDuplicate::Skip).unwrap().commit, None);
    // The condition holds for submitted batches, too, and `clear` removes it.
    let mut batch = store.batch();
    batch.push("c", &[1.0f32]).unwrap();
    batch.expect_last_commit(7);
    let (outcome, mut batch) = store.submit(batch, OnDuplicate::Skip).unwrap().wait_with_batch();
    assert!(matches!(outcome, Err(Error::StoreChanged { .. })));
    batch.clear();
    batch.push("c", &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Skip).unwrap();
}

#[test]
fn entries_are_copied_with_rows_payload_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let mut batch = store.batch();
    let entry = batch.entry("rows").rows([[1.0f32], [2.0]]).payload(b"payload");
    entry.attribute("year", 2024).attribute("tags", vec!["x", "y"]).push().unwrap();
    batch.entry("rejected").payload(b"p").push_rejected("because").unwrap();
    batch.push_empty("empty").unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    let other = on_demand().create(dir.path().join("other"), StoreConfig::new(1)).unwrap();
    let mut batch = other.batch();
    for entry in store.snapshot() {
        let entry = entry.unwrap();
        batch.push_entry(&entry.entry()).unwrap();
        let copy = [entry.entry().key(), b".copy"].concat();
        batch.push_entry_as(copy, &entry.entry()).unwrap();
    }
    other.append(&mut batch, OnDuplicate::Error).unwrap();
    let (from, to) = (store.snapshot(), other.snapshot());
    assert_eq!((from.len(), to.len()), (3, 6));
    for entry in &from {
        let entry = entry.unwrap();
        for key in [entry.key().to_vec(), [entry.key(), b".copy"].concat()] {
            let copy = to.get(&key).unwrap().unwrap();
            assert_eq!(copy.kind(), entry.kind());
            assert_eq!(copy.to_f32().unwrap(), entry.to_f32().unwrap());
            assert_eq!((copy.payload(), copy.reason()), (entry.payload(), entry.reason()));
            assert_eq!(copy.attributes().unwrap(), entry.attributes().unwrap());
        }
    }
    let wider = Batch::new(2, vecstore::DType::F32);
    for mut batch in [wider, Batch::new(1, vecstore::DType::F16)] {
        let entry = from.get("rows").unwrap().unwrap();
        let error = batch.push_entry(&entry).unwrap_err();
        assert!(matches!(error, Error::DimensionMismatch { .. } | Error::DTypeMismatch { .. }), "{error}");
        assert!(batch.is_empty());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Option<OnDuplicate>),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let policy = prop_oneof![Just(None), Just(Some(OnDuplicate::Skip)), Just(Some(OnDuplicate::Replace)),];
    let step = prop_oneof![
        3 => (0..4u8, policy).prop_map(|(key, policy)| Step::Put(key, policy)),
        1 => (0..4u8).prop_map(Step::Delete),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..8), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The entries of a batch have the same effect as one batch for each of them.
    #[test]
    fn a_batch_has_the_effect_of_its_entries_one_by_one(batches in steps(), skip in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let policy = if skip { OnDuplicate::Skip } else { OnDuplicate::Replace };
        let store = store(&dir);
        let mut expected = BTreeMap::new();
        let mut value = 0.0f32;
        for steps in &batches {
            let mut batch = store.batch();
            let before = expected.clone();
            for step in steps {
                value += 1.0;
                match step {
                    Step::Put(key, own) => {
                        let entry = batch.entry(key.to_string()).row(&[value]);
                        own.iter().fold(entry, |entry, own| entry.on_duplicate(*own)).push().unwrap();
                        let keeps = own.unwrap_or(policy) == OnDuplicate::Skip;
                        if !keeps || !expected.contains_key(&key.to_string()) {
                            expected.insert(key.to_string(), value);
                        }
                    }
                    Step::Delete(key) => {
                        batch.delete(key.to_string()).unwrap();
                        expected.remove(&key.to_string());
                    }
                }
            }
            let appended = store.append(&mut batch, policy).unwrap();
            prop_assert_eq!(&contents(&store), &expected);
            let is_replaced =
                |(key, value): &(&String, &f32)| before.get(*key).is_some_and(|old| old != *value);
            prop_assert_eq!(appended.replaced, expected.iter().filter(is_replaced).count() as u64);
            let deleted = before.keys().filter(|key| !expected.contains_key(*key)).count() as u64;
            prop_assert_eq!(appended.deleted, deleted);
            let is_written = |(key, value): &(&String, &f32)| before.get(*key) != Some(*value);
            let written = expected.iter().filter(is_written).count() as u64;
            prop_assert_eq!(appended.entries, written);
            let left_out = steps.len() as u64 - written - deleted;
            prop_assert_eq!(appended.skipped, left_out);
        }
        store.close().unwrap();
        assert_whole(&dir.path().join("s"));
    }
}
