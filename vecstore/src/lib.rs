//! A durable store for embeddings.
//!
//! A store is a directory of immutable, checksummed **segments**, each of which is a valid NumPy `.npy` file.
//! A **batch** of entries is appended as a whole. Once [`Store::append`] has returned without an error, the
//! batch survives `kill -9`, a kernel crash and a power cut. If the process dies before, the store has the
//! whole batch or nothing of it. Keys make long jobs resumable: a job asks which keys are
//! [missing](Snapshot::missing), embeds the inputs of these keys and appends them. A job that starts again
//! after an interruption repeats no appended batch.
//!
//! ```
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("photos.vecs");
//! use vecstore::{OnDuplicate, Store, StoreConfig};
//!
//! let store = Store::open_or_create(&path, StoreConfig::new(3))?;
//!
//! let keys = ["cat.jpg", "dog.jpg"];
//! let mut batch = store.batch();
//! for position in store.snapshot().missing(&keys)? {
//!     batch.push(keys[position], &[0.1f32, 0.2, position as f32])?; // hundreds in a batch, usually
//! }
//! store.append(&mut batch, OnDuplicate::Skip)?; // durable from here on
//!
//! let snapshot = store.snapshot();
//! let cat = snapshot.get("cat.jpg")?.expect("it was appended");
//! assert_eq!(cat.rows::<f32>()?, &[0.1, 0.2, 0.0]); // straight from the mapped file
//! let hits = snapshot.search(&[0.0, 0.0, 1.0], 1)?;
//! assert_eq!(hits[0].key, b"dog.jpg");
//! # Ok::<(), vecstore::Error>(())
//! ```
//!
//! # Where to begin
//!
//! | task | use |
//! |---|---|
//! | create, open, append, delete | [`Store`], [`Batch`]; options in [`OpenOptions`] |
//! | read from another process, or from read-only media | [`Reader`]; options in [`ReadOptions`] |
//! | get, list, search | [`Snapshot`], which never changes; [`Store::refresh`] returns a newer one |
//! | store chunks, faces, metadata | [`Batch::entry`]: several rows, a payload, attributes |
//! | compute while batches are flushed | [`Store::submit`] |
//! | keep and restore a state | [`Store::create_version`], [`Store::restore_version`], [`Store::backup`], [`restore`] |
//! | check a store, repair it, read the intact part of a damaged one | [`verify`], [`repair`], [`salvage`] |
//!
//! # Words
//!
//! An **entry** stores the outcome for one input: a key, a [kind](Kind), any number of **rows** (vectors),
//! and, optionally, a **payload** and **attributes**. Of each key, only the newest entry counts. Each batch
//! that writes at least one entry gets a **commit** number, counted from 1. A row's [address](Address) is its
//! commit and its number in the batch; it never changes. A [`Snapshot`] is an immutable view: cheap to take,
//! and unaffected by writers. A **version** is a state that is kept under a name. A **checkpoint** brings the
//! manifest, a list of the segments, up to date.
//!
//! # Limits
//!
//! A store is not an ordered map: keys are found by hash. There are no range scans, and listing the keys with
//! a prefix scans all keys. A store is not a database: filters are Rust closures, and the batch is the only
//! unit of change. A store has no approximate index yet: a search compares the query with every row, at the
//! speed of memory.
//!
//! | | vecstore | redb, fjall | LanceDB | usearch |
//! |---|---|---|---|---|
//! | is | a log of segments of vectors | ordered key-value stores | a table format with vector indexes | a graph index |
//! | durable once an append returns | yes | redb yes, fjall on request | its files are not flushed ¹ | saved whole, on request |
//! | processes that write at a time | many | one | many | one |
//! | scans by range or prefix of keys | all keys | yes | by filter | no |
//! | nearest neighbours | exact | no | exact, approximate | approximate, exact |
//! | vectors in place, mapped | `&[f32]` | bytes | Arrow | own layout |
//! | read without the library | `numpy.load` | no | other Lance readers | no |
//! | damage is | found, named, repaired | found (redb: also repaired) | found in part | not found |
//!
//! ¹ No `fsync` in a trace of the system calls of pylance 14.0.2 and lancedb 0.40.0 (November 2026).
//! `docs/PERFORMANCE.md` has the measurements beside other stores.
//!
//! # Reading without this crate
//!
//! `numpy.load(path, mmap_mode="r")` reads the rows of any file in `segments/`; `vecstore files DIR` lists
//! the files in order.
//!
//! # Features
//!
//! * `cli`: builds the `vecstore` command. The library itself needs no feature.

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
    "vecstore needs a Unix system, so not Windows: it relies on flock, renaming over open files and flushing \
     directories"
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

/// Re-export of the `half` crate, whose types [`f16`](half::f16) and [`bf16`](half::bf16) are elements of
/// rows.
pub use half;

#[doc(hidden)]
pub use base::one_line;
pub use base::{DType, Element, Error, Event, LockHolder, Progress, Result, escaped};
pub use care::{
    BackupOptions, BackupReport, Fault, Finding, Loss, RepairOptions, RepairReport, VerifyReport, repair,
    repair_with, restore, restore_with, salvage, verify, verify_with,
};
#[doc(hidden)]
pub use care::{repair_on, restore_on, verify_on};
pub use commit::Appended;
pub use handle::{
    CompactOptions, DerivedInfo, MergePolicy, OpenOptions, ReadMode, ReadOptions, Reader, Store, Ticket,
    VersionInfo,
};
pub use merge::CompactReport;
pub use read::{Entry, Hit, IntoIter, Iter, OwnedEntry, SearchOptions, Segment, SegmentInfo, Snapshot};
pub use state::Totals;
pub use types::{
    Address, AttributeType, Batch, EntryBuilder, Field, Fingerprint, Kind, MAX_DIM, MAX_KEY_LEN,
    MAX_PAYLOAD_LEN, Metric, OnDuplicate, StoreConfig, Value,
};

/// All handles, snapshots and batches can be sent to other threads and shared between threads.
const _: () = {
    const fn assert<T: Send + Sync>() {}
    assert::<Store>();
    assert::<Reader>();
    assert::<Snapshot>();
    assert::<Segment<'_>>();
    assert::<Entry<'_>>();
    assert::<OwnedEntry>();
    assert::<Iter<'_>>();
    assert::<IntoIter>();
    assert::<Batch>();
    assert::<Ticket>();
    assert::<SearchOptions<'_>>();
    assert::<OpenOptions>();
    assert::<ReadOptions>();
    assert::<Progress>();
    assert::<Error>();
};
