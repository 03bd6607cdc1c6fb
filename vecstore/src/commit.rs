//! The commit: how a group of batches becomes one durable, visible segment.
//!
//! 1. Take the commit lock (between processes). Whoever has to wait for it offers his group to the one who has it, and may
//!    find it committed: see `mailbox.rs`.
//! 2. Look whether others committed, or died trying; if so list the directory and flush it, because a name that is
//!    merely visible is not yet durable.
//! 3. Take what others offer. Decide numbers, duplicates, kills and the link to the predecessor.
//! 4. Write a temporary file and flush its data.
//! 5. Rename it to its final name, without replacing; flush the directory.
//! 6. Raise LOCK's counter, answer those whose groups were committed with it, release the lock, acknowledge.
//!
//! `docs/DURABILITY.md` argues each step crash point by crash point.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bug::{Bug, unless};
use crate::format::footer::Footer;
use crate::format::{random_ids, settings};
use crate::load;
use crate::lock::{Found, Span};
use crate::mailbox::{self, Mailbox, Taken};
use crate::offer::Promised;
use crate::recent::Recent;
use crate::resolve::{Overlay, Resolved, resolve};
use crate::segment::{EncodedSegment, Segment, SegmentBuilder};
use crate::vfs::Mapping;
use crate::view::View;
use crate::writer::Writer;
use crate::{Batch, Error, OnDuplicate, Result};

/// Commits between two checkpoints of the manifest.
const CHECKPOINT_EVERY: u64 = 64;
/// How long to wait for another process that has begun to commit for this one, after the handle's patience is at an end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// What an append did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The batch's commit number; `None` when nothing was left to write.
    pub commit: Option<u64>,
    /// Entries written.
    pub entries: u64,
    /// Rows written.
    pub rows: u64,
    /// Entries left out because their key is stored (or, for deletions, is not).
    pub skipped: u64,
    /// Entries that superseded a stored one.
    pub replaced: u64,
    /// Keys deleted.
    pub deleted: u64,
}

/// A segment of this handle's own that is committed, as it was written.
#[derive(Debug)]
pub(crate) struct Committed {
    path: PathBuf,
    footer: Footer,
    map: Option<Mapping>,
    /// The hashes of its keys.
    hashes: Vec<u64>,
}

/// A batch on its way, as the group sees it.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub batch: &'a Batch,
    pub policy: OnDuplicate,
}

/// Decides what becomes of each batch of a group, and what is left to write.
fn resolve_group<'a>(
    view: &View,
    recent: &mut Recent,
    group: &[Request<'a>],
) -> (Vec<Result<Appended>>, Vec<Resolved<'a>>) {
    recent.update(view);
    let mut overlay = Overlay::default();
    let mut resolved: Vec<Resolved<'_>> = Vec::new();
    let mut next = view.last_commit() + 1;
    let mut outcomes = Vec::with_capacity(group.len());
    for (number, request) in group.iter().enumerate() {
        overlay.is_needed = number + 1 < group.len();
        outcomes.push(resolve(view, recent, &mut overlay, request.batch, request.policy, next).map(
            |mut batch| {
                if batch.written.is_empty() {
                    return batch.outcome;
                }
                batch.outcome.commit = Some(next);
                next += 1;
                let outcome = batch.outcome;
                resolved.push(batch);
                outcome
            },
        ));
    }
    (outcomes, resolved)
}

/// Lays out the segment that follows the last one of the view.
fn encode<'a>(view: &View, batches: &[Resolved<'a>]) -> Result<EncodedSegment<'a>> {
    let meta = &view.meta;
    let first = view.last_commit() + 1;
    let row_bytes = meta.dim * meta.dtype.size();
    let mut builder = SegmentBuilder::new(batches.iter().map(|batch| batch.written.len()).sum());
    for (commit, batch) in (first..).zip(batches) {
        builder.begin_run(commit, 0, 0);
        for (hash, entry) in &batch.written {
            let rows = (entry.rows.len() / row_bytes) as u64;
            builder.push_hashed(*hash, entry.key, entry.kind, rows, entry.payload);
        }
        match batch.all_rows() {
            Some((rows, scales)) => builder.add_rows(rows, scales),
            None => batch.written.iter().for_each(|(_, entry)| builder.add_rows(entry.rows, entry.scales)),
        }
        batch.kills.iter().for_each(|kill| builder.kill(*kill));
    }
    let mut identity = Footer::empty();
    identity.store_id = meta.store_id;
    identity.epoch = meta.epoch();
    [identity.nonce, identity.link_out] = random_ids()?;
    identity.link_in = view.link();
    identity.fingerprint = meta.fingerprint.as_ref().map_or([0; 32], |fingerprint| *fingerprint.id());
    identity.first = first;
    identity.last = view.last_commit() + batches.len() as u64;
    identity.dim = u32::try_from(meta.dim).unwrap_or(u32::MAX);
    identity.dtype = meta.dtype.code();
    identity.metric = meta.metric.code();
    Ok(builder.finish(identity, meta.dtype, segment_settings(meta)?))
}

