//! Carries out acts with the real code, and holds everything it says and shows against the oracle: operations of two
//! processes, calls that fail, disks that fill up, processes that die, power cuts, and all that on top of each other.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::mem::take;
use std::sync::{Arc, Mutex};

use vecstore::{Appended, Error, OnDuplicate};

use super::act::{Act, EACCES, RESTORED};
use super::check::{PIN, check, is_clean, read, whole};
use super::crash::{Fates, Rng};
use super::oracle::{State, Value};
use super::run::{DATED, Do, Run, STORE, options};
use super::world::{Deed, Step, World, difference, nothing, right_worlds};
use super::{Call, Fault, Room, SHORT, SimFs};

/// Acts of a trial; what follows is not done.
const ACTS: usize = 48;
/// Operations that a lasting fault or a full disk lasts for.
const LASTS: usize = 4;
/// Worlds that may be right at one time. Beyond it, too little is known for the rest to teach much.
const WORLDS: usize = 512;

/// How often what happened.
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

/// Carries out the acts on an empty disk; an error says what went wrong after which of them.
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

/// What is wrong with a process.
#[derive(Debug, Default)]
struct Trouble {
    fault: Option<Fault>,
    /// Operations that met it.
    met: usize,
    /// A flush of a directory failed, or a rename: nobody knows what a power cut would leave.
    may_latch: bool,
    /// A lock could not be given back.
    is_stuck: bool,
}

struct Trial {
    /// The disk for a process that nothing happens to, and that only looks.
    disk: SimFs,
    processes: [SimFs; 2],
    trouble: [Trouble; 2],
    run: Run,
    /// What was right when the disk was last without anything unflushed.
    start: BTreeSet<World>,
    /// What a reader may see now, given the steps of the run up to here.
    now: BTreeSet<World>,
    folded: usize,
    /// Handles that have said that they write no more.
    latched: BTreeSet<usize>,
    /// Operations that the disk stays full for.
    full: Option<usize>,
    /// Names beside the store whose flush failed.
    lost_names: usize,
    /// The names of checkpoints are to be looked up.
    forgot_names: bool,
    /// Nothing can be told any more about what a power cut leaves.
    is_over: bool,
    others: u32,
    /// What happened, for messages.
    story: Vec<String>,
    tally: Tally,
}

/// An operation of a handle.
#[derive(Clone, Debug)]
enum What<'a> {
    Write(OnDuplicate, &'a [(String, Option<Value>)]),
    Do(Do),
}

impl What<'_> {
    /// Afterwards the handle knows everything.
    fn catches_up(&self) -> bool {
        self.shows() || matches!(self, What::Do(Do::Refresh(_) | Do::Merge(_) | Do::FullMerge(_)))
    }

    /// What the handle knows afterwards, somebody may rely on.
    fn shows(&self) -> bool {
        match self {
            What::Write(..) => true,
            What::Do(what) => matches!(
                what,
                Do::Append(_)
                    | Do::Replace(_)
                    | Do::Skip(_)
                    | Do::Delete(_)
                    | Do::Setting(_)
                    | Do::Checkpoint(_)
                    | Do::Create(_)
                    | Do::Open(_)
            ),
        }
    }
}

fn process_of(handle: usize) -> usize {
    handle % RESTORED / 2
}

fn handle_of(what: Do) -> usize {
    match what {
        Do::Create(handle)
        | Do::Open(handle)
        | Do::Append(handle)
        | Do::Together(handle)
        | Do::Replace(handle)
        | Do::Skip(handle)
        | Do::Delete(handle)
        | Do::Setting(handle)
        | Do::Fingerprint(handle)
        | Do::Checkpoint(handle)
        | Do::Refresh(handle)
        | Do::Merge(handle)
        | Do::FullMerge(handle)
        | Do::Name(handle)
        | Do::DropName(handle)
        | Do::Backup(handle)
        | Do::Dated(handle)
        | Do::Restore(handle)
        | Do::Close(handle) => handle,
        Do::Hit(_) | Do::Repair => 0,
    }
}

