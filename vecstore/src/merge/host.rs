//! What merging needs of a handle, and what a handle keeps for it.

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

/// A handle, as far as merging and care need one.
pub(crate) trait Host {
    fn vfs(&self) -> &dyn Vfs;
    /// The store's directory.
    fn path(&self) -> &Path;
    /// The view as it is now.
    fn view(&self) -> Arc<View>;
    /// How long an operation that writes waits for locks.
    ///
    /// # Errors
    /// The handle was opened for reading.
    fn writing_timeout(&self, action: &'static str) -> Result<Timeout>;
    /// Runs `work` with the writer and a copy of the view, and publishes the copy whatever the outcome.
    fn with_writer<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Writer, &mut View) -> Result<T>,
    ) -> Result<T>;
    /// The same under the commit lock, which is waited for a little at a time.
    fn locked<T>(
        &self,
        action: &'static str,
        work: impl FnMut(&mut Writer, &mut View) -> Result<T>,
    ) -> Result<T>;
    /// Reads the directory again, after a merge has changed which files there are.
    fn reload(&self) -> Result<()>;
    /// Tells the user's callback.
    fn tell(&self, event: &Event);
    /// What it keeps for merging.
    fn merging(&self) -> &State;
}

/// What a handle keeps for merging.
#[derive(Debug)]
pub(crate) struct State {
    lanes: [LaneState; 2],
    /// Appends that wait for mergers.
    pub hurry: Arc<AtomicUsize>,
    /// After a failed merge, or while another process merges: how many files there must be before an append looks again.
    pub again_at: AtomicUsize,
    /// Leftovers of others have been looked for.
    pub is_clean: AtomicBool,
    /// Merges make no larger segments by themselves.
    pub max_segment: u64,
    /// How long merges wait for locks.
    pub timeout: Timeout,
    /// The handle is being closed: appends leave merging to the next one.
    pub closing: Arc<AtomicBool>,
}

/// What a handle does in a lane.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    /// Inputs that are being removed.
    pub going: Going,
    /// Merges that failed one after the other.
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
