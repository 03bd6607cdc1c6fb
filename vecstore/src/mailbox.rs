//! How processes commit for each other: whoever waits for the commit lock offers its batches in a file of its own, the
//! mailbox; whoever has the lock takes what is offered, commits it together with its own in one segment, and answers.
//!
//! Only the owner writes the offer, and only while no answer is due. The answer is written by the owner when it offers,
//! and from then on by the holder of the commit lock alone. Should a holder die between taking and answering, the owner
//! finds out what became of its batches once it has the lock itself.
//!
//! Nobody is left in doubt by a full disk, on which a file system that copies on write has no room even for a byte that is
//! overwritten: who gives up gives back the lock that he has on his mailbox, and a last answer that cannot be written is
//! given by renaming it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bug::Bug;
use crate::commit::Request;
use crate::format::{Id, hex, random_id};
use crate::manifest::remove_own;
use crate::offer::{self, ANSWER_LEN, Answer, HEAD_LEN, Head, MAX_BYTES, OFFER_AT, Promised, State};
use crate::segment::Segment;
use crate::vfs::{LockFile, Vfs};
use crate::view::{Meta, View};
use crate::{Appended, Batch, Error, OnDuplicate, Result};

/// Names of mailboxes begin with this.
const PREFIX: &str = "LOCK.offer-";
/// A mailbox is renamed to its name and this when that cannot be written into it.
const SUFFIXES: [(State, &str); 2] = [(State::Done, ".done"), (State::None, ".none")];
/// Bytes of all offers that one commit takes.
const TAKEN_BYTES: usize = 8 << 20;

/// The mailbox of a handle that writes. Its owner holds a lock on it as long as what it offers may be taken.
pub(crate) struct Mailbox {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    file: Box<dyn LockFile>,
    /// Number of the last offer.
    seq: u64,
    /// Its batches.
    count: usize,
    /// The last offer was withdrawn: this one serves for no other.
    is_used_up: bool,
    buffer: Vec<u8>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        remove_own(&*self.vfs, &self.renamed().map_or_else(|| self.path.clone(), |(_, path)| path));
    }
}

