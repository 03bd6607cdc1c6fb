//! Creating a store: a sibling directory is built, flushed and renamed into place, so that a store exists
//! whole or not at all. An empty directory, which may be a mount point, becomes a store in place: MANIFEST,
//! without which there is no store, gets its name last.

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

/// Follows the name of a store in the name of the directory that it is built in.
const CREATING: &str = ".creating-";
/// Attempts of a builder to claim a directory that sweeping processes take for a leftover.
const CLAIMS: u32 = 8;

/// Creates a store. The path must be free, or an empty directory.
pub(crate) fn create(vfs: &dyn Vfs, dir: &Path, config: &StoreConfig, timeout: Duration) -> Result<()> {
    config.check()?;
    check_parent(vfs, dir)?;
    if config.settings.keys().any(|name| name.starts_with(crate::format::settings::RESERVED)) {
        return Err(Error::invalid("setting names that begin with \"vecstore.\" are the store's own"));
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

/// Fails if the parent directory does not exist, or is a store itself.
fn check_parent(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    let parent = if parent == Path::new("") { Path::new(".") } else { parent };
    let shown = parent.display();
    if if_there(vfs.metadata(parent)).at(parent, "look at the directory")?.is_none() {
        let dir = dir.display();
        return Err(Error::invalid(format!("{shown}: there is no such directory; create it before {dir}")));
    }
    let is_store =
        vfs.metadata(&parent.join(MANIFEST)).is_ok() && vfs.metadata(&parent.join(SEGMENTS)).is_ok();
    if is_store {
        return Err(Error::invalid(format!("{shown}: this is a store itself; choose a path outside it")));
    }
    Ok(())
}

/// True for a directory that contains at most the files of an interrupted creation and the `lost+found` of a
/// file system.
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
        // Another process may have created the store before this one got the lock.
        if !is_vacant(vfs, dir) {
            return refuse_existing(vfs, dir);
        }
        // No other process may commit until all names are durable, because a failed creation is removed
        // again.
        let turn = dir.join(LOCK_TURN);
        let _turn = hold_turn(vfs, &turn).at(&turn, "take the turn at the commit lock")?;
        // All other names are flushed before MANIFEST gets its name: a power cut could otherwise leave
        // MANIFEST alone.
        clear(vfs, dir)
            .and_then(|()| {
                build(vfs, dir, manifest, |dir, _| vfs.flush_dir(dir).at(dir, "flush the directory"))
            })
            .and_then(|()| flush_name(vfs, dir))
            .inspect_err(|_| drop(clear(vfs, dir)))
    })
}

/// Removes the files of an interrupted or failed creation: a name whose flush failed has to be given anew.
/// MANIFEST goes first, durably.
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

/// Builds a store beside its final place, lets `fill` add segments and derived files, and renames it into
/// place.
pub(crate) fn place(
    vfs: &dyn Vfs,
    dir: &Path,
    manifest: Manifest,
    fill: impl FnOnce(&Path, &mut Manifest) -> Result<()>,
) -> Result<()> {
    refuse_existing(vfs, dir)?;
    check_parent(vfs, dir)?;
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(OsStr::to_str)) {
        sweep(vfs, parent, |other| other == name);
    }
    let (sibling, _alive) = claim(vfs, dir)?;
    if let Err(error) = build(vfs, &sibling, manifest, fill) {
        discard(vfs, &sibling);
        return Err(error);
    }
    // A directory can be renamed over nothing or an empty directory, but not over a store that was created in
    // the meantime: a store is never empty.
    if let Err(source) = vfs.replace(&sibling, dir) {
        discard(vfs, &sibling);
        refuse_existing(vfs, dir)?;
        return Err(Error::io(dir, "create the store", source));
    }
    let flushed = flush_name(vfs, dir);
    if flushed.is_err() {
        // The kernel reports a lost name once, and a later flush of the same name would claim success. So the
        // name is removed again, and the next attempt gives a new one.
        match vfs.replace(dir, &sibling) {
            Ok(()) => discard(vfs, &sibling),
            Err(error) => log::warn!("{}: not taken back: {error}", dir.display()),
        }
    }
    flushed
}

/// Makes the store's own name durable. Openers that write do this too: the creator may have died between
/// giving the name and flushing it.
pub(crate) fn flush_name(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let parent = dir.parent().unwrap_or(Path::new(""));
    match vfs.flush_dir(parent) {
        // A parent that this user may pass but not read cannot be opened, and so cannot be flushed.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            log::debug!("{}: not flushed: {error}", parent.display());
            Ok(())
        }
        flushed => flushed.at(parent, "flush the directory"),
    }
}

/// Fails if anything but an empty directory is at the path.
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

/// Removes unfinished stores of these names whose builder has died. A live builder holds a lock inside. A
/// directory without a lock file tells nothing and is removed only if it is empty; a builder that has only
/// just begun then makes another one ([`claim`]).
pub(crate) fn sweep(vfs: &dyn Vfs, parent: &Path, is_ours: impl Fn(&str) -> bool) {
    // The parent of a bare name is empty: it means the current directory.
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    for name in vfs.list(parent).unwrap_or_default() {
        let base = name.to_str().and_then(|name| Some(name.strip_prefix('.')?.split_once(CREATING)?.0));
        let dir = parent.join(&name);
        if !base.is_some_and(&is_ours) || vfs.metadata(&dir).is_ok_and(|found| found.kind != FileKind::Dir) {
            continue;
        }
        let turn = dir.join(LOCK_TURN);
        match vfs.open_lock(&turn, false) {
            // Held until everything is removed, so that a builder that has only just begun notices.
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

/// Takes the turnstile's lock; `WouldBlock` if another process has it.
fn hold_turn(vfs: &dyn Vfs, turn: &Path) -> std::io::Result<Box<dyn LockFile>> {
    let mut lock = vfs.open_lock(turn, true)?;
    let is_ours = lock.try_lock()? && lock.is_at(turn)?;
    if is_ours { Ok(lock) } else { Err(ErrorKind::WouldBlock.into()) }
}

/// Makes the directory that a store is built in. The returned lock says that its builder is alive.
fn claim(vfs: &dyn Vfs, dir: &Path) -> Result<(PathBuf, Box<dyn LockFile>)> {
    let Some(name) = dir.file_name() else {
        return Err(Error::invalid(format!("{}: this path has no name a store could have", dir.display())));
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
        // A sweeping process took the directory for a leftover before it was locked.
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
    // Writing the manifest also flushes the directory.
    manifest.write(vfs, dir)
}

/// Removes an unfinished store, to which only this process has a right: it chose the random name or holds the
/// lock. The lock file goes last: without it nothing says that the rest is a leftover.
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
