//! Runs acts on the real code, and checks everything that it returns and shows against the oracle: operations
//! of two processes, failing calls, full disks, dying processes and power cuts, in any combination.

mod befall;
mod what;

use std::collections::BTreeSet;
use std::mem::take;

use vecstore::{Appended, Error, OnDuplicate};

use super::act::{Act, RESTORED};
use super::check::{PIN, read, whole};
use super::oracle::{State, Value};
use super::run::{Do, Run, STORE, options};
use super::world::{Deed, Step, World, difference, nothing, right_worlds};
use super::{Fault, Room, SimFs};
use what::{What, handle_of, process_of};

/// Most acts of a trial; the others are ignored.
const ACTS: usize = 48;
/// Operations for which a lasting fault or a full disk lasts.
const LASTS: usize = 4;
/// Most worlds that may be right at one time. With more, a trial ends early: its checks would show little.
const WORLDS: usize = 512;

/// Counts of events in trials.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub operations: usize,
    pub faults: usize,
    pub full: usize,
    pub kills: usize,
    pub power_cuts: usize,
    pub interleaved: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.operations += other.operations;
        self.faults += other.faults;
        self.full += other.full;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.interleaved += other.interleaved;
    }
}

/// Runs the acts on an empty disk; an error has the acts up to the failure, and the failure.
pub fn run(acts: &[Act]) -> Result<Tally, String> {
    let mut trial = Trial::new(SimFs::new(), nothing());
    for act in acts.iter().take(ACTS) {
        trial.story.push(format!("{act:?}"));
        trial.act(act).map_err(|wrong| format!("{}\n\n{wrong}", trial.story.join("\n")))?;
        if trial.is_over || trial.now.len() > WORLDS {
            break;
        }
    }
    trial.story.push("the end".to_owned());
    trial.end().map_err(|wrong| format!("{}\n\n{wrong}", trial.story.join("\n")))?;
    Ok(trial.tally)
}

/// The fault of a process, and its effects so far.
#[derive(Debug, Default)]
struct Trouble {
    fault: Option<Fault>,
    /// Operations that met the fault.
    met: usize,
    /// A flush of a directory or a rename failed, so the outcome of an operation may be unknown.
    may_latch: bool,
    /// A lock could not be released.
    is_stuck: bool,
}

struct Trial {
    /// The disk as seen by a process that meets no fault and only reads.
    disk: SimFs,
    processes: [SimFs; 2],
    trouble: [Trouble; 2],
    run: Run,
    /// The right worlds at the start of the disk, when nothing was unflushed.
    start: BTreeSet<World>,
    /// The worlds that a reader may see now.
    now: BTreeSet<World>,
    /// Number of the run's steps that `now` takes into account.
    folded: usize,
    /// Handles that have returned an unknown outcome, and so write no more.
    latched: BTreeSet<usize>,
    /// Operations for which the disk stays full.
    full: Option<usize>,
    /// Failed flushes of names that have no mark; from two on, a power cut is not checked.
    lost_names: usize,
    /// The next opener looks up the names of versions.
    forgot_names: bool,
    /// The states that a power cut may leave are no longer known.
    is_over: bool,
    others: u32,
    /// What happened, for messages.
    story: Vec<String>,
    tally: Tally,
}

impl Trial {
    fn new(disk: SimFs, start: BTreeSet<World>) -> Self {
        let processes = [disk.other_process(), disk.other_process()];
        Trial {
            run: Run::new(processes[0].clone()),
            disk,
            processes,
            trouble: Default::default(),
            now: start.clone(),
            start,
            folded: 0,
            latched: BTreeSet::new(),
            full: None,
            lost_names: 0,
            forgot_names: false,
            is_over: false,
            others: 0,
            story: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Write(handle, policy, entries) => self.operate(*handle, &What::Write(*policy, entries)),
            Act::Do(what) => self.operate(handle_of(*what), &What::Do(*what)),
            Act::Meanwhile { outer, after, inner } => self.meanwhile(*outer, *after, *inner),
            Act::Keep(handle) => self.run.hold(*handle),
            Act::Look => self.look(),
            Act::Fault { process, after, errno, lasting } => {
                let fs = &self.processes[*process];
                let fault = Fault { at: fs.call_count() + after, errno: *errno, lasting: *lasting };
                fs.set_fault(Some(fault));
                self.trouble[*process].fault = Some(fault);
                Ok(())
            }
            Act::Relief => self.relief(),
            Act::Full { bytes, is_quota } => {
                self.disk.set_room(Some(Room {
                    bytes: self.disk.used() + bytes,
                    is_quota: *is_quota,
                    copies: true,
                    names: false,
                    late: false,
                }));
                self.full = Some(LASTS);
                Ok(())
            }
            Act::Kill { process, after } => {
                let fs = &self.processes[*process];
                fs.die_at(fs.call_count() + after);
                Ok(())
            }
            Act::PowerCut { back, fates, seed } => self.power_cut(*back, *fates, *seed),
        }
    }

    /// Does one operation, on a handle that is opened first if needed, and ends faults that have lasted.
    fn operate(&mut self, handle: usize, what: &What<'_>) -> Result<(), String> {
        let opens = matches!(what, What::Do(Do::Open(_) | Do::Create(_) | Do::Close(_) | Do::Restore(_)));
        if !opens && !self.run.stores.contains_key(&handle) {
            if handle != RESTORED {
                self.open(handle)?;
            }
            if !self.run.stores.contains_key(&handle) {
                return Ok(());
            }
        }
        self.one(handle, what)?;
        self.full = self.full.map(|left| left.saturating_sub(1));
        for process in 0..self.processes.len() {
            let trouble = &self.trouble[process];
            let lasts = trouble.fault.is_some_and(|fault| fault.lasting);
            if trouble.met > if lasts { LASTS } else { 0 } {
                self.relieve(process)?;
            }
        }
        if self.full == Some(0) { self.make_room() } else { Ok(()) }
    }

