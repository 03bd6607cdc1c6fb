//! Rebuilding the manifest from segments: they describe themselves, so nothing is lost with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::IoContext;
use crate::format::{hex, random_id, settings};
use crate::load::{self, SEGMENTS};
use crate::lock::Lock;
use crate::manifest::{Body, EpochRecord, FingerprintRecord, MANIFEST, Manifest, SegmentRecord};
use crate::segment::Segment;
use crate::tiling::StandIn;
use crate::vfs::{RealFs, Vfs};
use crate::view::View;
use crate::writer::{LOCK, LOCK_MANIFEST};
use crate::{Error, Result};

/// Where damaged files are moved; nothing in it is ever deleted.
pub(crate) const QUARANTINE: &str = "quarantine";

/// What a repair did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// The manifest was rebuilt; `false` when the one there was sound and nothing was done.
    pub rebuilt: bool,
    /// Where the damaged manifest was moved, if there was one.
    pub quarantined: Option<PathBuf>,
    /// Segments the new manifest lists.
    pub segments: usize,
    /// Last commit of the store.
    pub last_commit: u64,
}

/// Rebuilds a missing or damaged manifest from the footers of the segments, under a new epoch. A damaged manifest
/// is moved to `quarantine/`. Does nothing when the manifest is sound. No entry is lost; settings that were recorded
/// after the last commit are, for no segment carries them yet.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("photos.vecs");
/// # use vecstore::{OnDuplicate, Store, StoreConfig};
/// # let store = Store::create(&path, StoreConfig::new(1))?;
/// # let mut batch = store.batch();
/// # batch.push("a", &[1.0f32])?;
/// # store.append(batch, OnDuplicate::Skip)?;
/// # drop(store);
/// std::fs::remove_file(path.join("MANIFEST")).unwrap();
/// assert!(Store::open(&path).is_err());
/// let report = vecstore::repair(&path)?;
/// assert!(report.rebuilt);
/// assert!(Store::open(&path)?.snapshot().contains("a")?);
/// # Ok::<(), vecstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotAStore`] when there is nothing to rebuild from; [`Error::MissingSegment`],
/// [`Error::ForeignSegment`], [`Error::Damaged`] when the segments do not make a chain; [`Error::Busy`],
/// [`Error::Io`], [`Error::NoSpace`].
pub fn repair(path: impl AsRef<Path>) -> Result<RepairReport> {
    repair_with(&RealFs, path.as_ref())
}

