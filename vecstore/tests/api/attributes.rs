//! Attributes read back as they were given, through merges, backups and repairs; each attribute has one type
//! in a store.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{assert_whole, on_demand};
use crate::sim::SimFs;
use crate::sim::run::{STORE, options};
use vecstore::{Batch, DType, EntryBuilder, Error, OnDuplicate, Snapshot, Store, StoreConfig, Value};

type Given = Vec<(&'static str, Value<'static>)>;
/// The attributes of each entry, by key.
type All = BTreeMap<String, Given>;

/// The attributes of entry `number`, ordered by name: some of all types, or none.
fn given(number: usize) -> Given {
    let texts = [vec![], vec![""], vec!["b", "", "ä"]];
    let all = [
        ("bool", Value::Bool(number.is_multiple_of(2))),
        ("f64", Value::F64(number as f64 / -3.0)),
        ("i64", Value::I64(i64::MIN + number as i64)),
        ("text", Value::Text(["", "ä", "two words"][number % 3])),
        ("texts", Value::Texts(texts[number / 2 % 3].clone())),
        ("time", Value::Time(-(number as i64))),
    ];
    let present = |(at, _): &(usize, _)| number % 5 != 4 && (number + at * 3) % 4 != 1;
    all.into_iter().enumerate().filter(present).map(|(_, value)| value).collect()
}

fn with<'b, 'a>(entry: EntryBuilder<'b, 'a>, given: &Given) -> EntryBuilder<'b, 'a> {
    // In reverse order of names: the order in a batch does not matter.
    given.iter().rev().fold(entry, |entry, (name, value)| entry.attribute(name, value.clone()))
}

/// Appends entries of each kind; they replace entries with the same key.
fn put(store: &Store, all: &mut All, keys: impl Iterator<Item = usize>, given: impl Fn(usize) -> Given) {
    let mut batch = store.batch();
    for number in keys {
        let (key, given) = (number.to_string(), given(number));
        let entry = with(batch.entry(&key), &given);
        let pushed = match number % 4 {
            0 => entry.payload(b"payload").push_empty(),
            1 => entry.push_rejected("why"),
            rows => entry.rows(vec![[number as f32]; rows - 1]).push(),
        };
        pushed.unwrap();
        all.insert(key, given);
    }
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

fn delete(store: &Store, all: &mut All, keys: &[&str]) {
    assert_eq!(store.delete(keys).unwrap().deleted as usize, keys.len());
    keys.iter().for_each(|key| drop(all.remove(*key)));
}

fn read(snapshot: &Snapshot) -> BTreeMap<String, Vec<(&str, Value<'_>)>> {
    let mut found = BTreeMap::new();
    for entry in snapshot.iter() {
        let entry = entry.unwrap();
        let key = String::from_utf8(entry.key().to_vec()).unwrap();
        let all = entry.attributes().unwrap();
        for (name, value) in &all {
            assert_eq!(entry.attribute(name).unwrap().as_ref(), Some(value), "{key}: {name}");
        }
        assert_eq!(entry.attribute("no such").unwrap(), None);
        assert_eq!(snapshot.get(&key).unwrap().unwrap().attributes().unwrap(), all, "{key}");
        found.insert(key, all);
    }
    found
}

/// Asserts that the store has exactly these attributes, through this handle and a new reader, and is whole.
fn holds(path: &Path, store: &Store, all: &All) {
    let reader = on_demand().for_reading().open(path).unwrap();
    for snapshot in [store.snapshot(), reader.snapshot()] {
        assert_eq!(read(&snapshot), *all);
    }
    assert_whole(path);
}

/// A store of several segments, with replaced and deleted entries and a column that was added later.
fn filled(path: &Path) -> (Store, All) {
    let (store, mut all) = (on_demand().create(path, StoreConfig::new(1)).unwrap(), All::new());
    put(&store, &mut all, 0..70, given);
    holds(path, &store, &all);
    put(&store, &mut all, 60..90, |_| Given::new());
    put(&store, &mut all, (20..66).step_by(3), |number| given(number + 7));
    delete(&store, &mut all, &["3", "23", "64"]);
    put(&store, &mut all, 89..200, |number| {
        let later = (number.is_multiple_of(3)).then_some(("later", Value::I64(number as i64)));
        later.into_iter().chain(given(number)).collect::<BTreeMap<_, _>>().into_iter().collect()
    });
    holds(path, &store, &all);
    (store, all)
}

#[test]
fn attributes_stay_through_merges_backups_and_the_loss_of_the_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = at("s");
    let (store, mut all) = filled(&path);
    store.create_version("before").unwrap();
    let before = all.clone();
    store.backup(at("backup")).unwrap();
    assert!(store.compact().unwrap().merges > 0);
    holds(&path, &store, &all);
    delete(&store, &mut all, &["0", "150", "199"]);
    store.compact_full().unwrap();
    assert_eq!(store.snapshot().segments().count(), 1);
    holds(&path, &store, &all);
    store.close().unwrap();

    let then = on_demand().for_reading().at_version("before").open(&path).unwrap();
    assert_eq!(read(&then.snapshot()), before);
    vecstore::restore(at("backup"), at("restored")).unwrap();
    let restored = on_demand().open(at("restored")).unwrap();
    holds(&at("restored"), &restored, &before);
    put(&restored, &mut before.clone(), 0..9, given);
    restored.compact_full().unwrap();
    assert_whole(&at("restored"));

    std::fs::remove_file(path.join("MANIFEST")).unwrap();
    let report = vecstore::repair(&path).unwrap();
    assert!(report.rebuilt && report.findings.len() == 1, "{report:#?}");
    holds(&path, &on_demand().open(&path).unwrap(), &all);
}

