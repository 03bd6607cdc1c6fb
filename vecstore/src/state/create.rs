//! Creating a store: a sibling directory is built, flushed and renamed into place, so that a store exists
//! whole or not at all. An empty directory, which may be a mount point, becomes one where it is: MANIFEST,
//! without which there is no store, is named last.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::temporaries::{TMP_PREFIX, if_there, remove_own, remove_temporaries};
use crate::base::{Error, IoContext, Result};
use crate::format::{hex, random_id};
use crate::lock::{LOCK, LOCK_MANIFEST, LOCK_TURN, Lock, RECORD_LEN, is_record};
use crate::state::{Body, DERIVED, EpochRecord, FingerprintRecord, MANIFEST, Manifest, SEGMENTS};
use crate::types::StoreConfig;
use crate::vfs::{FileKind, LockFile, Vfs};

/// Follows the name of a store in the name of the directory it is built in.
const CREATING: &str = ".creating-";
/// How often a builder tries to claim a directory that others take for a leftover.
const CLAIMS: u32 = 8;

/// Creates a store. Nothing may be there, or an empty directory.
pub(crate) fn create(vfs: &dyn Vfs, dir: &Path, config: &StoreConfig, timeout: Duration) -> Result<()> {
    config.check()?;
    if config.settings.keys().any(|name| name.starts_with(crate::format::settings::RESERVED)) {
        return Err(Error::bad_input("setting names that begin with \"vecstore.\" are the store's own"));
    }
    let (store_id, epoch) = (random_id()?, random_id()?);
    let manifest = Manifest {
        generation: 1,
        ro_compat: 0,
        compat: 0,
        time: 0,
        body: Body {
            store_id,
            dim: u32::try_from(config.dim).unwrap_or(u32::MAX),
            dtype: config.dtype.code(),
            metric: config.metric.code(),
            fingerprint: config.fingerprint.as_ref().map(|fingerprint| FingerprintRecord {
                id: *fingerprint.id(),
                description: fingerprint.description().to_owned(),
            }),
            settings: config.settings.clone(),
            epochs: vec![EpochRecord { id: epoch, parent: [0; 16], first: 1 }],
            ..Body::default()
        },
    };
    match is_vacant(vfs, dir) {
        true => build_inside(vfs, dir, manifest, timeout),
        false => place(vfs, dir, manifest, |_, _| Ok(())),
    }
}

/// True for a directory with nothing in it but what an interrupted creation has left, and the `lost+found` of
/// a file system.
pub(crate) fn is_vacant(vfs: &dyn Vfs, dir: &Path) -> bool {
    let is_lock =
        |name: &str| vfs.read(&dir.join(name), RECORD_LEN as u64).is_ok_and(|bytes| is_record(&bytes));
    vfs.metadata(dir).is_ok_and(|found| found.kind == FileKind::Dir)
        && vfs.list(dir).is_ok_and(|names| {
            names.iter().all(|name| match name.to_str() {
                Some("lost+found") => true,
                Some(name @ (LOCK | LOCK_TURN | LOCK_MANIFEST)) => is_lock(name),
                Some(SEGMENTS) => vfs.list(&dir.join(SEGMENTS)).is_ok_and(|names| names.is_empty()),
                name => name.is_some_and(|name| name.starts_with(TMP_PREFIX)),
            })
        })
}

/// Builds a store in a vacant directory, under the manifest lock.
fn build_inside(vfs: &dyn Vfs, dir: &Path, manifest: Manifest, timeout: Duration) -> Result<()> {
    let mut lock = Lock::open(vfs, &dir.join(LOCK_MANIFEST), "manifest")?;
    lock.hold(timeout, |_| {
        // Another process was faster.
        if !is_vacant(vfs, dir) {
            return refuse_existing(vfs, dir);
        }
        // Until all names are durable no other process may commit: a creation that fails is taken back.
        let turn = dir.join(LOCK_TURN);
        let _turn = hold_turn(vfs, &turn).at(&turn, "take the turn at the commit lock")?;
        // Names are flushed before MANIFEST has its own: in a power cut it may be the only one that stays.
        clear(vfs, dir)
            .and_then(|()| {
                build(vfs, dir, manifest, |dir, _| vfs.flush_dir(dir).at(dir, "flush the directory"))
            })
            .and_then(|()| flush_name(vfs, dir))
            .inspect_err(|_| drop(clear(vfs, dir)))
    })
}