    /// Opens the store, or creates it if there is none.
    fn open(&mut self, handle: usize) -> Result<(), String> {
        self.one(handle, &What::Do(Do::Open(handle)))?;
        if !self.run.stores.contains_key(&handle) && !self.disk.exists(STORE) {
            self.one(handle, &What::Do(Do::Create(handle)))?;
        }
        if let Some(store) = self.run.stores.get(&handle)
            && take(&mut self.forgot_names)
        {
            match store.versions() {
                Ok(all) => {
                    let names = all.into_iter().map(|named| named.name);
                    *self.run.named() = names.filter(|name| !name.starts_with(PIN)).collect();
                }
                Err(_) => self.forgot_names = true,
            }
        }
        Ok(())
    }

    /// Does one operation, and checks its outcome.
    fn one(&mut self, handle: usize, what: &What<'_>) -> Result<(), String> {
        let process = process_of(handle);
        let fs = self.processes[process].clone();
        self.run.fs = fs.clone();
        let (first, oldest) = (fs.call_count(), self.run.named().first().cloned());
        let said = match what {
            What::Write(policy, entries) => self.run.write(handle, *policy, entries),
            What::Do(what) => {
                self.run.act(*what);
                None
            }
        };
        self.tally.operations += 1;
        let before = self.now.clone();
        let errors = take(&mut self.run.errors);
        self.story.push(format!(
            "  {what:?}: {}",
            errors.first().map_or("done".to_owned(), |(_, error)| error.to_string())
        ));
        let met = self.note_failed_calls(process, first);
        if let (true, What::Do(Do::Dated(_))) = (met, what)
            && let Some(step) = self.run.steps.pop()
        {
            // An older backup that could not be examined stays until the next backup.
            let mut more = step.clone();
            if let Step::Deed { deed, .. } = &mut more {
                *deed = Deed::Dated(ACTS);
            }
            self.run.steps.push(Step::Either(vec![vec![step], vec![more]]));
        }
        self.fold();
        if fs.is_dead() {
            self.bury(process);
            return Ok(());
        }
        for (what_failed, error) in &errors {
            self.may_fail(handle, what, error, met, &before, oldest.as_deref())
                .map_err(|wrong| format!("{what_failed:?}: {wrong}"))?;
        }
        if !errors.is_empty() {
            return Ok(());
        }
        if let (What::Write(policy, entries), Some(said)) = (what, &said) {
            self.said_right(handle, *policy, entries, said, &before)?;
        }
        // A durable commit is acknowledged even if its handle could not map it. The next look maps it, so an
        // operation that met a fault is not compared.
        if met { Ok(()) } else { self.compare(handle, what) }
    }

    fn fold(&mut self) {
        self.now = right_worlds(&self.now, &self.run.steps[self.folded..], usize::MAX);
        self.folded = self.run.steps.len();
    }

    /// States that the handle's store has in these worlds.
    fn states(&self, handle: usize, worlds: &BTreeSet<World>) -> BTreeSet<State> {
        worlds
            .iter()
            .filter_map(|world| match self.run.place(handle) {
                None => Some(&world.store),
                Some(name) => world.restored.get(name),
            })
            .cloned()
            .collect()
    }

    fn said_right(
        &self,
        handle: usize,
        policy: OnDuplicate,
        entries: &[(String, Option<Value>)],
        said: &Appended,
        before: &BTreeSet<World>,
    ) -> Result<(), String> {
        let right: Vec<Option<Appended>> =
            self.states(handle, before).iter().map(|state| state.appended(policy, entries)).collect();
        match right.iter().any(|right| right.as_ref() == Some(said)) {
            true => Ok(()),
            false => Err(format!("it said {said:?}; right would be one of {right:?}")),
        }
    }

    /// Checks the state that a handle shows after an operation.
    fn compare(&mut self, handle: usize, what: &What<'_>) -> Result<(), String> {
        let Some(store) = self.run.stores.get(&handle).filter(|_| what.catches_up()) else { return Ok(()) };
        let state = State::read(&store.snapshot())?;
        if !self.states(handle, &self.now).contains(&state) {
            let found = World { store: state, ..World::default() };
            return Err(format!("handle {handle}: {}", difference(&found, &self.now)));
        }
        // While a living holder cannot release its lock, other handles cannot know which names it failed to
        // flush.
        let is_stuck = self.trouble.iter().any(|trouble| trouble.is_stuck);
        if what.shows() && !is_stuck {
            self.run.show(handle)?;
            self.fold();
        }
        Ok(())
    }

    /// A reader in another process reads everything.
    fn look(&mut self) -> Result<(), String> {
        match options(&self.disk).for_reading().open(STORE) {
            Err(Error::NotFound { .. }) if self.now.iter().any(|world| !world.store.exists) => return Ok(()),
            Err(error) => return Err(format!("a reader cannot open it: {error}")),
            Ok(_) => {}
        }
        let found = read(&self.disk).map_err(|wrong| format!("a reader: {wrong}"))?;
        if !self.now.contains(&found) {
            return Err(format!("a reader: {}", difference(&found, &self.now)));
        }
        self.now = BTreeSet::from([found]);
        Ok(())
    }

    /// Ends all faults, reads and verifies everything, and then cuts the power.
    fn end(&mut self) -> Result<(), String> {
        self.relief()?;
        self.look()?;
        if self.disk.exists(STORE) {
            whole(&self.disk)?;
        }
        self.power_cut(0, 0, 1)
    }
}
