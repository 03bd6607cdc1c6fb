//! Queries of both kinds of handles, apart from entries: versions, derived files, new commits.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::base::sync::nap;
use crate::base::{Error, Result};
use crate::format::system_time;
use crate::handle::Shared;
use crate::read::Snapshot;
use crate::state::{DERIVED, DerivedRecord, Manifest, PIN_PREFIX, versions};
use crate::types::Fingerprint;

/// The first and the longest pause between two polls for new commits.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// A version: a state of the store that is kept under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionInfo {
    /// The version's name.
    pub name: String,
    /// Last commit of the version; 0 for an empty store.
    pub last_commit: u64,
    /// Number of segments that the version keeps.
    pub segments: usize,
    /// Length of these segments in bytes.
    pub bytes: u64,
    /// When the version was created, by the clock of its creator; `None` if that is not recorded.
    pub time: Option<SystemTime>,
}

impl VersionInfo {
    pub(super) fn of(name: &str, manifest: &Manifest) -> Self {
        VersionInfo {
            name: name.to_owned(),
            last_commit: manifest.body.last_commit(),
            segments: manifest.body.segments.len(),
            bytes: manifest.body.segments.iter().map(|record| record.file_len).sum(),
            time: system_time(manifest.time),
        }
    }
}

/// A file that is derived from a segment: it saves time, and can be lost without loss of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DerivedInfo {
    /// The file's path.
    pub path: PathBuf,
    /// Kind of the file, as the four letters of `docs/FORMAT.md`: `LIVE` for a liveness bitmap, `KEYF` for a
    /// key filter.
    pub kind: String,
    /// The file's length in bytes.
    pub bytes: u64,
}

pub(super) fn versions(handle: &Shared) -> Result<Vec<VersionInfo>> {
    let all = versions::list(&*handle.vfs, &handle.path)?;
    // Pins of running backups are no versions of the user.
    let named = all.iter().filter(|version| !version.name.starts_with(PIN_PREFIX));
    Ok(named.map(|version| VersionInfo::of(&version.name, &version.manifest)).collect())
}

pub(super) fn derived_files(handle: &Shared) -> Result<Vec<DerivedInfo>> {
    let (vfs, dir) = (&*handle.vfs, &*handle.path);
    let manifest = match &handle.version {
        Some(version) => versions::read(vfs, dir, version)?,
        None => Manifest::read(vfs, dir)?,
    };
    let info = |record: &DerivedRecord| DerivedInfo {
        path: dir.join(DERIVED).join(record.name().to_string()),
        kind: String::from_utf8_lossy(&record.kind).into_owned(),
        bytes: record.file_len,
    };
    Ok(manifest.body.derived.iter().map(info).collect())
}

pub(super) fn wait_for_commit(handle: &Shared, after: u64, timeout: Duration) -> Result<Snapshot> {
    let (begin, (mut wait, longest)) = (Instant::now(), LOOKS);
    loop {
        handle.refresh()?;
        let snapshot = handle.snapshot();
        // A reader at a version sees no later commit, so it does not wait.
        let left = match handle.version {
            Some(_) => Duration::ZERO,
            None => timeout.saturating_sub(begin.elapsed()),
        };
        if snapshot.last_commit() > after || left.is_zero() {
            return Ok(snapshot);
        }
        nap(wait.min(left));
        wait = (wait * 2).min(longest);
    }
}

/// True if the given fingerprint is recorded, false if none is; an error if another one is.
pub(super) fn is_recorded(
    handle: &Shared,
    recorded: Option<&Fingerprint>,
    given: &Fingerprint,
) -> Result<bool> {
    match recorded {
        None => Ok(false),
        Some(recorded) if recorded == given => Ok(true),
        Some(recorded) => Err(Error::FingerprintMismatch {
            path: handle.path.clone(),
            expected: recorded.description().to_owned(),
            expected_id: recorded.short_id(),
            found: given.description().to_owned(),
            found_id: given.short_id(),
        }),
    }
}
