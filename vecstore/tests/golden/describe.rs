//! Describes as JSON what a reader finds in a store, and how a store is refused.

use std::path::Path;

use serde_json::{Map, Value, json};
use vecstore::{Entry, Error, Kind, ReadOptions, Reader, Snapshot, Value as Attribute, escaped};

use crate::common::{copy_dir, on_demand};

/// Everything that a reader finds in the store.
pub fn describe(path: &Path) -> Value {
    let store = ReadOptions::new().open(path).unwrap_or_else(|error| panic!("{error}"));
    let report = vecstore::verify(path).unwrap();
    assert!(report.is_whole(), "{}: {:?}", path.display(), report.faults);
    let snapshot = store.snapshot();
    let mut all = contents(&snapshot);
    let versions = store.versions().unwrap().into_iter().map(|version| {
        let then = ReadOptions::new().at_version(&version.name).open(path).unwrap();
        (version.name, Value::Object(contents(&then.snapshot())))
    });
    let versions: Map<String, Value> = versions.collect();
    all.insert("versions".into(), versions.into());
    all.insert(
        "settings".into(),
        snapshot.settings().iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect(),
    );
    let fingerprint = snapshot.fingerprint();
    all.insert("fingerprint".into(), fingerprint.map_or(Value::Null, |known| known.description().into()));
    let (is_writable, merges) = goes_on(path);
    all.insert("writable".into(), is_writable.into());
    all.insert("merges".into(), merges.into());
    let place = format!("{}/", path.display());
    let notes = report.notes.iter().map(|note| note.replace(&place, ""));
    all.insert("notes".into(), notes.collect());
    all.into()
}

/// Tells whether a copy of the store can be written to, and whether it can be merged into one segment.
fn goes_on(path: &Path) -> (bool, bool) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    copy_dir(path, &copy);
    on_demand().open(&copy).map_or((false, false), |store| (true, store.compact_full().is_ok()))
}

fn contents(snapshot: &Snapshot) -> Map<String, Value> {
    let entries: Vec<Value> = snapshot.iter().map(|entry| describe_entry(&entry.unwrap())).collect();
    let totals = snapshot.totals();
    let all = json!({
        "dim": snapshot.dim(), "dtype": snapshot.dtype().to_string(), "metric": snapshot.metric().to_string(),
        "last_commit": snapshot.last_commit(),
        "totals": {
            // The expected files call the entries with rows "entries".
            "entries": totals.with_rows, "empty": totals.empty, "rejected": totals.rejected,
            "tombstones": totals.tombstones, "rows": totals.rows,
        },
        "entries": entries,
    });
    let Value::Object(all) = all else { panic!("an object") };
    all
}

fn describe_entry(entry: &Entry<'_>) -> Value {
    let rows: Vec<Value> = entry.to_f32().unwrap().into_iter().map(Value::from).collect();
    let mut said = json!({
        "key": escaped(entry.key()), "kind": entry.kind().to_string(), "address": entry.address().to_string(),
        "rows": rows, "payload": escaped(entry.payload()),
    });
    if entry.kind() == Kind::Rejected {
        said["reason"] = entry.reason().into();
    }
    let attributes = entry.attributes().unwrap();
    if !attributes.is_empty() {
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), describe_value(value)));
        said["attributes"] = attributes.collect();
    }
    said
}

fn describe_value(value: &Attribute<'_>) -> Value {
    let said = match value {
        Attribute::Bool(value) => Value::from(*value),
        Attribute::I64(value) | Attribute::Time(value) => Value::from(*value),
        Attribute::F64(value) => Value::from(*value),
        Attribute::Text(value) => Value::from(*value),
        Attribute::Texts(values) => values.iter().map(|value| Value::from(*value)).collect(),
        other => panic!("{other:?}"),
    };
    json!({ "type": value.attribute_type().to_string(), "value": said })
}

/// How opening and verifying the store end. Kinds of errors alone: their messages may change.
pub fn refusal(path: &Path) -> Value {
    let kind = |error: Error| match error {
        Error::Damaged { .. } => "Damaged".to_owned(),
        Error::ForeignSegment { .. } => "ForeignSegment".to_owned(),
        Error::MissingSegment { .. } => "MissingSegment".to_owned(),
        Error::UnsupportedVersion { .. } => "UnsupportedVersion".to_owned(),
        other => format!("another error: {other}"),
    };
    let opened = Reader::open(path).err().map(kind);
    let report = vecstore::verify(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!report.is_whole(), "{}: nothing is wrong with it", path.display());
    let faults = report.faults.iter().map(|fault| {
        let file = fault.path.strip_prefix(path).unwrap().display().to_string();
        json!({ "file": file, "section": fault.section })
    });
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    copy_dir(path, &copy);
    json!({
        "open": opened, "verify": faults.collect::<Vec<_>>(), "repairs": vecstore::repair(&copy).is_ok(),
    })
}
