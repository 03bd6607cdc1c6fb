//! Events of a trial and their possible effects: failing calls, a full disk, the death of a process, another
//! process in the middle of an operation, a power cut.

use std::collections::BTreeSet;
use std::mem::take;
use std::sync::{Arc, Mutex};

use vecstore::{Error, OnDuplicate};

use super::super::act::EACCES;
use super::super::check::{check, is_clean};
use super::super::crash::{Fates, Rng};
use super::super::run::{DATED, Do, Run, STORE};
use super::super::world::{Step, World, right_worlds};
use super::super::{Call, SHORT, SimFs};
use super::what::{What, handle_of, process_of, says_full};
use super::{Trial, Trouble};

impl Trial {
    /// Notes which calls of an operation failed, and their possible effects; says whether any failed.
    pub(super) fn note_failed_calls(&mut self, process: usize, first: usize) -> bool {
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
            // A failed flush of a name in the store leaves a mark. A name beside the store, or of a version,
            // is given anew; if that fails, too, the name may vanish. A removed dated backup may come back.
            let within = call.path.starts_with(STORE) && !call.path.ends_with("versions");
            // The library ignores EACCES when it flushes the parent of a store.
            let is_hopeless = fault.lasting || fault.errno == EACCES || call.path.starts_with(DATED);
            if call.what == "flush directory" && !within {
                self.lost_names += if is_hopeless { 2 } else { 1 };
            }
        }
        true
    }

    /// Returns an error unless the trial has a reason for this error of an operation.
    pub(super) fn may_fail(
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
                // The error says to open the store again. Closing also ends a lock that was not released.
                self.run.stores.remove(&handle);
                self.latched.remove(&handle);
                known || trouble.may_latch
            }
            Error::Busy { .. } => self.trouble.iter().any(|trouble| trouble.is_stuck),
            Error::NotFound { .. } if matches!(what, What::Do(Do::Open(_))) => {
                before.iter().any(|world| !world.store.exists)
            }
            // The version may not exist: the outcome of its creation or removal may be unknown.
            Error::NoSuchVersion { .. } if matches!(what, What::Do(Do::DropName(_))) => {
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

    /// Replaces a dead process with a new one.
    pub(super) fn bury(&mut self, process: usize) {
        self.tally.kills += 1;
        self.run.stores.retain(|handle, _| process_of(*handle) != process);
        self.latched.retain(|handle| process_of(*handle) != process);
        self.trouble[process] = Trouble::default();
        self.processes[process] = self.disk.other_process();
    }

    pub(super) fn relief(&mut self) -> Result<(), String> {
        (0..self.processes.len()).try_for_each(|process| self.relieve(process))?;
        self.make_room()
    }

    /// Ends the fault of a process. Every handle must go on then, unless it is latched for a reason.
    pub(super) fn relieve(&mut self, process: usize) -> Result<(), String> {
        self.processes[process].set_fault(None);
        let trouble = &mut self.trouble[process];
        trouble.fault = None;
        if trouble.is_stuck {
            // A lock that could not be released ends with its handle.
            self.run.stores.retain(|handle, _| process_of(*handle) != process);
            self.latched.retain(|handle| process_of(*handle) != process);
        } else if take(&mut trouble.met) > 0 {
            self.all_go_on(|handle| process_of(handle) == process)?;
        }
        self.trouble[process] = Trouble::default();
        Ok(())
    }

    pub(super) fn make_room(&mut self) -> Result<(), String> {
        self.disk.set_room(None);
        if take(&mut self.full).is_some() {
            self.tally.full += 1;
            self.all_go_on(|_| true)?;
        }
        Ok(())
    }

    pub(super) fn all_go_on(&mut self, which: impl Fn(usize) -> bool) -> Result<(), String> {
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

    /// Another process does an operation in the middle of this one; neither process has a fault.
    pub(super) fn meanwhile(&mut self, outer: Do, after: usize, inner: Do) -> Result<(), String> {
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
        // Each operation happens at one moment between its begin and its end, so either may be the first.
        let orders = vec![[&ours[..], &theirs].concat(), [&theirs[..], &ours].concat()];
        self.run.steps.push(Step::Either(orders));
        self.run.stores.append(&mut other.stores);
        self.run.named().append(other.named());
        self.fold();
        let errors = [take(&mut self.run.errors), take(&mut other.errors)].concat();
        let dead: Vec<usize> =
            (0..self.processes.len()).filter(|process| self.processes[*process].is_dead()).collect();
        for (what, error) in errors {
            // The version may not exist: the outcome of its creation or removal may be unknown.
            let may = matches!(
                (what, &error),
                (_, Error::Busy { .. }) | (Do::DropName(_), Error::NoSuchVersion { .. })
            );
            if dead.is_empty() && !may {
                return Err(format!("{what:?}: failed without a reason: {error}"));
            }
        }
        dead.into_iter().for_each(|process| self.bury(process));
        self.look()
    }

    /// Cuts the power and reboots: checks the image that is left, and goes on with it.
    pub(super) fn power_cut(&mut self, back: usize, fates: usize, seed: u64) -> Result<(), String> {
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
}
