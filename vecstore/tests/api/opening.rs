//! Opening and creating: one call for both, refused places, callbacks, errors for programs to act on.

use std::error::Error as _;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use vecstore::{DType, Error, Event, Fingerprint, Metric, OnDuplicate, Reader, Store, StoreConfig};

use crate::common::on_demand;

#[test]
fn a_store_is_opened_or_created() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let model = |id| Fingerprint::new([id; 32], format!("model {id}"));
    let config = StoreConfig::new(2).dtype(DType::F16).metric(Metric::L2).fingerprint(model(1));
    let open = |config: &StoreConfig| on_demand().open_or_create(&path, config.clone());
    let store = open(&config.clone().setting("root", "/first")).unwrap();
    store.close().unwrap();
    let store = open(&config.clone().setting("root", "/second")).unwrap();
    assert_eq!(store.snapshot().setting("root"), Some("/first"), "a store that exists keeps its settings");
    store.close().unwrap();
    let refused = |config: &StoreConfig| open(config).unwrap_err();
    assert!(matches!(refused(&StoreConfig::new(3)), Error::DimensionMismatch { expected: 2, found: 3, .. }));
    assert!(matches!(refused(&StoreConfig::new(2)), Error::DTypeMismatch { .. }));
    let other = StoreConfig::new(2).dtype(DType::F16);
    assert!(matches!(refused(&other), Error::InvalidArgument { .. }), "another metric");
    assert!(matches!(refused(&config.fingerprint(model(2))), Error::FingerprintMismatch { .. }));
    // If no fingerprint is recorded, the first given one is.
    let path = dir.path().join("without");
    drop(on_demand().open_or_create(&path, StoreConfig::new(1)).unwrap());
    let known = StoreConfig::new(1).fingerprint(model(1));
    let store = on_demand().open_or_create(&path, known).unwrap();
    assert_eq!(store.snapshot().fingerprint(), Some(&model(1)));
    let reader = Reader::open(&path).unwrap();
    reader.check_fingerprint(&model(1)).unwrap();
    assert!(matches!(reader.check_fingerprint(&model(2)), Err(Error::FingerprintMismatch { .. })));
}

#[test]
fn a_setting_is_removed_for_all_handles() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1).setting("a", "1").setting("b", "2")).unwrap();
    let reader = Reader::open(&path).unwrap();
    store.remove_setting("a").unwrap();
    store.remove_setting("never there").unwrap();
    let snapshot = reader.refresh().unwrap();
    assert_eq!((snapshot.setting("a"), snapshot.setting("b")), (None, Some("2")));
    assert_eq!(snapshot.settings().len(), 1);
    assert!(matches!(store.remove_setting("vecstore.x"), Err(Error::InvalidArgument { .. })));
}

#[test]
fn a_store_without_a_directory_or_in_another_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("missing").join("s");
    let error = Store::create(&path, StoreConfig::new(1)).unwrap_err().to_string();
    let parent = dir.path().join("missing");
    assert!(error.starts_with(&format!("{}: there is no such directory", parent.display())), "{error}");
    let path = dir.path().join("s");
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    let error = Store::create(path.join("inner"), StoreConfig::new(1)).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    for dest in [path.clone(), path.join("backup"), path.join("a/b")] {
        let error = store.backup(&dest).unwrap_err();
        assert!(matches!(error, Error::BackupRefused { .. }), "{}: {error}", dest.display());
    }
    assert!(vecstore::verify(&path).unwrap().is_whole());
    assert_eq!(std::fs::read_dir(&path).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(), 1);
}

/// A callback that commits, and has another handle commit without waiting for any lock.
#[test]
fn a_callback_runs_under_no_lock_and_may_use_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(Store::create(&path, StoreConfig::new(1)).unwrap());
    let own: Arc<OnceLock<Store>> = Arc::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (store, events, at) = (Arc::clone(&own), Arc::clone(&told), path.clone());
    let options = on_demand().on_event(move |event| {
        events.lock().unwrap().push(event.clone());
        let other = on_demand().lock_timeout(Duration::ZERO).open(&at).unwrap();
        let number = events.lock().unwrap().len();
        for (store, name) in [(store.get().unwrap(), "own"), (&other, "other")] {
            let mut batch = store.batch();
            batch.push(format!("{name} {number}"), &[1.0f32]).unwrap();
            store.append(&mut batch, OnDuplicate::Error).unwrap();
        }
        other.compact().unwrap();
    });
    own.set(options.open(&path).unwrap()).unwrap();
    let store = own.get().unwrap();
    let mut batch = store.batch();
    batch.push("first", &[1.0f32]).unwrap();
    store.append(&mut batch, OnDuplicate::Error).unwrap();
    store.checkpoint().unwrap();
    store.compact().unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().any(|event| matches!(event, Event::Checkpoint { .. })), "{told:?}");
    let snapshot = store.refresh().unwrap();
    assert_eq!(snapshot.len(), 1 + 2 * told.len());
}

#[test]
fn errors_name_their_cause_once_and_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let error = Store::open(dir.path().join("long".repeat(100))).unwrap_err();
    let Error::Io { cause, .. } = &error else { panic!("{error}") };
    assert_eq!(error.to_string().matches(&cause.to_string()).count(), 1, "{error}");
    assert!(error.source().is_none(), "its text is part of the error's");
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }) && !error.is_transient(), "{error}");
    let store = Store::create(&path, StoreConfig::new(1)).unwrap();
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    let mut batch = store.batch();
    batch.push("a", &[1.0f32]).unwrap();
    let error = store.append(&mut batch, OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::Moved { .. }) && error.needs_reopen() && !error.is_transient(), "{error}");
}
