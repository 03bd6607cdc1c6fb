//! What the threads of one handle share: the view, the writer, and the queue of batches.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::base::sync::{Mutex, RwLock, hand_over, thread};
use crate::base::{Error, Event, Observer, Result};
use crate::commit::{Appended, Writer};
use crate::handle::{Leading, Queue, Signal, Waiting};
use crate::lock::{Timeout, Watch, in_slices};
use crate::merge::{Host, MAX_SEGMENT, Merges, State};
use crate::read::Snapshot;
use crate::state::{View, load};
use crate::types::{Batch, OnDuplicate};
use crate::vfs::Vfs;

/// State that the threads of one handle share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub path: PathBuf,
    pub vfs: Arc<dyn Vfs>,
    pub view: RwLock<Arc<View>>,
    pub queue: Queue,
    side: Mutex<Side>,
    /// The version that the handle shows, if any; the view of such a handle never changes.
    pub version: Option<String>,
    /// True if the handle was opened for writing.
    pub is_writable: bool,
    /// Wakes the handle's merger.
    pub merger: OnceLock<Arc<Signal>>,
    /// The handle's state for merging.
    merging: State,
    pub observer: Observer,
    /// How long the handle waits for locks.
    pub timeout: Timeout,
    /// The last commit in the manifest, as of this handle's previous commit.
    woken: AtomicU64,
    /// Commits since the handle was opened. A thread raises this, then reads whether the merger sleeps; the
    /// merger marks itself asleep, then reads this: with `SeqCst`, at least one of them sees the other.
    pub commits: AtomicUsize,
}

/// Readers have no method that writes.
const READ_ONLY: &str = "a handle for reading that is to write";
/// Commits after which the merger is woken in any case.
const WAKE_EVERY: usize = 8;

/// State that one thread at a time uses: the writer, and LOCK's counter for refreshing.
#[derive(Debug)]
struct Side {
    writer: Option<Writer>,
    watch: Watch,
    /// LOCK's counter when the view was last read.
    seen: Option<u64>,
}

impl Shared {
    /// A handle from its parts; `seen` is LOCK's counter from before the view was read.
    pub fn new(
        path: &Path,
        vfs: Arc<dyn Vfs>,
        view: View,
        writer: Option<Writer>,
        watch: Watch,
        seen: Option<u64>,
        max_segment: u64,
    ) -> Self {
        let is_writable = writer.is_some();
        let timeout = writer.as_ref().map_or(Duration::ZERO.into(), |writer| writer.timeout.clone());
        let merge_timeout = timeout.left(Duration::ZERO).into();
        Shared {
            observer: Observer::default(),
            timeout,
            path: path.to_owned(),
            vfs,
            view: RwLock::new(Arc::new(view)),
            queue: Queue::default(),
            side: Mutex::new(Side { writer, watch, seen }),
            version: None,
            is_writable,
            merger: OnceLock::new(),
            merging: State::new(max_segment, merge_timeout),
            woken: AtomicU64::new(u64::MAX),
            commits: AtomicUsize::new(0),
        }
    }

    /// A read-only handle whose view never changes.
    pub fn fixed(path: &Path, vfs: Arc<dyn Vfs>, view: View, watch: Watch, version: &str) -> Self {
        let version = Some(version.to_owned());
        Shared { version, ..Shared::new(path, vfs, view, None, watch, None, MAX_SEGMENT) }
    }

    /// Notes the events from before the handle existed, or from a refresh.
    pub fn note_first_events(&self) {
        let events = self.side.lock().writer.as_mut().map(|writer| std::mem::take(&mut writer.events));
        events.unwrap_or_default().iter().for_each(|event| self.note(event));
    }

