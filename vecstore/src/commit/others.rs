//! What other processes have committed, and how a lock holder learns it.

use std::path::Path;
use std::sync::Arc;

use crate::base::{Bug, Result};
use crate::commit::{TMP_PREFIX, Writer};
use crate::lock::Span;
use crate::segment::{Segment, SegmentName};
use crate::state::{View, load, remove_temporaries};
use crate::vfs::Vfs;

/// From this many segments on the directory is listed, because other processes may have merged them,
const MANY: usize = 96;
/// and again when this many more have come.
const MORE: usize = 32;

/// Maps the commits of other processes by their names, without listing them. Says whether all are known now.
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
    /// Learns from the directory what happened since this handle last held the lock, or what a writer left that died.
    /// `vouched`: the holders in between have flushed the names that they gave.
    pub(super) fn catch_up(&mut self, view: &mut View, in_doubt: bool, vouched: bool) -> Result<()> {
        let segments = self.segments();
        // Before anything is built on a name that another process published, that name is made durable.
        if !vouched {
            self.flush_names(&segments, view.first_unlisted())?;
            self.flush_names(&self.dir.clone(), view.first_unlisted())?;
            remove_temporaries(&*self.vfs, &segments, TMP_PREFIX);
        }
        let before = Arc::clone(&view.meta);
        *view = load::load(&*self.vfs, &self.dir, Some(view))?;
        // An epoch is in the manifest, durably, before its first commit.
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

    /// Looks at the directory for a commit that is there; says whether the view has it now.
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
