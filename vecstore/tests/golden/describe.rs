//! What is found in a store, as JSON; and how one is refused.

use std::path::Path;

use serde_json::{Map, Value, json};
use vecstore::{Entry, Error, Kind, OpenOptions, Snapshot, Store, Value as Attribute, escaped};

use crate::common::{copy_dir, on_demand};

/// Everything that a reader finds.
pub fn describe(path: &Path) -> Value {
    let store = OpenOptions::new().read_only(true).open(path).unwrap_or_else(|error| panic!("{error}"));
    let report = vecstore::verify(path, |_| {}).unwrap();
    assert!(report.is_whole(), "{}: {:?}", path.display(), report.faults);
    let snapshot = store.snapshot();
    let mut all = contents(&snapshot);
    let versions = store.versions().unwrap().into_iter().map(|version| {
        let then = OpenOptions::new().at_version(&version.name).open(path).unwrap();
        (version.name, Value::Object(contents(&then.snapshot())))
    });
    let versions: Map<String, Value> = versions.collect();
    all.insert("versions".into(), versions.into());
    all.insert(
        "settings".into(),
        store.settings().into_iter().map(|(name, value)| (name, Value::from(value))).collect(),
    );
    let fingerprint = store.fingerprint();
    all.insert("fingerprint".into(), fingerprint.map_or(Value::Null, |known| known.description().into()));
    let (is_writable, merges) = goes_on(path);
    all.insert("writable".into(), is_writable.into());
    all.insert("merges".into(), merges.into());
    let place = format!("{}/", path.display());
    let notes = report.notes.iter().map(|note| note.replace(&place, ""));
    all.insert("notes".into(), notes.collect());
    all.into()
}

/// Whether a copy of it can be written to, and merged into one segment.
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
            "entries": totals.entries, "empty": totals.empty, "rejected": totals.rejected,
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

/// How opening and verifying it end. Words may change, so they are not part of it.
pub fn refusal(path: &Path) -> Value {
    let kind = |error: Error| {
        let text = format!("{error:?}");
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    let opened = Store::open_read_only(path).err().map(kind);
    let report = vecstore::verify(path, |_| {}).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
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