    /// The state that this handle knows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(Arc::clone(&self.view.read()))
    }

    /// True once a failed flush has stopped the handle from writing.
    pub fn is_latched(&self) -> bool {
        self.side.lock().writer.as_ref().is_some_and(Writer::is_latched)
    }

    /// True if a checkpoint now would save the next opener work, and this handle still writes: commits came
    /// after its last checkpoint, or their kills are in no bitmap yet.
    pub fn wants_checkpoint(&self) -> bool {
        let side = self.side.lock();
        side.writer.as_ref().is_some_and(|writer| {
            let wanted = writer.since_checkpoint > 0 || self.view.read().wants_derived();
            wanted && !writer.is_latched()
        })
    }

    /// Commits a batch, together with the other batches in the queue, and hands it back.
    pub fn append(&self, batch: Batch, on_duplicate: OnDuplicate) -> (Result<Appended>, Batch) {
        let waiting = Waiting::new(batch, on_duplicate);
        self.queue.push(&waiting);
        self.complete(&waiting)
    }

    /// Queues a batch for the committer.
    pub fn append_later(&self, batch: Batch, on_duplicate: OnDuplicate) -> Result<Arc<Waiting>> {
        let waiting = Waiting::new(batch, on_duplicate);
        while let Some(leading) = self.queue.push_for_later(&waiting) {
            self.lead(&leading);
            drop(leading);
            self.after_commit(true);
        }
        Ok(waiting)
    }

    /// Waits for the outcome of a queued batch; commits the queue's batches itself if no other thread leads.
    pub fn complete(&self, waiting: &Arc<Waiting>) -> (Result<Appended>, Batch) {
        loop {
            let leading = match self.queue.wait(waiting) {
                ControlFlow::Break(done) => return done,
                ControlFlow::Continue(leading) => leading,
            };
            self.lead(&leading);
        }
    }

    /// Wakes the merger, or merges here if files pile up faster than the merger works. `superseded`: the
    /// commit superseded stored entries, so some segment may be mostly dead now.
    pub fn after_commit(&self, superseded: bool) {
        let listed = self.view.read().manifest_last;
        let commits = self.commits.fetch_add(1, Ordering::SeqCst);
        // If nothing was superseded, the merger has work only after a checkpoint, or after a number of
        // commits. Waking a thread costs as much as all other computation of a commit.
        let has_news =
            self.woken.swap(listed, Ordering::Relaxed) != listed || commits.is_multiple_of(WAKE_EVERY);
        if let Some(merger) = self.merger.get()
            && (superseded || has_news || merger.is_asleep())
        {
            merger.wake();
        }
        Merges::of(self).merge_backlog();
        self.observer.deliver();
    }

    /// Commits all batches in the queue, until the queue is closed and empty.
    pub fn commit_queue(&self) {
        while let Some(leading) = self.queue.wait_for_any() {
            self.lead(&leading);
            drop(leading);
            self.after_commit(true);
        }
    }

    /// Commits one group of the queue's batches.
    fn lead(&self, leading: &Leading<'_>) {
        leading.linger();
        let mut group = None;
        let outcomes = in_slices(&self.timeout, |slice| {
            let group = &mut group;
            self.with_writer(|writer, view| {
                writer.commit_group(slice, view, move || {
                    group.get_or_insert_with(|| leading.group(&self.path)).requests().collect()
                })
            })
        });
        // Answered after the view was published: a thread that has its answer sees its entries.
        let group = group.unwrap_or_else(|| leading.group(&self.path));
        match outcomes {
            Ok(outcomes) => group.answer(outcomes),
            Err(error) => group.fail(&error),
        }
    }

    /// Adds the commits of other processes to the view.
    pub fn refresh(&self) -> Result<()> {
        if self.version.is_some() {
            return Ok(());
        }
        in_slices(&self.timeout, |slice| self.refresh_within(slice))?;
        self.note_first_events();
        self.observer.deliver();
        Ok(())
    }

    fn refresh_within(&self, timeout: &Timeout) -> Result<()> {
        let mut side = self.side.lock();
        side.watch.check_place()?;
        let counter = side.watch.counter();
        // A current lock holder, or one that could not record its release, may have committed without raising
        // the counter.
        if counter.is_some() && counter == side.seen && !side.watch.is_held() {
            return Ok(());
        }
        let known = Arc::clone(&self.view.read());
        let mut view = load::load(&*self.vfs, &self.path, Some(&known))?;
        let Side { writer, watch, .. } = &mut *side;
        if let Some(writer) = writer.as_mut() {
            // A writer skips keys that are visible: their commits must be durable and not in doubt.
            if view.last_commit() > known.last_commit() {
                writer.flush_seen(&view)?;
            }
            writer.recover(timeout, &mut view, watch)?;
        }
        *self.view.write() = Arc::new(view);
        side.seen = counter;
        Ok(())
    }
}

