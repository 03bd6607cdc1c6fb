//! Commits of other processes, and how a lock holder adds them to its view.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Result};
use crate::commit::{TMP_PREFIX, Writer};
use crate::lock::Span;
use crate::segment::{Segment, SegmentName};
use crate::state::{View, load, remove_temporaries};
use crate::vfs::Vfs;

/// Segments in the view from which on the directory is listed: other processes may have merged some.
const MANY: usize = 96;
/// Segments that come in after a listing before the directory is listed again.
const MORE: usize = 32;

/// Maps the commits of other processes by their names, without listing the directory. True if the view now
/// has all of them.
pub(super) fn follow(vfs: &dyn Vfs, segments: &Path, view: &mut View, spans: &[Span]) -> bool {
    // Files beyond the manifest of a backup are no commits: an interrupted backup may have left them.
    !view.meta.is_backup
        && spans.iter().all(|Span { first, last }| {
            let name = SegmentName { first: *first, last: *last, generation: 0 };
            *last <= view.last_commit()
                || *first == view.last_commit() + 1
                    && Segment::open(vfs, &segments.join(name.to_string()), name)
                        .and_then(|segment| view.add(Arc::new(segment), None))
                        .is_ok()
        })
}

impl Writer {
    /// Brings the view up to date from the directory. `in_doubt`: the last lock holder died or left the
    /// suspect mark. `vouched`: every lock holder since this handle's last hold has flushed the names that it
    /// gave.
    pub(super) fn catch_up(&mut self, view: &mut View, in_doubt: bool, vouched: bool) -> Result<()> {
        let segments = self.segments();
        // A name that another process gave is made durable before anything is built on it.
        if !vouched {
            self.flush_names(&segments, view.first_unlisted())?;
            self.flush_names(&self.dir.clone(), view.first_unlisted())?;
            remove_temporaries(&*self.vfs, &segments, TMP_PREFIX);
        }
        let before = Arc::clone(&view.meta);
        *view = load::load(&*self.vfs, &self.dir, Some(view))?;
        // A new epoch must be in a durable manifest before its first commit.
        if vouched && view.meta.epochs != before.epochs {
            self.flush_names(&self.dir.clone(), view.first_unlisted())?;
        }
        view.check_writable()?;
        self.many = MANY.max(view.segments.len() + MORE);
        if in_doubt && !Bug::NoRewrite.is_on() {
            self.rewrite_suspects(view)?;
        }
        self.counter = Some(self.lock.counter());
        Ok(())
    }

    /// Reads the directory for commits up to `last`. True if the view has them now.
    pub(super) fn look_for(&self, view: &mut View, last: u64) -> bool {
        match load::load_until(&*self.vfs, &self.dir, Some(view), last) {
            Ok(newer) => *view = newer,
            Err(error) => {
                log::warn!("what was committed could not be read, which will be repeated: {error}");
            }
        }
        view.last_commit() >= last
    }
}