/// How a group comes to its turn.
enum Entered {
    /// This handle has the commit lock. `offered`: somebody may have committed the group before.
    Locked { found: Found, offered: bool },
    /// Another process has committed the group; this handle must know the commits up to the last one.
    Committed { outcomes: Vec<Appended>, last: u64 },
}

impl Writer {
    /// Commits a group of batches as one segment, or has it committed by whoever holds the commit lock. Each batch gets its
    /// own outcome; a failure of the file fails all that were part of it.
    pub fn commit_group(&mut self, view: &mut View, group: &[Request<'_>]) -> Vec<Result<Appended>> {
        let mut outcomes: Vec<Result<Appended>> = Vec::with_capacity(group.len());
        let committed = self.enter(view, group).and_then(|entered| match entered {
            Entered::Locked { found, offered } => {
                if !self.mailbox.as_mut().is_none_or(Mailbox::retract) {
                    self.mailbox = None;
                }
                let committed = self
                    .holding(found, view, |writer, view| writer.commit(view, group, offered, &mut outcomes));
                self.take_in(view);
                match (committed, &self.mailbox) {
                    // What others did for this handle has happened, whatever went wrong then.
                    (Err(error), Some(mailbox)) if offered => {
                        let done = match mailbox.done() {
                            None if mailbox.is_taken() => self.find_out(view, group)?,
                            done => done,
                        };
                        let (all, last) = done.ok_or(error)?;
                        self.learn(view, last);
                        outcomes = all.into_iter().map(Ok).collect();
                        Ok(())
                    }
                    (committed, _) => committed,
                }
            }
            Entered::Committed { outcomes: all, last } => {
                self.learn(view, last);
                outcomes.extend(all.into_iter().map(Ok));
                Ok(())
            }
        });
        match committed {
            Ok(()) => outcomes,
            Err(_) if Bug::AcknowledgeFailed.is_on() => outcomes,
            Err(error) => fail_all(error, group.len(), outcomes),
        }
    }

    /// Takes the commit lock. Whoever has to wait for it offers the group meanwhile, and may find it committed.
    fn enter(&mut self, view: &View, group: &[Request<'_>]) -> Result<Entered> {
        self.check_latch()?;
        if let Some(found) = self.lock.try_acquire_in_turn()? {
            return Ok(Entered::Locked { found, offered: false });
        }
        // What is to be read back must be written by this handle; and who does not wait need not offer.
        self.mailbox.take_if(|mailbox| mailbox.is_used_up());
        if self.mailbox.is_none() && !self.verify_saves {
            self.mailbox = Mailbox::open(&self.vfs, &self.dir);
        }
        let offers = !self.timeout.is_zero();
        let mailbox = self.mailbox.as_mut().filter(|_| offers);
        let Some(mailbox) = mailbox.and_then(|m| m.offer(view.meta.store_id, group).then_some(m)) else {
            let found = self.lock.acquire(self.timeout)?;
            return Ok(Entered::Locked { found, offered: false });
        };
        let done =
            |mailbox: &Mailbox| mailbox.done().map(|(outcomes, last)| Entered::Committed { outcomes, last });
        let busy = loop {
            match self.lock.acquire_unless(self.timeout, || mailbox.done().is_some()) {
                Ok(Some(found)) => return Ok(Entered::Locked { found, offered: true }),
                Ok(None) => {
                    if let Some(committed) = done(mailbox) {
                        return Ok(committed);
                    }
                }
                Err(error) => break error,
            }
        };
        mailbox.withdraw()?;
        if mailbox.is_taken() {
            // At the very last moment: whoever has it is at work.
            match self.lock.acquire_unless(LAST_PATIENCE, || !mailbox.is_taken()) {
                Ok(Some(found)) => return Ok(Entered::Locked { found, offered: true }),
                Ok(None) => {}
                Err(_) => {
                    let (outcomes, last) = self.find_out(view, group)?.ok_or(busy)?;
                    return Ok(Entered::Committed { outcomes, last });
                }
            }
        }
        done(mailbox).ok_or(busy)
    }

    /// Finds out what has become of an offer that was taken and not answered, where there may be no room to write that this
    /// handle has the lock: the outcomes, and the last commit. `None`: it was not committed, and never will be.
    ///
    /// # Errors
    /// When nobody can tell, which includes that the commit can be seen, and it is unknown whether its name is durable.
    fn find_out(&mut self, view: &View, group: &[Request<'_>]) -> Result<Option<(Vec<Appended>, u64)>> {
        let Some(mailbox) = self.mailbox.as_mut() else { return Ok(None) };
        let in_doubt = mailbox.in_doubt();
        let found = self.lock.acquire_unrecorded(LAST_PATIENCE, || mailbox.done().is_some());
        let looked = match found {
            Ok(Some(found)) => {
                let looked = load::load(&*self.vfs, &self.dir, Some(view)).and_then(|now| {
                    let committed = mailbox.settle(&now, group)?;
                    Ok(committed.map(|outcomes| (outcomes, now.last_commit())))
                });
                self.lock.end_look();
                let is_durable = !found.died && found.suspect == 0;
                looked.ok().filter(|committed| committed.is_none() || is_durable)
            }
            Ok(None) | Err(_) => None,
        };
        // Who says that it is done has flushed it. Whatever the record says is about somebody else, or came later.
        mailbox.done().map(Some).or(looked).ok_or(in_doubt)
    }

    /// Adds what another process has committed for this handle to the view. As in [`Writer::take_in`] nothing can fail any
    /// more.
    fn learn(&mut self, view: &mut View, last: u64) {
        self.follow_early(view);
        if view.last_commit() >= last {
            return;
        }
        // What is counted is durable. Who knows all of that by looking need not look again.
        self.counter = None;
        let counted = self.lock.counted();
        let newest = counted.map_or(last, |(_, newest)| newest.max(last));
        if self.look_for(view, newest) {
            self.counter = counted.map(|(counter, _)| counter);
        }
    }

    /// Learns what others have committed before the lock is taken, so that it is held for a shorter time.
    pub(crate) fn look_ahead(&mut self, view: &mut View) {
        if let Some((counter, last)) = self.lock.counted()
            && self.counter != Some(counter)
        {
            self.learn(view, last);
        }
    }

    /// Looks at the directory for a commit that is there; says whether the view has it now.
    fn look_for(&self, view: &mut View, last: u64) -> bool {
        match load::load_until(&*self.vfs, &self.dir, Some(view), last) {
            Ok(newer) => *view = newer,
            Err(error) => {
                log::warn!("what was committed could not be read, which will be repeated: {error}");
            }
        }
        view.last_commit() >= last
    }

    /// Under the commit lock: writes the group, unless it was written, together with what others offer.
    fn commit(
        &mut self,
        view: &mut View,
        group: &[Request<'_>],
        offered: bool,
        outcomes: &mut Vec<Result<Appended>>,
    ) -> Result<()> {
        if offered
            && !Bug::NoSettle.is_on()
            && let Some(mailbox) = self.mailbox.as_mut()
            && let Some(committed) = mailbox.settle(view, group)?
        {
            outcomes.extend(committed.into_iter().map(Ok));
            return Ok(());
        }
        let mut offers = Vec::new();
        if offered || self.lock.is_wanted() {
            let own = self.mailbox.as_ref().map(Mailbox::path);
            offers = mailbox::take(&self.vfs, &self.dir, own, &view.meta);
        }
        let batches: Vec<Vec<(Batch, OnDuplicate)>> =
            offers.iter_mut().map(|offer| std::mem::take(&mut offer.batches)).collect();
        let mut offers: Vec<Option<Taken>> = offers.into_iter().map(Some).collect();
        let mut written = self.write_group(view, group, &mut offers, &batches, outcomes);
        if offers.iter().any(Option::is_some)
            && written.as_ref().is_err_and(|error| !matches!(error, Error::OutcomeUnknown { .. }))
        {
            // For lack of room for what others offered, perhaps: they see to it themselves.
            offers.iter_mut().filter_map(Option::take).for_each(Taken::refuse);
            outcomes.clear();
            written = self.write_group(view, group, &mut [], &[], outcomes);
        }
        // What nobody knows their owners find out as soon as they have the lock.
        if written.is_ok() {
            if !batches.is_empty() {
                // They look there for the name of the segment.
                self.lock.tell();
            }
            offers.into_iter().flatten().for_each(Taken::done);
        }
        written?;
        if self.since_checkpoint >= CHECKPOINT_EVERY {
            self.take_in(view);
            self.routine_checkpoint(view);
        }
        Ok(())
    }

    /// Writes a group, and the batches of others, as one segment. Offers that cannot be part of it are refused.
    fn write_group(
        &mut self,
        view: &mut View,
        group: &[Request<'_>],
        offers: &mut [Option<Taken>],
        batches: &[Vec<(Batch, OnDuplicate)>],
        outcomes: &mut Vec<Result<Appended>>,
    ) -> Result<()> {
        let (encoded, hashes) = loop {
            let of_others = offers.iter().zip(batches).filter(|(offer, _)| offer.is_some());
            let of_others = of_others.flat_map(|(_, batches)| batches);
            let of_others = of_others.map(|(batch, policy)| Request { batch, policy: *policy });
            let requests: Vec<Request<'_>> = group.iter().copied().chain(of_others).collect();
            let (mut decided, resolved) = resolve_group(view, &mut self.recent, &requests);
            let encoded = if resolved.is_empty() {
                None
            } else {
                self.begin_history(view)?;
                Some(encode(view, &resolved)?)
            };
            let theirs = decided.split_off(group.len().min(decided.len()));
            let promised =
                encoded
                    .as_ref()
                    .map(EncodedSegment::footer)
                    .map_or(Promised { last: view.last_commit(), ..Promised::default() }, |footer| {
                        Promised { first: footer.first, last: footer.last, link_out: footer.link_out }
                    });
            if promise(offers, batches, theirs, promised) {
                outcomes.extend(decided);
                let written = resolved.iter().flat_map(|batch| &batch.written);
                break (encoded, written.map(|(hash, _)| *hash).collect());
            }
        };
        let Some(encoded) = encoded else { return Ok(()) };
        let name = encoded.name();
        let segments = self.segments();
        if Bug::FlushBeforeName.is_on() {
            self.flush_names(&segments, name.first)?;
        }
        let target = self.target(&segments, name, encoded.file_len());
        let written = target.publish_with(|file| {
            let footer = encoded.write(file)?;
            // What cannot be mapped now is mapped by its name.
            let map = file.map(footer.file_len).ok().flatten();
            Ok((footer, map))
        });
        let (path, (footer, map)) = written.map_err(|error| self.in_doubt(name.first, error))?;
        if Bug::UnlockBeforeFlush.is_on() {
            self.lock.raise();
            self.lock.release();
        }
        if !Bug::FlushBeforeName.is_on() {
            unless(Bug::SegmentName, || self.flush_names(&segments, name.first))?;
        }
        self.lock.raise_by(Span { first: name.first, last: name.last });
        self.committed = Some(Committed { path, footer, map, hashes });
        self.since_checkpoint += name.last - name.first + 1;
        Ok(())
    }

    /// What is written to a backup is a history of its own, and says so before its first commit.
    fn begin_history(&mut self, view: &mut View) -> Result<()> {
        if view.meta.is_backup { self.checkpoint(view) } else { Ok(()) }
    }

    /// Adds what was committed to the view. Whatever happens now, the batches are acknowledged: a segment that cannot be
    /// mapped at this moment (too many open files, say) is picked up by the next look at the directory.
    fn take_in(&mut self, view: &mut View) {
        let Some(Committed { path, footer, map, hashes }) = self.committed.take() else { return };
        // Until it is part of the view the view is not complete, whatever happens here.
        let counter = self.counter.take();
        let added = Segment::written(&*self.vfs, &path, footer, map).and_then(|segment| {
            let segment = Arc::new(segment);
            view.add(Arc::clone(&segment), None)?;
            self.recent.add(view, &segment, &hashes);
            Ok(())
        });
        // Another process may have merged it already.
        if added.is_ok() || self.look_for(view, footer.last) {
            self.counter = counter;
        }
    }
}

/// Tells the owners of offers what is about to be committed for them. An offer that has an error of its own, or whose owner
/// cannot be told, is refused: false, and the rest is to be decided anew.
fn promise(
    offers: &mut [Option<Taken>],
    batches: &[Vec<(Batch, OnDuplicate)>],
    outcomes: Vec<Result<Appended>>,
    promised: Promised,
) -> bool {
    let mut outcomes = outcomes.into_iter();
    let mut all = true;
    for (slot, batches) in offers.iter_mut().zip(batches) {
        let Some(offer) = slot.as_mut() else { continue };
        let own: Result<Vec<Appended>> = outcomes.by_ref().take(batches.len()).collect();
        let told = own.is_ok_and(|own| offer.promise(promised, &own));
        if !told {
            all = false;
            slot.take().into_iter().for_each(Taken::refuse);
        }
    }
    all
}

/// The settings section of a segment: the user's settings, and the fingerprint's description.
fn segment_settings(meta: &crate::view::Meta) -> Result<Vec<u8>> {
    let mut all = meta.settings.clone();
    if let Some(fingerprint) = &meta.fingerprint {
        all.insert(settings::FINGERPRINT.to_owned(), fingerprint.description().to_owned());
    }
    settings::encode(&all)
}

/// A failure of the group is that of every batch in it, whatever was decided for it: a key that was refused, or skipped,
/// for a batch of the same group is not stored after all. Only what is wrong with a batch itself stays.
fn fail_all(error: Error, count: usize, outcomes: Vec<Result<Appended>>) -> Vec<Result<Appended>> {
    let mut failed: Vec<Result<Appended>> = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            Err(own @ Error::BadInput { .. }) => Err(own),
            _ => Err(error.clone()),
        })
        .collect();
    failed.resize_with(count, || Err(error.clone()));
    failed
}