impl Host for Shared {
    fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    fn note(&self, event: &Event) {
        self.observer.note(&self.path, event);
    }

    fn merging(&self) -> &State {
        &self.merging
    }

    fn writing_timeout(&self) -> Result<Timeout> {
        match self.is_writable {
            true => Ok(self.timeout.clone()),
            false => Err(Error::internal(READ_ONLY)),
        }
    }

    fn with_writer<T>(&self, work: impl FnOnce(&mut Writer, &mut View) -> Result<T>) -> Result<T> {
        let mut side = self.side.lock();
        let Some(writer) = side.writer.as_mut() else {
            return Err(Error::internal(READ_ONLY));
        };
        let mut view = View::clone(&self.view.read());
        let result = work(writer, &mut view);
        *self.view.write() = Arc::new(view);
        // The view has every commit up to this count, so a refresh need not look for this handle's own
        // commits.
        let (events, counter) = (std::mem::take(&mut writer.events), writer.counter);
        if let Some(counter) = counter {
            side.seen = Some(counter);
        }
        // The caller tries again at once, so other threads of the handle get the mutex first.
        match result {
            Err(Error::Busy { .. }) => hand_over(side),
            _ => drop(side),
        }
        // A slow callback holds up only this thread.
        events.iter().for_each(|event| self.note(event));
        result
    }

    fn locked<T>(&self, mut work: impl FnMut(&mut Writer, &mut View) -> Result<T>) -> Result<T> {
        in_slices(&self.timeout, |slice| {
            self.with_writer(|writer, view| writer.locked(slice, view, &mut work))
        })
    }

    fn reload(&self) -> Result<()> {
        let before = Arc::clone(&self.view.read());
        // The first read is done without the mutex, so that commits wait only for the second, shorter read.
        let ahead = Arc::new(load::load(&*self.vfs, &self.path, Some(&before))?);
        let mut side = self.side.lock();
        let known = Arc::clone(&self.view.read());
        let view = load::load(&*self.vfs, &self.path, Some(&ahead))?;
        if view.last_commit() < known.last_commit() {
            // A commit that this handle made between the two reads is gone.
            let commit = view.last_commit() + 1;
            return Err(Error::MissingSegment { path: self.path.join(load::SEGMENTS), commit });
        }
        let Side { writer, watch, .. } = &mut *side;
        if view.last_commit() > known.last_commit()
            && let Some(writer) = writer
        {
            // Commits in doubt are left to the next append, which rewrites them.
            if watch.record().is_some_and(|record| record.suspect != 0) {
                return Ok(());
            }
            writer.flush_seen(&view)?;
        }
        *self.view.write() = Arc::new(view);
        drop(side);
        // Past views are dropped in a thread of their own: unmapping files takes time, and this thread may be
        // an append.
        let past = [before, known, ahead];
        // If no thread can be started, the views are dropped here.
        if let Err(error) = thread::Builder::new().name("vecstore-unmap".to_owned()).spawn(move || drop(past))
        {
            log::debug!("no thread to unmap files: {error}");
        }
        Ok(())
    }
}
