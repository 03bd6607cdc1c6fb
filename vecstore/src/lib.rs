//! A durable store for embeddings.
//!
//! A store is a directory of immutable, checksummed **segments**, each of which is a valid NumPy `.npy` file. A
//! **batch** of entries is appended as a whole: when [`Store::append`] returns, it survives `kill -9`, a kernel crash
//! and a power cut; when it does not return, either all of it is there or nothing. Keys make long jobs resumable:
//! ask which keys are [missing](Snapshot::missing), embed those, append them, and start again after any interruption
//! without doing anything twice.
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
//! An **entry** is what one input left behind: a key, a [kind](Kind), any number of **rows** (vectors) and an
//! optional **payload**. The newest entry of a key wins. Each batch that writes something has a **commit** number,
//! counted from 1; a row's [address](Address) is its commit and its number in the batch, and never changes. A
//! [`Snapshot`] is an immutable view: cheap to take, unaffected by what writers do.
//!
//! # Reading without this crate
//!
//! `numpy.load(path, mmap_mode="r")` on any file in `segments/` gives its rows; `vecstore files DIR` names the files
//! in order.
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
    "vecstore needs a Unix system: it relies on flock, on renaming over open files, and on flushing directories"
);
#[cfg(target_endian = "big")]
compile_error!("vecstore maps little-endian files; big-endian machines are not supported");

mod background;
mod backup;
mod batch;
mod bug;
mod checkpoint;
mod commit;
mod compact;
mod config;
mod create;
mod damaged;
mod dtype;
mod entry;
mod error;
mod event;
mod format;
mod inner;
mod live;
mod load;
mod lock;
mod manifest;
mod merge;
mod metric;
mod missing;
mod open;
mod publish;
mod queue;
mod recent;
mod repair;
mod resolve;
mod rotate;
mod search;
mod segment;
mod snapshot;
mod store;
mod sync;
mod ticket;
mod tiling;
mod verify;
mod versions;
#[doc(hidden)]
pub mod vfs;
mod view;
mod writer;

#[doc(hidden)]
pub use backup::restore_with;
pub use backup::{BackupReport, restore};
pub use batch::Batch;
pub use commit::Appended;
pub use compact::{CheckpointInfo, Compacted};
pub use config::{Fingerprint, MAX_DIM, MAX_KEY_LEN, MAX_PAYLOAD_LEN, StoreConfig};
pub use dtype::{DType, Element};
pub use entry::{Address, Entry, Kind};
pub use error::{Error, Result};
pub use event::Event;
pub use lock::Holder;
pub use metric::Metric;
pub use open::{Merging, OpenOptions, Reading};
pub use repair::{Finding, RepairReport, repair, repair_dry_run};
#[doc(hidden)]
pub use repair::{repair_dry_run_with, repair_with};
pub use resolve::OnDuplicate;
pub use search::Hit;
pub use snapshot::{Iter, SegmentInfo, Snapshot};
pub use store::Store;
pub use ticket::Ticket;
#[doc(hidden)]
pub use verify::verify_with;
pub use verify::{Fault, VerifyProgress, VerifyReport, verify};
pub use view::Totals;