/// Removes what an interrupted or failed creation has left in a directory: a name whose flush failed has to
/// be given anew. MANIFEST goes first, durably.
fn clear(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    remove_own(vfs, &dir.join(MANIFEST));
    vfs.flush_dir(dir).at(dir, "flush the directory")?;
    remove_temporaries(vfs, dir, TMP_PREFIX);
    let segments = dir.join(SEGMENTS);
    match vfs.remove_dir(&segments) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(&segments, "remove what an unfinished creation left", error))
        }
        _ => Ok(()),
    }
}

/// Builds a store beside its final place, lets `fill` add segments to it, and what is derived from them, and renames it into
/// place.
pub(crate) fn place(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: Manifest,
    fill: impl FnOnce(&Path, &mut Manifest) -> Result<()>,
) -> Result<()> {
    refuse_existing(vfs, dir)?;
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(OsStr::to_str)) {
        sweep(vfs, parent, |other| other == name);
    }
    let (sibling, _alive) = claim(vfs, dir)?;
    if let Err(error) = build(vfs, &sibling, manifest, fill) {
        discard(vfs, &sibling);
        return Err(error);
    }
    // Renaming a directory succeeds over nothing or an empty directory, and fails over a store that was
    // created in the meantime: a store is never empty.
    if let Err(source) = vfs.replace(&sibling, dir) {
        discard(vfs, &sibling);
        refuse_existing(vfs, dir)?;
        return Err(Error::io(dir, "create the store", source));
    }
    let flushed = flush_name(vfs, dir);
    if flushed.is_err() {
        // The kernel reports a lost name once, and a later flush of the same name would claim success. So the
        // name goes again: the next attempt gives a new one.
        match vfs.replace(dir, &sibling) {
            Ok(()) => discard(vfs, &sibling),
            Err(error) => log::warn!("{}: not taken back: {error}", dir.display()),
        }
    }
    flushed
}

/// Makes the store's own name durable. An opener that writes does this too: the creator may have died between
/// giving the name and flushing it.
pub(crate) fn flush_name(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new(""));
    match vfs.flush_dir(parent) {
        // A directory that may be passed but not read cannot be opened, and so not be flushed, by this user.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            log::debug!("{}: not flushed: {error}", parent.display());
            Ok(())
        }
        flushed => flushed.at(parent, "flush the directory"),
    }
}

/// Refuses a path at which there is anything but an empty directory.
pub(crate) fn refuse_existing(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let found = if_there(vfs.metadata(dir)).at(dir, "look at the store's path")?;
    let Some(found) = found else { return Ok(()) };
    let names = match found.kind {
        FileKind::Dir => vfs.list(dir).at(dir, "list the directory")?,
        FileKind::File => return exists(dir, "a file is there"),
        FileKind::Other => return exists(dir, "a link or special file is there"),
    };
    if names.is_empty() {
        return Ok(());
    }
    let store = names.iter().any(|name| name == OsStr::new(MANIFEST) || name == OsStr::new(SEGMENTS));
    exists(dir, if store { "a store is there" } else { "a directory that is not empty is there" })
}

fn exists(dir: &Path, found: &str) -> Result<()> {
    Err(Error::AlreadyExists { path: dir.to_owned(), found: found.to_owned() })
}