/// Appends merge the segments that pile up; the latest entries are in segments of their own.
#[test]
fn attributes_stay_when_appends_merge() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (store, mut all) = (on_demand().create(&path, StoreConfig::new(1)).unwrap(), All::new());
    for number in 0..140 {
        put(&store, &mut all, number..number + 2, given);
    }
    assert!(store.snapshot().segments().count() < 100);
    holds(&path, &store, &all);
}

#[test]
fn merges_drop_columns_without_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (store, mut all) = (on_demand().create(&path, StoreConfig::new(1)).unwrap(), All::new());
    put(&store, &mut all, 0..2, |_| vec![("gone", Value::Text("text"))]);
    put(&store, &mut all, 2..3, |_| Given::new());
    delete(&store, &mut all, &["0", "1"]);
    let error = store.append(&mut of("k", "gone", 1.into()), OnDuplicate::Error).unwrap_err();
    assert!(error.to_string().contains("i64 in this batch, and text in the store"), "{error}");
    store.compact_full().unwrap();
    holds(&path, &store, &all);
    let file = store.snapshot().segments().next().unwrap().info().path;
    let sections = crate::common::layout::sections_of(&std::fs::read(file).unwrap());
    assert!(sections.iter().all(|section| !section.name.starts_with("ATT")), "{sections:?}");
    store.append(&mut of("k", "gone", 1.into()), OnDuplicate::Error).unwrap();
}

/// A batch of one entry with one attribute.
fn of(key: &str, name: &str, value: Value<'_>) -> Batch {
    let mut batch = Batch::new(1, DType::F32);
    batch.entry(key).row(&[1.0f32]).attribute(name, value).push().unwrap();
    batch
}

fn refused(error: Error, parts: &[&str]) {
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    parts.iter().for_each(|part| assert!(error.to_string().contains(part), "{part}: {error}"));
}

