//! Damaged inputs of a merge: they are noted in the manifest, and no merge takes them.

use super::host::{Host, Merges};
use crate::base::{Error, Event, Result};
use crate::lock::hold_manifest;
use crate::segment::SegmentName;
use crate::state::Manifest;

impl<H: Host> Merges<'_, H> {
    /// Notes damaged segments in the manifest, for the mergers of all processes.
    pub(super) fn note_damaged(&self, found: Vec<(SegmentName, Error)>) -> Result<()> {
        let (vfs, dir) = (self.host.vfs(), self.host.path());
        hold_manifest(vfs, dir, self.lock_timeout()?, |lock, _| {
            let mut manifest = Manifest::read(vfs, dir)?;
            // A repair may have replaced some of them meanwhile.
            let listed =
                found.iter().map(|(name, _)| *name).filter(|name| manifest.body.record_of(*name).is_some());
            let listed: Vec<SegmentName> = listed.collect();
            manifest.body.damaged.extend(listed);
            manifest.generation += 1;
            let noted = manifest.write(vfs, dir);
            match &noted {
                Ok(()) => lock.clear_suspect(),
                // The new manifest may be visible, and its name not durable.
                Err(_) => lock.mark_suspect(1),
            }
            noted
        })?;
        for (_, error) in found {
            self.host.note(&Event::Damaged { error });
        }
        Ok(())
    }
}
