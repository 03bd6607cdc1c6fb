//! A durable store for embeddings.
//!
//! A store is a directory of immutable, checksummed **segments**, each of which is a valid NumPy `.npy` file.
//! A **batch** of entries is appended as a whole: when [`Store::append`] returns, it survives `kill -9`, a
//! kernel crash and a power cut; when it does not return, either the whole batch is there or nothing of it.
//! Keys make long jobs resumable: ask which keys are [missing](Snapshot::missing), embed those, append them,
//! and after any interruption start again without doing anything twice.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("photos.vecs");
//! use vecstore::{OnDuplicate, Store, StoreConfig};
//!
//! let store = Store::create(&path, StoreConfig::new(3))?;
//!
//! let keys = ["cat.jpg", "dog.jpg"];
//! for position in store.snapshot().missing(&keys)? {
//!     let mut batch = store.batch();
//!     batch.push(keys[position], &[0.1f32, 0.2, position as f32])?;
//!     store.append(&mut batch, OnDuplicate::Skip)?; // durable from here on
//! }
//!
//! let snapshot = store.snapshot();
//! let cat = snapshot.get("cat.jpg")?.expect("it was appended");
//! assert_eq!(cat.rows::<f32>()?, &[0.1, 0.2, 0.0]); // straight from the mapped file
//! let hits = snapshot.search(&[0.0, 0.0, 1.0], 1)?;
//! assert_eq!(hits[0].key, b"dog.jpg");
//! # Ok::<(), vecstore::Error>(())
//! ```
//!
//! # Words
//!
//! An **entry** is what is stored for one input: a key, a [kind](Kind), any number of **rows** (vectors),
//! and, if wanted, [details](Details): a **payload** and **attributes**. The newest entry of a key wins. Each batch that writes something has a **commit**
//! number, counted from 1; a row's [address](Address) is its commit and its number in the batch, and never
//! changes. A [`Snapshot`] is an immutable view: cheap to take, unaffected by what writers do.
//!
//! # Reading without this crate
//!
//! `numpy.load(path, mmap_mode="r")` on any file in `segments/` gives its rows; `vecstore files DIR` names
//! the files in order.
//!
//! # Features
//!
//! * `cli`: the `vecstore` command. The library itself needs no feature.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::unreachable,
        clippy::todo
    )
)]

#[cfg(not(unix))]
compile_error!(
    "vecstore needs a Unix system, so not Windows: it relies on flock, renaming over open files and flushing directories"
);
#[cfg(target_endian = "big")]
compile_error!("vecstore maps little-endian files: big-endian machines are not supported");

mod base;
mod care;
mod commit;
mod format;
mod handle;
mod lock;
mod merge;
mod read;
mod segment;
mod state;
mod types;
#[doc(hidden)]
pub mod vfs;

pub use base::{DType, Element, Error, Event, Holder, Result, escaped, one_line};
pub use care::{
    BackupReport, Fault, Finding, RepairReport, VerifyProgress, VerifyReport, repair, repair_dry_run,
    restore, verify,
};
#[doc(hidden)]
pub use care::{repair_dry_run_with, repair_with, restore_with, verify_with};
pub use commit::Appended;
pub use handle::{DerivedInfo, Merging, OpenOptions, Reading, Store, Ticket, VersionInfo};
pub use merge::Compacted;
pub use read::{Entry, Hit, Iter, SegmentInfo, Snapshot};
pub use state::Totals;
pub use types::{
    Address, AttributeType, Batch, Details, Field, Fingerprint, Kind, MAX_DIM, MAX_KEY_LEN, MAX_PAYLOAD_LEN,
    Metric, OnDuplicate, StoreConfig, Value,
};
