//! Holds what is on a disk against what is right, goes on with it, and looks again.

use std::collections::BTreeSet;
use std::path::Path;

use vecstore::{Error, Store};

use super::oracle::State;
use super::run::{BACKUP, DATED, Do, Run, STORE, options, restored};
use super::world::{Step, World, difference, right_worlds};
use super::{SimFs, is_temporary};

/// Pins of backups under way, which are no user's versions.
pub const PIN: &str = "backup-";

/// An error says where and what.
pub fn is_clean(error: &Error) -> Result<(), String> {
    let text = error.to_string();
    let says_where = text.starts_with('/');
    let damage = matches!(error, Error::Damaged { .. } | Error::ForeignSegment { .. });
    if !says_where || damage {
        return Err(format!("not a clean error: {text}"));
    }
    Ok(())
}

/// Opens the store as after a start of the machine, holds it and what belongs to it against what is right,
/// verifies it, goes on with it and reads it again. `steps` gets what this run did, so that it can be crashed
/// in turn; `choice` chooses what is done besides appending.
pub fn check(fs: &SimFs, right: &BTreeSet<World>, choice: u64) -> Result<Vec<Step>, String> {
    let mut run = Run::new(fs.clone());
    run.skip_keys(1_000_000);
    // What is not damaged need not be repaired; a repair of it changes nothing.
    if right.iter().any(|world| world.is_hurt) || choice % 16 == 1 && fs.exists("/d/s/MANIFEST") {
        // A reader before that may meet the damage, and gets an error at worst.
        let _ = read(fs);
        run.act(Do::Repair);
    }
    let start = right;
    let right = &right_worlds(start, &run.steps, usize::MAX);
    // Backups and what was restored are whole whatever the store is like, and need no recovery.
    let mut found = beside(fs)?;
    match options(fs).open(STORE) {
        Ok(store) => {
            found.store = State::read(&store)?;
            read_named(fs, &store, &mut found)?;
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
    let store = options(fs).read_only(true).open(STORE).map_err(|error| format!("reopening: {error}"))?;
    found.store = State::read(&store)?;
    read_named(fs, &store, &mut found)?;
    if !end.contains(&found) {
        return Err(format!("after going on: {}", difference(&found, &end)));
    }
    whole(fs)?;
    tidy(fs)?;
    Ok(run.steps)
}

fn open(fs: &SimFs, path: &str) -> Result<State, String> {
    let store = options(fs).read_only(true).open(path).map_err(|error| format!("opening {path}: {error}"))?;
    State::read(&store).map_err(|wrong| format!("{path}: {wrong}"))
}

/// Dated backups that are stores. What is not was being removed when the power failed.
fn dated(fs: &SimFs) -> Vec<String> {
    let paths = fs.names(DATED).into_iter().map(|name| format!("{DATED}/{name}"));
    paths.filter(|path| !path.contains("/.") && fs.exists(&format!("{path}/MANIFEST"))).collect()
}

fn all_restored(fs: &SimFs) -> Vec<String> {
    fs.names("/d").into_iter().filter(|name| name.starts_with('r')).collect()
}

/// What lies beside the store.
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

fn read_named(fs: &SimFs, store: &Store, world: &mut World) -> Result<(), String> {
    let all = store.versions().map_err(|error| format!("listing checkpoints: {error}"))?;
    for checkpoint in all.into_iter().filter(|checkpoint| !checkpoint.name.starts_with(PIN)) {
        let name = checkpoint.name;
        let opened = options(fs).at_version(&name).open(STORE);
        let opened = opened.map_err(|error| format!("opening checkpoint {name}: {error}"))?;
        let state = State::read(&opened).map_err(|wrong| format!("checkpoint {name}: {wrong}"))?;
        world.named.insert(name, state);
    }
    Ok(())
}

/// Reads the whole world as it is now, changing nothing.
pub fn read(fs: &SimFs) -> Result<World, String> {
    let mut world = beside(fs)?;
    let store = options(fs).read_only(true).open(STORE).map_err(|error| error.to_string())?;
    world.store = State::read(&store)?;
    read_named(fs, &store, &mut world)?;
    Ok(world)
}

/// Verifies the store and all that was made from it; an error names the first fault.
pub fn whole(fs: &SimFs) -> Result<(), String> {
    let backup = fs.exists(BACKUP).then(|| BACKUP.to_owned());
    let restored = all_restored(fs).into_iter().map(|name| restored(&name));
    for path in [STORE.to_owned()].into_iter().chain(backup).chain(dated(fs)).chain(restored) {
        let report =
            vecstore::verify_with(fs, Path::new(&path), |_| {}).map_err(|error| error.to_string())?;
        if let Some(fault) = report.faults.first() {
            return Err(format!("verifying {path}: {fault}"));
        }
    }
    Ok(())
}

/// Nothing temporary is left in the store or its backup, now that both were written to.
fn tidy(fs: &SimFs) -> Result<(), String> {
    for dir in ["/d/s", "/d/s/segments", "/d/s/versions", "/b/segments"] {
        // What an interrupted merge left, the next merge removes, not the next append.
        let names = fs.names(dir).into_iter().filter(|name| !name.starts_with("tmp-merge-"));
        if let Some(name) = names.into_iter().find(|name| is_temporary(name.as_ref())) {
            return Err(format!("{dir}/{name} was left behind"));
        }
    }
    Ok(())
}