/// [`repair`] through another file system; for tests.
#[doc(hidden)]
pub fn repair_with(vfs: &dyn Vfs, dir: &Path) -> Result<RepairReport> {
    let timeout = Duration::from_secs(10);
    // Whatever is no store at all is refused before a lock file is created in it.
    if let Err(error @ (Error::NotFound { .. } | Error::NotAStore { .. })) = Manifest::read(vfs, dir) {
        return Err(error);
    }
    let mut commit_lock = Lock::open(vfs, &dir.join(LOCK), "commit")?;
    let mut manifest_lock = Lock::open(vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
    // Commits of a writer that died are in doubt until the next one has written them anew.
    if commit_lock.acquire(timeout)?.died {
        commit_lock.mark_suspect(1);
    }
    let result = manifest_lock.acquire(timeout).and_then(|_| {
        let result = locked(vfs, dir);
        manifest_lock.release();
        result
    });
    commit_lock.raise();
    commit_lock.release();
    result
}

fn locked(vfs: &dyn Vfs, dir: &Path) -> Result<RepairReport> {
    let damaged = match Manifest::read(vfs, dir) {
        Ok(sound) => {
            return Ok(RepairReport {
                segments: sound.body.segments.len(),
                last_commit: sound.body.last_commit(),
                ..RepairReport::default()
            });
        }
        Err(Error::ManifestMissing { .. }) => false,
        Err(Error::Damaged { .. }) => true,
        Err(other) => return Err(other),
    };
    let segments_dir = dir.join(SEGMENTS);
    vfs.flush_dir(&segments_dir).at(&segments_dir, "flush the directory")?;
    let names = load::list_segments(vfs, dir)?;
    let chosen = load::choose(dir, &[], &names, StandIn::Any)?;
    let mut segments = Vec::new();
    for name in chosen {
        segments.push(Arc::new(Segment::open(vfs, &segments_dir.join(name.to_string()), name)?));
    }
    let mut manifest = rebuild(dir, &segments)?;
    manifest.generation = manifest.generation.max(damaged_generation(vfs, dir).saturating_add(1));
    // The rebuilt manifest must carry exactly these segments.
    let mut view = View::empty(&manifest);
    for (segment, record) in segments.iter().zip(&manifest.body.segments) {
        view.add(Arc::clone(segment), Some(record))?;
    }
    let quarantined = if damaged { Some(quarantine(vfs, dir)?) } else { None };
    manifest.write(vfs, dir)?;
    Ok(RepairReport {
        rebuilt: true,
        quarantined,
        segments: segments.len(),
        last_commit: manifest.body.last_commit(),
    })
}

/// The generation a damaged manifest claims, as far as it can be believed; generations only grow.
fn damaged_generation(vfs: &dyn Vfs, dir: &Path) -> u64 {
    let bytes = vfs.read(&dir.join(MANIFEST), 1 << 30).unwrap_or_default();
    let claimed = bytes.get(40..48).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    if claimed < 1 << 56 { claimed } else { 0 }
}

/// A manifest that lists these segments, with what their footers say of the store.
fn rebuild(dir: &Path, segments: &[Arc<Segment>]) -> Result<Manifest> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Err(Error::NotAStore {
            path: dir.to_owned(),
            found: "a damaged manifest and no segment to rebuild it from".to_owned(),
        });
    };
    let mut epochs = vec![EpochRecord { id: first.footer().link_in, parent: [0; 16], first: 1 }];
    let mut begin = |id, first| {
        let parent = epochs.last().map_or([0; 16], |epoch: &EpochRecord| epoch.id);
        if parent != id {
            epochs.push(EpochRecord { id, parent, first });
        }
    };
    for segment in segments {
        begin(segment.footer().epoch, segment.footer().first);
    }
    begin(random_id()?, last.footer().last + 1);

    let footer = last.footer();
    let mut settings = last.settings()?;
    let description = settings.remove(settings::FINGERPRINT);
    let fingerprint = (footer.fingerprint != [0; 32])
        .then(|| FingerprintRecord { id: footer.fingerprint, description: description.unwrap_or_default() });
    // Larger than any generation that checkpoints of this many commits and epochs could have reached.
    let generation = ((epochs.len() as u64) << 40).saturating_add(footer.last);
    Ok(Manifest {
        generation,
        ro_compat: 0,
        compat: 0,
        body: Body {
            store_id: footer.store_id,
            dim: footer.dim,
            dtype: footer.dtype,
            metric: footer.metric,
            fingerprint,
            settings,
            epochs,
            segments: segments.iter().map(|segment| SegmentRecord::of(segment)).collect(),
            extra: std::collections::BTreeMap::new(),
        },
    })
}

/// The store's quarantine/, made if it is missing, its name durable.
pub(crate) fn quarantine_folder(vfs: &dyn Vfs, dir: &Path) -> Result<PathBuf> {
    let folder = dir.join(QUARANTINE);
    match vfs.create_dir(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io(&folder, "create the directory", error))
        }
        _ => vfs.flush_dir(dir).at(dir, "flush the directory").map(|()| folder),
    }
}

/// Moves the damaged manifest aside, under a name of its own.
fn quarantine(vfs: &dyn Vfs, dir: &Path) -> Result<PathBuf> {
    let folder = quarantine_folder(vfs, dir)?;
    let from = dir.join(MANIFEST);
    let to = folder.join(format!("{MANIFEST}.{}", hex(&random_id()?)));
    vfs.link(&from, &to).at(&to, "move the damaged manifest")?;
    vfs.flush_dir(&folder).at(&folder, "flush the directory")?;
    Ok(to)
}
