//! What the threads of one handle share: the view, the writer, and the batches that wait.

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
use crate::state::{View, load};
use crate::types::{Batch, OnDuplicate};
use crate::vfs::Vfs;

/// The shared part of a handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub path: PathBuf,
    pub vfs: Arc<dyn Vfs>,
    pub view: RwLock<Arc<View>>,
    pub queue: Queue,
    side: Mutex<Side>,
    /// The version whose view it is: it never changes.
    pub version: Option<String>,
    /// The handle was opened for writing.
    pub is_writable: bool,
    /// Wakes the handle's merger.
    pub merger: OnceLock<Arc<Signal>>,
    /// What it keeps for merging.
    merging: State,
    pub observer: Observer,
    /// How long it waits for locks.
    pub timeout: Timeout,
    /// The last commit that the manifest listed when the merger was woken.
    woken: AtomicU64,
    /// Commits since the handle was opened. A thread counts its commit and then looks whether the merger sleeps; the merger
    /// says that it sleeps and then looks here: one of them sees the other (`SeqCst`).
    pub commits: AtomicUsize,
}

/// Commits from one waking of the merger to the next.
const WAKE_EVERY: usize = 8;

/// What one thread at a time uses: the writer, and LOCK's counter for refreshing.
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

    /// Tells what happened before there was a handle.
    pub fn tell_all(&self) {
        let events = self.side.lock().writer.as_mut().map(|writer| std::mem::take(&mut writer.events));
        events.unwrap_or_default().iter().for_each(|event| self.tell(event));
    }

    /// True when the handle writes nothing more, after a failed flush.
    pub fn is_latched(&self) -> bool {
        self.side.lock().writer.as_ref().is_some_and(Writer::is_latched)
    }

    /// True when a checkpoint would save the next opener some work, and this handle still writes: commits came after its last
    /// one, or their kills are in no bitmap yet.
    pub fn wants_checkpoint(&self) -> bool {
        let side = self.side.lock();
        side.writer.as_ref().is_some_and(|writer| {
            let wanted = writer.since_checkpoint > 0 || self.view.read().wants_derived();
            wanted && !writer.is_latched()
        })
    }

    /// Commits a batch, together with those of other threads that wait, and hands it back.
    pub fn append(&self, batch: Batch, on_duplicate: OnDuplicate) -> (Result<Appended>, Batch) {
        let waiting = Waiting::new(batch, on_duplicate);
        self.queue.push(&waiting);
        self.complete(&waiting)
    }

    /// Leaves a batch to the committer.
    pub fn append_later(&self, batch: Batch, on_duplicate: OnDuplicate) -> Result<Arc<Waiting>> {
        let waiting = Waiting::new(batch, on_duplicate);
        while let Some(leading) = self.queue.push_for_later(&waiting) {
            self.lead(&leading);
            drop(leading);
            self.after_commit(true);
        }
        Ok(waiting)
    }

    /// Waits for the outcome of a batch that is in the queue, committing what is there when no other thread does.
    pub fn complete(&self, waiting: &Arc<Waiting>) -> (Result<Appended>, Batch) {
        loop {
            let leading = match self.queue.wait(waiting) {
                ControlFlow::Break(done) => return done,
                ControlFlow::Continue(leading) => leading,
            };
            self.lead(&leading);
        }
    }

    /// Wakes the merger, or merges here when files pile up faster than it works. `superseded`: stored entries have been, so
    /// that some segment may be mostly dead now.
    pub fn after_commit(&self, superseded: bool) {
        let listed = self.view.read().manifest_last;
        let commits = self.commits.fetch_add(1, Ordering::SeqCst);
        // Otherwise it merges what the manifest lists, or a long tail behind that. To wake a thread costs as much as all else
        // that a commit has to compute.
        let has_news =
            self.woken.swap(listed, Ordering::Relaxed) != listed || commits.is_multiple_of(WAKE_EVERY);
        if let Some(merger) = self.merger.get()
            && (superseded || has_news || merger.is_asleep())
        {
            merger.wake();
        }
        Merges::of(self).merge_backlog();
    }

    /// Commits whatever comes into the queue, until that is closed and empty.
    pub fn commit_queue(&self) {
        while let Some(leading) = self.queue.wait_for_any() {
            self.lead(&leading);
            drop(leading);
            self.after_commit(true);
        }
    }

    /// Commits a group of what is in the queue.
    fn lead(&self, leading: &Leading<'_>) {
        leading.linger();
        let mut group = None;
        let outcomes = in_slices(&self.timeout, |slice| {
            let group = &mut group;
            self.with_writer("append", |writer, view| {
                writer.commit_group(slice, view, move || {
                    group.get_or_insert_with(|| leading.group(&self.path)).requests().collect()
                })
            })
        });
        // Answered only now: a thread that has its answer sees what it appended.
        let group = group.unwrap_or_else(|| leading.group(&self.path));
        match outcomes {
            Ok(outcomes) => group.answer(outcomes),
            Err(error) => group.fail(&error),
        }
    }

    /// Looks for commits of other processes.
    pub fn refresh(&self) -> Result<()> {
        if self.version.is_some() {
            return Ok(());
        }
        in_slices(&self.timeout, |slice| self.refresh_within(slice))?;
        self.tell_all();
        Ok(())
    }

    fn refresh_within(&self, timeout: &Timeout) -> Result<()> {
        let mut side = self.side.lock();
        side.watch.check_place()?;
        let counter = side.watch.counter();
        // A lock holder, or one that could not say that it gave the lock back, may have committed and not counted it.
        if counter.is_some() && counter == side.seen && !side.watch.is_held() {
            return Ok(());
        }
        let known = Arc::clone(&self.view.read());
        let mut view = load::load(&*self.vfs, &self.path, Some(&known))?;
        let Side { writer, watch, .. } = &mut *side;
        if let Some(writer) = writer.as_mut() {
            // A writer will skip keys that are visible now: they must be durable, and not in doubt.
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

    fn tell(&self, event: &Event) {
        self.observer.tell(&self.path, event);
    }

    fn merging(&self) -> &State {
        &self.merging
    }

    fn writing_timeout(&self, action: &'static str) -> Result<Timeout> {
        match self.is_writable {
            true => Ok(self.timeout.clone()),
            false => Err(Error::ReadOnly { path: self.path.clone(), action }),
        }
    }

    fn with_writer<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Writer, &mut View) -> Result<T>,
    ) -> Result<T> {
        let mut side = self.side.lock();
        let Some(writer) = side.writer.as_mut() else {
            return Err(Error::ReadOnly { path: self.path.clone(), action });
        };
        let mut view = View::clone(&self.view.read());
        let result = work(writer, &mut view);
        *self.view.write() = Arc::new(view);
        // The view knows everything up to this count: refreshing need not look for our own commits.
        let (events, counter) = (std::mem::take(&mut writer.events), writer.counter);
        if let Some(counter) = counter {
            side.seen = Some(counter);
        }
        // It tries again at once, and other threads of the handle wait for their turn.
        match result {
            Err(Error::Busy { .. }) => hand_over(side),
            _ => drop(side),
        }
        // A callback that takes its time holds up this thread alone.
        events.iter().for_each(|event| self.tell(event));
        result
    }

    fn locked<T>(
        &self,
        action: &'static str,
        mut work: impl FnMut(&mut Writer, &mut View) -> Result<T>,
    ) -> Result<T> {
        in_slices(&self.timeout, |slice| {
            self.with_writer(action, |writer, view| writer.locked(slice, view, &mut work))
        })
    }

    fn reload(&self) -> Result<()> {
        let before = Arc::clone(&self.view.read());
        // Read without the mutex: commits only wait for the second, shorter look.
        let ahead = Arc::new(load::load(&*self.vfs, &self.path, Some(&before))?);
        let mut side = self.side.lock();
        let known = Arc::clone(&self.view.read());
        let view = load::load(&*self.vfs, &self.path, Some(&ahead))?;
        if view.last_commit() < known.last_commit() {
            // This handle's own commit, between the two looks, is gone.
            let commit = view.last_commit() + 1;
            return Err(Error::MissingSegment { path: self.path.join(load::SEGMENTS), commit });
        }
        let Side { writer, watch, .. } = &mut *side;
        if view.last_commit() > known.last_commit()
            && let Some(writer) = writer
        {
            // What is in doubt comes with the next append, which writes it anew.
            if watch.record().is_some_and(|record| record.suspect != 0) {
                return Ok(());
            }
            writer.flush_seen(&view)?;
        }
        *self.view.write() = Arc::new(view);
        drop(side);
        // What only past views have mapped goes with them, beside this thread, which an append may be.
        let past = [before, known, ahead];
        // If there is no thread to be had, they go here.
        if let Err(error) = thread::Builder::new().name("vecstore-unmap".to_owned()).spawn(move || drop(past))
        {
            log::debug!("no thread to unmap files: {error}");
        }
        Ok(())
    }
}