#[test]
fn a_second_type_of_an_attribute_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    store.append(&mut of("a", "year", 2024.into()), OnDuplicate::Error).unwrap();
    store.append(&mut of("b", "month", 1.into()), OnDuplicate::Error).unwrap();
    let refuses = |store: &Store| {
        for policy in [OnDuplicate::Error, OnDuplicate::Replace] {
            let mut batch = of("c", "year", "2024".into());
            let error = store.append(&mut batch, policy).unwrap_err();
            let parts = ["\"year\" is text in this batch, and i64 in the store", "nothing", "another name"];
            refused(error, &parts);
            assert_eq!(batch.len(), 1, "as it was");
        }
        refused(
            store.append(&mut of("c", "month", Value::Time(1)), OnDuplicate::Skip).unwrap_err(),
            &["time"],
        );
        assert!(!store.snapshot().contains("c").unwrap());
    };
    refuses(&store);
    let commits = store.snapshot().last_commit();
    // A handle that has read no attribute yet; then a merged segment.
    let other = on_demand().open(&path).unwrap();
    refuses(&other);
    store.compact_full().unwrap();
    refuses(&store);
    assert_eq!(store.snapshot().last_commit(), commits);
    other.append(&mut of("c", "year", 1.into()), OnDuplicate::Error).unwrap();
    assert_whole(&path);
}

/// The reason for the limit: each name is a column of every merged segment.
#[test]
fn the_number_of_attribute_names_is_limited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = on_demand().create(&path, StoreConfig::new(1)).unwrap();
    for name in 0..256 {
        let mut batch = of(&format!("of {name}"), &format!("tag {name}"), true.into());
        store.append(&mut batch, OnDuplicate::Error).unwrap();
    }
    let error = store.append(&mut of("b", "one more", true.into()), OnDuplicate::Error).unwrap_err();
    refused(error, &["257 attributes", "256 is the most", "nothing", "payload"]);
    store.append(&mut of("b", "tag 7", false.into()), OnDuplicate::Error).unwrap();
    // A name without values makes room for another name once segments are merged.
    store.delete(&["of 0"]).unwrap();
    store.compact_full().unwrap();
    store.append(&mut of("c", "one more", true.into()), OnDuplicate::Error).unwrap();
    assert_whole(&path);
}

/// Batches of one group become one segment. A refused batch or a skipped entry sets no type.
#[test]
fn the_first_batch_of_a_group_sets_the_type() {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(1)).unwrap();
    store.append(&mut of("there", "other", 1.into()), OnDuplicate::Error).unwrap();
    // Batches that arrive while another segment is written form one group.
    let held = fs.hold_next("create");
    let append = |batch, policy| store.submit(batch, policy).unwrap();
    let before = append(of("before", "first", true.into()), OnDuplicate::Error);
    held.there();
    let skipped = append(of("there", "year", Value::Time(0)), OnDuplicate::Skip);
    let duplicate = append(of("there", "year", 0.5.into()), OnDuplicate::Error);
    let first = append(of("a", "year", 2024.into()), OnDuplicate::Error);
    let wrong = append(of("b", "year", "2024".into()), OnDuplicate::Error);
    let of_store = append(of("c", "first", "yes".into()), OnDuplicate::Error);
    let second = append(of("d", "year", 2025.into()), OnDuplicate::Error);
    let again = append(of("b", "month", "May".into()), OnDuplicate::Error);
    drop(held);
    assert_eq!(before.wait().unwrap().entries, 1);
    assert_eq!(skipped.wait().unwrap().skipped, 1);
    assert!(matches!(duplicate.wait(), Err(Error::DuplicateKey { .. })));
    assert_eq!(first.wait().unwrap().entries, 1);
    refused(
        wrong.wait().unwrap_err(),
        &["\"year\" is text in this batch, and i64 in a batch that is appended"],
    );
    refused(of_store.wait().unwrap_err(), &["\"first\" is text in this batch, and bool in the store"]);
    assert_eq!((second.wait().unwrap().entries, again.wait().unwrap().entries), (1, 1));
    let all = [
        ("a", "year", Value::I64(2024)),
        ("b", "month", Value::Text("May")),
        ("before", "first", Value::Bool(true)),
        ("d", "year", Value::I64(2025)),
        ("there", "other", Value::I64(1)),
    ];
    let all: All = all.into_iter().map(|(key, name, value)| (key.to_owned(), vec![(name, value)])).collect();
    assert_eq!(read(&store.snapshot()), all);
    assert_eq!(fs.names(&format!("{STORE}/segments")).len(), 3, "one file for the group");
}