/// Removes stores of these names that were being built here when their builder died. A builder that is alive
/// holds a lock within. Without the lock file (yet) nothing tells: the directory stays, unless it is empty.
/// Its builder, should it only just begin, makes another one ([`claim`]).
pub(crate) fn sweep(vfs: &dyn Vfs, parent: &Path, is_ours: impl Fn(&str) -> bool) {
    // A relative path's parent is the current directory.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    for name in vfs.list(parent).unwrap_or_default() {
        let base = name.to_str().and_then(|name| Some(name.strip_prefix('.')?.split_once(CREATING)?.0));
        let dir = parent.join(&name);
        if !base.is_some_and(&is_ours) || vfs.metadata(&dir).is_ok_and(|found| found.kind != FileKind::Dir) {
            continue;
        }
        let turn = dir.join(LOCK_TURN);
        match vfs.open_lock(&turn, false) {
            // Held until everything is gone, so that its builder, should it only just begin, notices.
            Ok(mut lock) => {
                if lock.try_lock().is_ok_and(|locked| locked) && lock.is_at(&turn).is_ok_and(|same| same) {
                    log::info!(
                        "{}: removed, a store was being built there when its builder died",
                        dir.display()
                    );
                    discard(vfs, &dir);
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound && vfs.remove_dir(&dir).is_ok() => {
                log::info!("{}: removed, it was empty", dir.display());
            }
            Err(_) => {}
        }
    }
}

/// The turnstile's lock, which this process then has; `WouldBlock` when another one has it.
fn hold_turn(vfs: &dyn Vfs, turn: &Path) -> std::io::Result<Box<dyn LockFile>> {
    let mut lock = vfs.open_lock(turn, true)?;
    let is_ours = lock.try_lock()? && lock.is_at(turn)?;
    if is_ours { Ok(lock) } else { Err(ErrorKind::WouldBlock.into()) }
}

/// Makes the directory a store is built in. The lock says that its builder is alive.
fn claim(vfs: &dyn Vfs, dir: &Path) -> Result<(PathBuf, Box<dyn LockFile>)> {
    let Some(name) = dir.file_name() else {
        return Err(Error::bad_input(format!("{}: this path has no name a store could have", dir.display())));
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let random = format!("{CREATING}{}", hex(&random_id()?));
        let sibling = dir
            .with_file_name([OsStr::new("."), name, OsStr::new(&random)].into_iter().collect::<OsString>());
        vfs.create_dir(&sibling).at(&sibling, "create the store's directory")?;
        let turn = sibling.join(LOCK_TURN);
        let error = match hold_turn(vfs, &turn) {
            Ok(lock) => return Ok((sibling, lock)),
            Err(error) => error,
        };
        discard(vfs, &sibling);
        // A process that sweeps took it for a leftover, in the moment it was not locked.
        let is_swept = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock);
        if !is_swept || attempts >= CLAIMS {
            return Err(Error::io(&turn, "create the lock file", error));
        }
    }
}

fn build(
    vfs: &dyn Vfs,
    dir: &Path,
    mut manifest: Manifest,
    fill: impl FnOnce(&Path, &mut Manifest) -> Result<()>,
) -> Result<()> {
    let segments = dir.join(SEGMENTS);
    vfs.create_dir(&segments).at(&segments, "create the directory")?;
    for lock in [LOCK, LOCK_MANIFEST] {
        Lock::open(vfs, &dir.join(lock), "new")?.prepare()?;
    }
    fill(dir, &mut manifest)?;
    vfs.flush_dir(&segments).at(&segments, "flush the directory")?;
    // Flushes the directory too.
    manifest.write(vfs, dir)
}

/// Removes an unfinished store, which is ours alone: its name is random. The lock file goes last: without it
/// nothing tells that the rest is a leftover.
fn discard(vfs: &dyn Vfs, dir: &Path) {
    let folders = [SEGMENTS, DERIVED].map(|folder| dir.join(folder));
    for folder in folders.iter().map(PathBuf::as_path).chain([dir]) {
        let mut names = vfs.list(folder).unwrap_or_default();
        names.retain(|name| name != SEGMENTS && name != DERIVED && name != LOCK_TURN);
        names.iter().for_each(|name| remove_own(vfs, &folder.join(name)));
    }
    let remove_dir = |path: &Path| {
        if let Err(error) = if_there(vfs.remove_dir(path)) {
            log::warn!("{}: cannot remove an unfinished store: {error}", path.display());
        }
    };
    folders.iter().for_each(|folder| remove_dir(folder));
    remove_own(vfs, &dir.join(LOCK_TURN));
    remove_dir(dir);
}
