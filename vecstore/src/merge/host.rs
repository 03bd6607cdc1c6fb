//! The interface through which merging and care use a handle, and a handle's state for merging.

use std::path::Path;
use std::sync::Arc;

use super::going::Going;
use super::plan::Lane;
use crate::base::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use crate::base::{Event, Result};
use crate::commit::Writer;
use crate::lock::Timeout;
use crate::state::View;
use crate::vfs::Vfs;

/// The parts of a handle that merging and care use.
pub(crate) trait Host {
    fn vfs(&self) -> &dyn Vfs;
    /// The store's directory.
    fn path(&self) -> &Path;
    /// The current view.
    fn view(&self) -> Arc<View>;
    /// How long an operation that writes waits for locks.
    ///
    /// # Errors
    /// The handle was opened for reading.
    fn writing_timeout(&self) -> Result<Timeout>;
    /// Runs `work` with the writer and a copy of the view, and publishes the copy whatever the outcome.
    fn with_writer<T>(&self, work: impl FnOnce(&mut Writer, &mut View) -> Result<T>) -> Result<T>;
    /// Like [`Host::with_writer`], under the commit lock. Waits for the lock in short slices, so that other
    /// threads of the handle get their turn.
    fn locked<T>(&self, work: impl FnMut(&mut Writer, &mut View) -> Result<T>) -> Result<T>;
    /// Reads the directory again after a merge has replaced files.
    fn reload(&self) -> Result<()>;
    /// Logs an event, and keeps it for the user's callback.
    fn note(&self, event: &Event);
    /// The handle's state for merging.
    fn merging(&self) -> &State;
}

/// A handle's state for merging.
#[derive(Debug)]
pub(crate) struct State {
    lanes: [LaneState; 2],
    /// Number of appends that wait for mergers.
    pub hurry: Arc<AtomicUsize>,
    /// Number of files from which on an append looks again, after a failed merge or while another process
    /// merges.
    pub again_at: AtomicUsize,
    /// True once the leftovers of other processes and of failed merges were removed.
    pub is_clean: AtomicBool,
    /// Size of the largest segment that background merges make.
    pub max_segment: u64,
    /// How long merges wait for locks.
    pub timeout: Timeout,
    /// True once the handle is being closed: appends no longer merge.
    pub closing: Arc<AtomicBool>,
}

/// A handle's state for one lane.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    /// Merge inputs that are being removed.
    pub going: Going,
    /// Number of merges that failed in a row.
    pub failed: AtomicU32,
}

impl State {
    pub fn new(max_segment: u64, timeout: Timeout) -> Self {
        State {
            lanes: Default::default(),
            hurry: Arc::default(),
            again_at: AtomicUsize::new(0),
            is_clean: AtomicBool::new(false),
            max_segment,
            timeout,
            closing: Arc::default(),
        }
    }

    /// Ends the merges that appends began, and all waits for locks.
    pub fn end(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.timeout.end();
    }

    pub fn lane(&self, lane: Lane) -> &LaneState {
        let [small, large] = &self.lanes;
        if lane == Lane::Small { small } else { large }
    }
}

/// The merges of a handle.
#[derive(Debug)]
pub(crate) struct Merges<'h, H> {
    pub(super) host: &'h H,
    pub(super) state: &'h State,
}

impl<'h, H: Host> Merges<'h, H> {
    pub fn of(host: &'h H) -> Self {
        Merges { host, state: host.merging() }
    }
}
