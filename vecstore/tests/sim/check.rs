//! Checks the stores on a disk against the right worlds, goes on with them, and checks again.

use std::collections::BTreeSet;
use std::path::Path;

use vecstore::{Error, Progress, VersionInfo};

use super::oracle::State;
use super::run::{BACKUP, DATED, Do, Run, STORE, options, restored};
use super::world::{Step, World, difference, right_worlds};
use super::{SimFs, is_temporary};

/// Prefix of the versions that running backups use as pins.
pub const PIN: &str = "backup-";

/// Checks that an error names a path and reports no damage.
pub fn is_clean(error: &Error) -> Result<(), String> {
    let text = error.to_string();
    let says_where = text.starts_with('/');
    let damage = matches!(error, Error::Damaged { .. } | Error::ForeignSegment { .. });
    if !says_where || damage {
        return Err(format!("not a clean error: {text}"));
    }
    Ok(())
}

/// Opens the store as after a reboot, checks it and everything beside it against the right worlds, verifies
/// it, goes on with it and reads it again. Returns the steps of this run, so that it can be crashed in turn;
/// `choice` selects the operations besides appends.
pub fn check(fs: &SimFs, right: &BTreeSet<World>, choice: u64) -> Result<Vec<Step>, String> {
    let mut run = Run::new(fs.clone());
    run.skip_keys(1_000_000);
    // Some undamaged stores are repaired, too: that must change nothing.
    if right.iter().any(|world| world.is_hurt) || choice % 16 == 1 && fs.exists("/d/s/MANIFEST") {
        // A reader before the repair may meet the damage; at worst it gets an error.
        let _ = read(fs);
        run.act(Do::Repair);
    }
    let start = right;
    let right = &right_worlds(start, &run.steps, usize::MAX);
    // Backups and restored stores are whole whatever state the store is in, and need no recovery.
    let mut found = beside(fs)?;
    match options(fs).open(STORE) {
        Ok(store) => {
            found.store = State::read(&store.snapshot())?;
            read_named(fs, store.versions(), &mut found)?;
            if !right.contains(&found) {
                return Err(difference(&found, right));
            }
            run.stores.insert(0, store);
            run.show(0)?;
        }
        Err(Error::NotFound { .. }) if right.contains(&World::default()) => run.act(Do::Create(0)),
        Err(error) => return Err(format!("opening: {error}")),
    }
    whole(fs)?;
    run.act(Do::Replace(0));
    let had_backup = fs.exists(BACKUP) || fs.names("/").iter().any(|name| name.starts_with(".b."));
    if had_backup || !fs.names("/d/s/versions").is_empty() {
        run.act(Do::Backup(0));
        if let Some(name) = fs.names("/d/s/versions").iter().find(|name| name.starts_with(PIN)) {
            return Err(format!("the pin {name} was left behind"));
        }
    }
    if fs.exists(DATED) && choice.is_multiple_of(2) {
        run.act(Do::Dated(0));
    }
    if choice.is_multiple_of(4) {
        run.act(Do::FullMerge(0));
    }
    if choice.is_multiple_of(8) {
        run.act(Do::Restore(1));
        run.act(Do::Append(1));
    }
    run.act(Do::Close(1));
    run.act(Do::Close(0));
    if let Some((what, error)) = run.errors.first() {
        return Err(format!("{what:?} after opening: {error}"));
    }
    let end = right_worlds(start, &run.steps, usize::MAX);
    let mut found = beside(fs)?;
    let store = options(fs).for_reading().open(STORE).map_err(|error| format!("reopening: {error}"))?;
    found.store = State::read(&store.snapshot())?;
    read_named(fs, store.versions(), &mut found)?;
    if !end.contains(&found) {
        return Err(format!("after going on: {}", difference(&found, &end)));
    }
    whole(fs)?;
    tidy(fs)?;
    Ok(run.steps)
}

fn open(fs: &SimFs, path: &str) -> Result<State, String> {
    let store = options(fs).for_reading().open(path).map_err(|error| format!("opening {path}: {error}"))?;
    State::read(&store.snapshot()).map_err(|wrong| format!("{path}: {wrong}"))
}

/// Dated backups that have a manifest; the others were being removed when the power failed.
fn dated(fs: &SimFs) -> Vec<String> {
    let paths = fs.names(DATED).into_iter().map(|name| format!("{DATED}/{name}"));
    paths.filter(|path| !path.contains("/.") && fs.exists(&format!("{path}/MANIFEST"))).collect()
}

fn all_restored(fs: &SimFs) -> Vec<String> {
    fs.names("/d").into_iter().filter(|name| name.starts_with('r')).collect()
}

/// Reads the backups and restored stores beside the store.
fn beside(fs: &SimFs) -> Result<World, String> {
    let mut world = World::default();
    if fs.exists(BACKUP) {
        world.backup = Some(open(fs, BACKUP)?);
    }
    world.dated = dated(fs).iter().map(|path| open(fs, path)).collect::<Result<_, _>>()?;
    for name in all_restored(fs) {
        let state = open(fs, &restored(&name))?;
        world.restored.insert(name, state);
    }
    Ok(world)
}

/// Reads the store as each of these versions has it.
fn read_named(
    fs: &SimFs,
    versions: vecstore::Result<Vec<VersionInfo>>,
    world: &mut World,
) -> Result<(), String> {
    let all = versions.map_err(|error| format!("listing versions: {error}"))?;
    for version in all.into_iter().filter(|version| !version.name.starts_with(PIN)) {
        let name = version.name;
        let opened = options(fs).for_reading().at_version(&name).open(STORE);
        let opened = opened.map_err(|error| format!("opening version {name}: {error}"))?;
        let state = State::read(&opened.snapshot()).map_err(|wrong| format!("version {name}: {wrong}"))?;
        world.named.insert(name, state);
    }
    Ok(())
}

/// Reads the whole world as it is now, changing nothing.
pub fn read(fs: &SimFs) -> Result<World, String> {
    let mut world = beside(fs)?;
    let store = options(fs).for_reading().open(STORE).map_err(|error| error.to_string())?;
    world.store = State::read(&store.snapshot())?;
    read_named(fs, store.versions(), &mut world)?;
    Ok(world)
}

/// Verifies the store, its backups and the stores restored from them; an error names the first fault.
pub fn whole(fs: &SimFs) -> Result<(), String> {
    let backup = fs.exists(BACKUP).then(|| BACKUP.to_owned());
    let restored = all_restored(fs).into_iter().map(|name| restored(&name));
    for path in [STORE.to_owned()].into_iter().chain(backup).chain(dated(fs)).chain(restored) {
        let report =
            vecstore::verify_on(fs, Path::new(&path), &Progress::new()).map_err(|error| error.to_string())?;
        if let Some(fault) = report.faults.first() {
            return Err(format!("verifying {path}: {fault}"));
        }
    }
    Ok(())
}

/// Checks that no temporary file is left in the store and its backup, after writes to both.
fn tidy(fs: &SimFs) -> Result<(), String> {
    for dir in ["/d/s", "/d/s/segments", "/d/s/versions", "/b/segments"] {
        // Leftovers of an interrupted merge stay until the next merge; an append does not remove them.
        let names = fs.names(dir).into_iter().filter(|name| !name.starts_with("tmp-merge-"));
        if let Some(name) = names.into_iter().find(|name| is_temporary(name.as_ref())) {
            return Err(format!("{dir}/{name} was left behind"));
        }
    }
    Ok(())
}