/// True for what a full disk says.
fn says_full(error: &Error) -> bool {
    match error {
        Error::NoSpace { .. } => true,
        Error::Io { source, .. } => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        }
        _ => false,
    }
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

    /// One operation, on a handle that is opened first if it is not, and what it has to do with troubles.
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

    /// Opens the store, or creates it where there is none.
    fn open(&mut self, handle: usize) -> Result<(), String> {
        self.one(handle, &What::Do(Do::Open(handle)))?;
        if !self.run.stores.contains_key(&handle) && !self.disk.exists(STORE) {
            self.one(handle, &What::Do(Do::Create(handle)))?;
        }
        if let Some(store) = self.run.stores.get(&handle)
            && take(&mut self.forgot_names)
        {
            match store.checkpoints() {
                Ok(all) => {
                    let names = all.into_iter().map(|named| named.name);
                    *self.run.named() = names.filter(|name| !name.starts_with(PIN)).collect();
                }
                Err(_) => self.forgot_names = true,
            }
        }
        Ok(())
    }

    /// One operation, and a judgement of what came of it.
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
            // An older backup that could not be looked at stays until the next one is made.
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
        // A commit that is durable is acknowledged, even if its own handle could not map it: the next look does.
        if met { Ok(()) } else { self.compare(handle, what) }
    }

    fn fold(&mut self) {
        self.now = right_worlds(&self.now, &self.run.steps[self.folded..], usize::MAX);
        self.folded = self.run.steps.len();
    }

    /// Which calls of an operation met a fault, and what follows from that.
    fn note_failed_calls(&mut self, process: usize, first: usize) -> bool {
        let trouble = &mut self.trouble[process];
        let Some(fault) = trouble.fault else { return false };
        let calls = self.processes[process].calls_from(first);
        let hit = |at: usize, call: &Call| {
            (at == fault.at || fault.lasting && at > fault.at)
                && (fault.errno != SHORT || call.what == "read record")
        };
        let failed: Vec<Call> =
            (first..).zip(calls).filter(|(at, call)| hit(*at, call)).map(|(_, call)| call).collect();
        if failed.is_empty() {
            return false;
        }
        trouble.met += 1;
        self.tally.faults += 1;
        for call in failed {
            self.story.push(format!("  failed: {} {}", call.what, call.path.display()));
            trouble.may_latch |= matches!(call.what, "flush directory" | "rename");
            trouble.is_stuck |= call.what == "unlock";
            // A failed flush of a name in the store leaves a mark. Of one beside it, or of a named checkpoint, the name
            // is given anew; where that fails too nobody can do anything. A dated backup that is removed may come back.
            let within = call.path.starts_with(STORE) && !call.path.ends_with("checkpoints");
            // And a directory that a user may not open, that user need not flush.
            let is_hopeless = fault.lasting || fault.errno == EACCES || call.path.starts_with(DATED);
            if call.what == "flush directory" && !within {
                self.lost_names += if is_hopeless { 2 } else { 1 };
            }
        }
        true
    }

    /// Says whether there is a reason for this error.
    fn may_fail(
        &mut self,
        handle: usize,
        what: &What<'_>,
        error: &Error,
        met: bool,
        before: &BTreeSet<World>,
        oldest: Option<&str>,
    ) -> Result<(), String> {
        let trouble = &self.trouble[process_of(handle)];
        let there_is_a_reason = match error {
            Error::DuplicateKey { count, .. } => match what {
                What::Write(OnDuplicate::Error, entries) => {
                    let states = self.states(handle, before);
                    return match states.iter().any(|state| state.duplicates(entries) == *count && *count > 0)
                    {
                        true => Ok(()),
                        false => Err(format!("no such keys are there: {error}")),
                    };
                }
                _ => false,
            },
            Error::OutcomeUnknown { .. } => {
                self.latched.insert(handle);
                met && trouble.may_latch
            }
            Error::Latched { .. } => {
                let known = self.latched.contains(&handle);
                // As the error says: open it again. Where even unlocking failed, this also ends the lock.
                self.run.stores.remove(&handle);
                self.latched.remove(&handle);
                known || trouble.may_latch
            }
            Error::Busy { .. } => self.trouble.iter().any(|trouble| trouble.is_stuck),
            Error::NotFound { .. } if matches!(what, What::Do(Do::Open(_))) => {
                before.iter().any(|world| !world.store.exists)
            }
            // Nobody knows whether the checkpoint is there.
            Error::BadInput { .. } if matches!(what, What::Do(Do::DropName(_))) => {
                return match before.iter().any(|world| !world.named.contains_key(oldest.unwrap_or_default()))
                {
                    true => Ok(()),
                    false => Err(error.to_string()),
                };
            }
            error => self.full.is_some() && says_full(error),
        };
        is_clean(error)?;
        if there_is_a_reason || met { Ok(()) } else { Err(format!("failed without a reason: {error}")) }
    }

    /// States that a handle's store may have in these worlds.
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

    /// Holds what a handle shows after an operation against what is right.
    fn compare(&mut self, handle: usize, what: &What<'_>) -> Result<(), String> {
        let Some(store) = self.run.stores.get(&handle).filter(|_| what.catches_up()) else { return Ok(()) };
        let state = State::read(store)?;
        if !self.states(handle, &self.now).contains(&state) {
            let found = World { store: state, ..World::default() };
            return Err(format!("handle {handle}: {}", difference(&found, &self.now)));
        }
        // Beside a holder that lives and cannot give its lock back, nobody can tell what that holder failed to flush.
        let is_stuck = self.trouble.iter().any(|trouble| trouble.is_stuck);
        if what.shows() && !is_stuck {
            self.run.show(handle)?;
            self.fold();
        }
        Ok(())
    }

    /// A process has died, and another one takes its place.
    fn bury(&mut self, process: usize) {
        self.tally.kills += 1;
        self.run.stores.retain(|handle, _| process_of(*handle) != process);
        self.latched.retain(|handle| process_of(*handle) != process);
        self.trouble[process] = Trouble::default();
        self.processes[process] = self.disk.other_process();
    }

    fn relief(&mut self) -> Result<(), String> {
        (0..self.processes.len()).try_for_each(|process| self.relieve(process))?;
        self.make_room()
    }

    /// The cause of a fault is gone: every handle goes on, unless it says that it does not, and had reason to.
    fn relieve(&mut self, process: usize) -> Result<(), String> {
        self.processes[process].set_fault(None);
        let trouble = &mut self.trouble[process];
        trouble.fault = None;
        if trouble.is_stuck {
            // A lock that could not be given back ends with its handle.
            self.run.stores.retain(|handle, _| process_of(*handle) != process);
            self.latched.retain(|handle| process_of(*handle) != process);
        } else if take(&mut trouble.met) > 0 {
            self.all_go_on(|handle| process_of(handle) == process)?;
        }
        self.trouble[process] = Trouble::default();
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), String> {
        self.disk.set_room(None);
        if take(&mut self.full).is_some() {
            self.tally.full += 1;
            self.all_go_on(|_| true)?;
        }
        Ok(())
    }

    fn all_go_on(&mut self, which: impl Fn(usize) -> bool) -> Result<(), String> {
        let handles: Vec<usize> = self.run.stores.keys().copied().filter(|handle| which(*handle)).collect();
        for handle in handles {
            for what in [Do::Refresh(handle), Do::Append(handle)] {
                if !self.run.stores.contains_key(&handle) {
                    break;
                }
                self.one(handle, &What::Do(what))
                    .map_err(|wrong| format!("handle {handle} does not go on: {wrong}"))?;
            }
        }
        Ok(())
    }

    /// Somebody else reads everything.
    fn look(&mut self) -> Result<(), String> {
        match options(&self.disk).read_only(true).open(STORE) {
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

    /// Another process does something in the middle of an operation; neither has any trouble.
    fn meanwhile(&mut self, outer: Do, after: usize, inner: Do) -> Result<(), String> {
        let (host, guest) = (handle_of(outer), handle_of(inner));
        self.relief()?;
        for handle in [host, guest] {
            if !self.run.stores.contains_key(&handle) {
                self.open(handle)?;
            }
        }
        let fs = self.processes[process_of(host)].clone();
        let Some(store) = self.run.stores.remove(&guest) else { return Ok(()) };
        let mut other = Run::new(self.processes[process_of(guest)].clone());
        self.others += 1;
        other.skip_keys(10_000 * self.others);
        other.stores.insert(guest, store);
        let other = Arc::new(Mutex::new(other));
        let theirs = Arc::clone(&other);
        fs.before(fs.call_count() + after, move || theirs.lock().expect("no panic").act(inner));
        self.run.fs = fs.clone();
        let first = self.run.steps.len();
        self.run.act(outer);
        fs.never_mind();
        let mut other = other.lock().expect("no panic");
        let ours = self.run.steps.split_off(first);
        let theirs = take(&mut other.steps);
        self.tally.operations += 1;
        self.tally.interleaved += usize::from(!theirs.is_empty());
        // Each is a moment within the time it took, so either may be taken for the first.
        let orders = vec![[&ours[..], &theirs].concat(), [&theirs[..], &ours].concat()];
        self.run.steps.push(Step::Either(orders));
        self.run.stores.append(&mut other.stores);
        self.run.named().append(other.named());
        self.fold();
        let errors = [take(&mut self.run.errors), take(&mut other.errors)].concat();
        let dead: Vec<usize> =
            (0..self.processes.len()).filter(|process| self.processes[*process].is_dead()).collect();
        for (what, error) in errors {
            // Nobody may know whether a checkpoint is there.
            let may =
                matches!((what, &error), (_, Error::Busy { .. }) | (Do::DropName(_), Error::BadInput { .. }));
            if dead.is_empty() && !may {
                return Err(format!("{what:?}: failed without a reason: {error}"));
            }
        }
        dead.into_iter().for_each(|process| self.bury(process));
        self.look()
    }

    /// The power fails, and the machine starts again. What is left is checked, and the trial goes on with it.
    fn power_cut(&mut self, back: usize, fates: usize, seed: u64) -> Result<(), String> {
        self.run.let_go()?;
        if self.lost_names > 1 {
            self.is_over = true;
            return Ok(());
        }
        let history = self.disk.history();
        let prefix = history.log.len().saturating_sub(back);
        let right = right_worlds(&self.start, &self.run.steps, prefix);
        let mut rng = Rng(seed);
        let mut all: Vec<Fates> = history.fates(prefix, 2 + fates, &mut rng);
        let chosen = all.swap_remove(fates.min(all.len() - 1));
        let image = history.image(prefix, &chosen, &mut rng);
        check(&SimFs::from_image(image.clone()), &right, seed)
            .map_err(|wrong| format!("{wrong}\n{}", history.tell(prefix, &chosen)))?;
        self.tally.power_cuts += 1;
        let others = self.others + 1;
        let mut next = Trial::new(SimFs::from_image(image), right);
        next.run.skip_keys(10_000 * others);
        (next.others, next.tally, next.forgot_names) = (others, self.tally, true);
        next.story = take(&mut self.story);
        *self = next;
        Ok(())
    }

    /// All that is wrong is put right, everything is read and verified, and then the power fails.
    fn end(&mut self) -> Result<(), String> {
        self.relief()?;
        self.look()?;
        if self.disk.exists(STORE) {
            whole(&self.disk)?;
        }
        self.power_cut(0, 0, 1)
    }
}
