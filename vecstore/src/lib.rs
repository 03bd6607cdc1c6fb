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
//! | to | use |
//! |---|---|
//! | create, open, append, delete | [`Store`], [`Batch`]; options in [`OpenOptions`] |
//! | read in another process, or read-only media | [`Reader`]; options in [`ReadOptions`] |
//! | get, list, search | [`Snapshot`], which never changes; [`Store::refresh`] gives a newer one |
//! | store chunks, faces, metadata | [`Batch::entry`]: several rows, a payload, attributes |
//! | go on computing while batches are flushed | [`Store::submit`] |
//! | keep and restore a state | [`Store::create_version`], [`Store::restore_version`], [`Store::backup`], [`restore`] |
//! | check, mend, read what is left of a damaged store | [`verify`], [`repair`], [`salvage`] |
//!
//! # Words
//!
//! An **entry** is what is stored for one input: a key, a [kind](Kind), any number of **rows** (vectors),
//! and, if wanted, a **payload** and **attributes**. The newest entry of a key wins. Each batch that writes
//! something has a **commit** number, counted from 1; a row's [address](Address) is its commit and its number
//! in the batch, and never changes. A [`Snapshot`] is an immutable view: cheap to take, unaffected by what
//! writers do. A **version** is a state that is kept under a name; a **checkpoint** brings the manifest, a
//! list of the segments, up to date.
//!
//! # What it is not
//!
//! Not an ordered map: keys are found by hash, so there are no range scans, and a prefix is a scan of all
//! keys. Not a database: no queries beyond filters in Rust, and one batch is the unit of everything. Not, so
//! far, an approximate index: a search compares with every row, at the speed of memory.
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
//! | damage is | found, named, mended | found (redb: also mended) | found in part | not found |
//!
//! ¹ No `fsync` in a trace of the system calls of pylance 14.0.2 and lancedb 0.40.0 (November 2026).
//! `docs/PERFORMANCE.md` has the measurements beside other stores.
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

/// The crate whose [`f16`](half::f16) and [`bf16`](half::bf16) rows can be made of.
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

/// Handles, snapshots and batches may be used from, and sent to, any thread.
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