impl Mailbox {
    /// Makes a mailbox. Without one a handle commits for itself only, so that nothing is lost if it cannot be made.
    pub fn open(vfs: &Arc<dyn Vfs>, dir: &Path) -> Option<Self> {
        let path = dir.join(format!("{PREFIX}{}", hex(&random_id().ok()?)));
        let file = vfs.open_lock(&path, true).inspect_err(|error| log::debug!("no mailbox: {error}")).ok()?;
        let (vfs, buffer) = (Arc::clone(vfs), Vec::new());
        let mut mailbox = Mailbox { vfs, path, file, seq: 0, count: 0, is_used_up: false, buffer };
        // Whoever saw it before it was locked took it for that of a dead process, and has removed it.
        let locked = mailbox.file.try_lock().is_ok_and(|locked| locked);
        (locked && mailbox.file.is_at(&mailbox.path).is_ok_and(|there| there)).then_some(mailbox)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when the next offer needs another mailbox.
    pub fn is_used_up(&self) -> bool {
        self.is_used_up || !self.file.is_at(&self.path).unwrap_or(false)
    }

    /// The last answer as the mailbox's name has it.
    fn renamed(&self) -> Option<(State, PathBuf)> {
        match self.file.is_at(&self.path) {
            Ok(true) => return None,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return None,
            // There is nothing under the name, or another file.
            Ok(false) | Err(_) => {}
        }
        let renamed = SUFFIXES.map(|(state, suffix)| (state, with_suffix(&self.path, suffix)));
        renamed.into_iter().find(|(_, path)| self.file.is_at(path).unwrap_or(false))
    }

    /// Offers a group. False when it cannot be: it is too large, or the file cannot be written.
    pub fn offer(&mut self, store_id: Id, group: &[Request<'_>]) -> bool {
        (self.seq, self.count) = (self.seq + 1, group.len());
        if offer::encode(self.seq, store_id, group, &mut self.buffer).is_none() {
            return false;
        }
        if let Err(error) = self.file.write_at(OFFER_AT, &self.buffer) {
            log::debug!("not offered: {error}");
            return false;
        }
        // An error does not say that nobody can read it.
        let _ = self.say(Answer::new(self.seq, State::Offered));
        true
    }

    fn say(&mut self, answer: Answer) -> std::io::Result<()> {
        self.file.write_at(0, &answer.to_bytes())
    }

    /// What has become of the offer so far; `None` when that cannot be read. An answer to an earlier offer that its taker
    /// wrote late stands for none: he is the only one who answers.
    fn answer(&self) -> Option<Answer> {
        let answer = read_answer(&*self.file)?;
        if answer.seq != self.seq {
            return Some(Answer::new(self.seq, State::None));
        }
        let renamed = if answer.state() == State::Taken { self.renamed() } else { None };
        Some(renamed.map_or(answer, |(state, _)| answer.become_state(state)))
    }

    /// Under the commit lock: takes the offer off the table if nobody has taken it. False when that cannot be done; then
    /// the mailbox must go, for others would find the offer there.
    pub fn retract(&mut self) -> bool {
        match self.answer().map(|answer| answer.state()) {
            Some(State::Offered) => self.say(Answer::new(self.seq, State::None)).is_ok(),
            _ => true,
        }
    }

    /// The outcomes, once the offer is committed, and the last commit that its owner must know.
    pub fn done(&self) -> Option<(Vec<Appended>, u64)> {
        let answer = self.answer().filter(|answer| answer.state() == State::Done)?;
        Some((answer.outcomes(), answer.last)).filter(|(outcomes, _)| outcomes.len() == self.count)
    }

    /// True while somebody is committing the offer, or died doing so; also when that cannot be read.
    pub fn is_taken(&self) -> bool {
        self.answer().is_none_or(|answer| answer.state() == State::Taken)
    }

    /// Asks not to commit the offer any more. Whoever was about to take it sees this before he begins; who has begun goes
    /// on, which [`Mailbox::is_taken`] says from now on.
    ///
    /// # Errors
    /// When nobody can be asked: the offer may still be committed.
    pub fn withdraw(&mut self) -> Result<()> {
        self.is_used_up = true;
        self.file.unlock().map_err(|_| self.in_doubt())
    }

    /// The error when nobody can tell whether the offer was committed.
    pub fn in_doubt(&self) -> Error {
        let what = "another process was writing this batch, and nobody can tell whether it has committed it";
        Error::OutcomeUnknown { path: self.path.clone(), source: Arc::new(std::io::Error::other(what)) }
    }

    /// Under the commit lock: what has become of the offer, with a view that knows every commit. `None` when it was not
    /// committed; the offer is then taken back.
    ///
    /// # Errors
    /// When nobody can tell: its taker died, and its commit may have been merged with later ones that replace all of it.
    pub fn settle(&mut self, view: &View, group: &[Request<'_>]) -> Result<Option<Vec<Appended>>> {
        let answer = self.answer().ok_or_else(|| self.in_doubt())?;
        match answer.state() {
            State::Done => {
                let (outcomes, _) = self.done().ok_or_else(|| self.in_doubt())?;
                return Ok(Some(outcomes));
            }
            State::Taken if answer.first != 0 => match was_committed(view, &answer, group)? {
                Some(true) => return Ok(Some(answer.outcomes())),
                Some(false) => {}
                None => return Err(self.in_doubt()),
            },
            _ => {}
        }
        // It was not, and never will be: whoever took it is dead, or has the lock no more. His answer is one to an earlier
        // offer from now on.
        self.seq += 1;
        Ok(None)
    }
}

fn read_answer(file: &dyn LockFile) -> Option<Answer> {
    let mut bytes = [0; ANSWER_LEN];
    let read = file.read_at(0, &mut bytes).ok()?;
    match read {
        // Nobody has written one: the owner could not announce his first offer.
        ANSWER_LEN if bytes == [0; ANSWER_LEN] => Some(Answer::new(0, State::None)),
        ANSWER_LEN => Answer::parse(&bytes),
        _ => None,
    }
}

/// Whether the segment that was promised is in the store; `None` when nobody can tell.
fn was_committed(view: &View, promised: &Answer, group: &[Request<'_>]) -> Result<Option<bool>> {
    let outcomes = promised.outcomes();
    // What was only skipped is decided anew.
    if outcomes.iter().all(|outcome| outcome.commit.is_none()) {
        return Ok(Some(false));
    }
    let Some(live) = view.segment_of(promised.first) else { return Ok(Some(false)) };
    let (segment, footer) = (&live.segment, live.segment.footer());
    if footer.link_out == promised.link_out {
        return Ok(Some(true));
    }
    // A merge holds whole segments. What does not hold the whole of it holds nothing of it.
    let (found, whole) = ((footer.first, footer.last), (promised.first, promised.last));
    if found == whole || found.0 > whole.0 || found.1 < whole.1 {
        return Ok(Some(false));
    }
    // A merge, or another group. What is stored under these numbers is the same as what was to be written, or it is not.
    let mut all = true;
    for (request, outcome) in group.iter().zip(outcomes) {
        let Some(commit) = outcome.commit else { continue };
        match is_stored(segment, commit, request)? {
            Some(true) => {}
            Some(false) => return Ok(Some(false)),
            None => all = false,
        }
    }
    Ok(all.then_some(true))
}

/// Whether what a segment has of a commit comes from this batch; `None` when it has nothing of it any more.
fn is_stored(segment: &Segment, commit: u64, request: &Request<'_>) -> Result<Option<bool>> {
    let mut any = None;
    for number in 0..request.batch.len() as u64 {
        let Some(index) = segment.locate_entry(commit, number) else { continue };
        let (key, rows) = (segment.key(index)?, segment.row_span(index)?);
        let Some(entry) = request.batch.entries().find(|entry| entry.key == key) else {
            return Ok(Some(false));
        };
        let scales: &[u8] = bytemuck::cast_slice(segment.row_scales(rows.clone()));
        let is_same = entry.kind == segment.kind(index)?
            && entry.rows == segment.row_bytes(rows)?
            && bytemuck::cast_slice::<f32, u8>(entry.scales) == scales
            && entry.payload == segment.payload(index)?;
        if !is_same {
            return Ok(Some(false));
        }
        any = Some(true);
    }
    Ok(any)
}

/// An offer that the holder of the commit lock has taken.
pub(crate) struct Taken {
    vfs: Arc<dyn Vfs>,
    path: PathBuf,
    file: Box<dyn LockFile>,
    seq: u64,
    promise: Answer,
    pub batches: Vec<(Batch, OnDuplicate)>,
}

impl Taken {
    fn say(&mut self, answer: Answer) -> bool {
        let said = self.file.write_at(0, &answer.to_bytes());
        said.inspect_err(|error| log::debug!("{}: no answer written: {error}", self.path.display())).is_ok()
    }

    /// Says what is the last of this offer.
    fn conclude(&mut self, answer: Answer) {
        if self.say(answer) {
            return;
        }
        for (state, suffix) in SUFFIXES {
            if state == answer.state()
                && let Err(error) = self.vfs.rename_noreplace(&self.path, &with_suffix(&self.path, suffix))
            {
                log::warn!("{}: no answer to an offer: {error}", self.path.display());
            }
        }
    }

    /// Says before the commit what it will be, so that the owner can find out if this process dies. False when it could
    /// not be said: then the offer must not be committed.
    pub fn promise(&mut self, promised: Promised, outcomes: &[Appended]) -> bool {
        self.promise = Answer::promise(self.seq, promised, outcomes);
        if Bug::DoneEarly.is_on() {
            return self.say(self.promise.become_state(State::Done));
        }
        self.say(self.promise)
    }

    /// Says that it is committed, durably.
    pub fn done(mut self) {
        self.conclude(self.promise.become_state(State::Done));
    }

    /// Says that its owner must see to it himself.
    pub fn refuse(mut self) {
        self.conclude(Answer::new(self.seq, State::None));
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Under the commit lock: takes what other processes offer to a store, but for those whose owner died. `own` is the
/// taker's own mailbox.
pub(crate) fn take(vfs: &Arc<dyn Vfs>, dir: &Path, own: Option<&Path>, meta: &Meta) -> Vec<Taken> {
    let (mut taken, mut bytes) = (Vec::new(), 0);
    for name in vfs.list(dir).unwrap_or_default() {
        let path = dir.join(&name);
        let is_other = name.to_str().is_some_and(|name| name.starts_with(PREFIX)) && own != Some(&path);
        if is_other
            && bytes < TAKEN_BYTES
            && let Some((offer, len)) = take_one(vfs, &path, meta)
        {
            bytes += len;
            taken.push(offer);
        }
    }
    taken
}

fn take_one(vfs: &Arc<dyn Vfs>, path: &Path, meta: &Meta) -> Option<(Taken, usize)> {
    let mut file = vfs.open_lock(path, false).ok()?;
    if file.try_lock().ok()? {
        // Nobody holds it: its owner died, or has given up.
        remove_own(&**vfs, path);
        return None;
    }
    let answer = read_answer(&*file).filter(|answer| answer.state() == State::Offered)?;
    let mut head = [0; HEAD_LEN];
    if file.read_at(OFFER_AT, &mut head).ok()? < HEAD_LEN {
        return None;
    }
    let head = Head::parse(&head, answer.seq, meta.store_id).filter(|head| head.len() <= 2 * MAX_BYTES)?;
    let mut body = vec![0; head.len()];
    if file.read_at(OFFER_AT + HEAD_LEN as u64, &mut body).ok()? < body.len() {
        return None;
    }
    let batches = offer::decode(&head, &body, meta.dim, meta.dtype)?;
    let promise = Answer::new(answer.seq, State::Taken);
    let mut taken =
        Taken { vfs: Arc::clone(vfs), path: path.to_owned(), file, seq: answer.seq, promise, batches };
    if !taken.say(promise) {
        return None;
    }
    // The owner gives his lock back first and looks then whether it was taken, here it is the other way round: one of the
    // two sees it. Nobody but the holder of the commit lock tries to lock another's mailbox.
    if taken.file.try_lock().map_or(true, |free| free) && !Bug::TakeWithdrawn.is_on() {
        taken.refuse();
        return None;
    }
    Some((taken, body.len()))
}

/// Removes the mailboxes of processes that died.
pub(crate) fn sweep(vfs: &dyn Vfs, dir: &Path) {
    for name in vfs.list(dir).unwrap_or_default() {
        let path = dir.join(&name);
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX))
            && let Ok(mut file) = vfs.open_lock(&path, false)
            && file.try_lock().is_ok_and(|locked| locked)
        {
            remove_own(vfs, &path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::vfs::RealFs;

    #[test]
    fn an_answer_given_by_a_name_is_read_on_a_real_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let vfs: Arc<dyn Vfs> = Arc::new(RealFs);
        let mut batch = Batch::new(1, DType::F32);
        batch.push("a", &[1.0f32]).unwrap();
        let group = [Request { batch: &batch, policy: OnDuplicate::Skip }];
        for (state, suffix) in SUFFIXES {
            let mut mailbox = Mailbox::open(&vfs, dir.path()).unwrap();
            assert!(mailbox.offer([1; 16], &group), "the system has a boot id");
            let promised = Promised { first: 1, last: 1, link_out: [2; 16] };
            let outcome = Appended { commit: Some(1), ..Appended::default() };
            mailbox.say(Answer::promise(mailbox.seq, promised, &[outcome])).unwrap();
            assert!(mailbox.is_taken() && mailbox.done().is_none() && !mailbox.is_used_up());
            vfs.rename_noreplace(mailbox.path(), &with_suffix(mailbox.path(), suffix)).unwrap();
            assert!(!mailbox.is_taken() && mailbox.is_used_up(), "{suffix}");
            assert_eq!(mailbox.done().is_some(), state == State::Done, "{suffix}");
            drop(mailbox);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{suffix}");
        }
    }
}
