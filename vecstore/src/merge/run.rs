//! One merge, from the check of its inputs to their removal.

use super::host::{Host, Merges};
use crate::state::remove_own;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::copy::{identity, joined};
use super::housekeeping::Files;
use super::pace::{Pace, Pacer, STOPPED};
use super::plan::Lane;
use super::throttled::Throttled;
use crate::base::{Bug, Error, Event, Result, unless};
use crate::format::{random_id, settings};
use crate::lock::{Lock, Timeout, hold_manifest};
use crate::merge::CompactReport;
use crate::segment::{Segment, SegmentName, check_open};
use crate::state::derived::Pending;
use crate::state::{
    DERIVED, LiveSegment, Manifest, SEGMENTS, SegmentRecord, Target, Verify, View, derived, load,
    make_folder, versions,
};

/// Prefix of temporary outputs; the lane follows. Only a holder of both lanes' locks may remove such files.
pub(super) const TMP_PREFIX: &str = "tmp-merge-";

impl<H: Host> Merges<'_, H> {
    pub(super) fn lock_timeout(&self) -> Result<Timeout> {
        self.host.writing_timeout().map(|_| self.state.timeout.clone())
    }

    /// The view that the manifest lists: its segments, and all segments that kill their entries, are durable
    /// and listed. An error if the handle may not write.
    pub(super) fn listed(&self) -> Result<View> {
        self.host.with_writer(|writer, _| writer.check_may_write())?;
        // Taken before the manifest is read: if the other lane removes files that this manifest lists, this
        // view still has them mapped.
        let known = self.host.view();
        let manifest = Manifest::read(self.host.vfs(), self.host.path())?;
        if manifest.body.store_id != known.meta.store_id {
            let found = "another store was put in its place";
            return Err(Error::Moved { path: self.host.path().to_owned(), found });
        }
        let view = load::listed(self.host.vfs(), self.host.path(), &manifest, Some(&known))?;
        view.check_writable()?;
        Ok(view)
    }

    /// Like [`Merges::listed`] if that view is enough; else after a checkpoint, for which commits have to
    /// wait.
    pub(super) fn with_enough(&self, is_enough: impl FnOnce(&View) -> bool) -> Result<View> {
        let is_gone = match self.listed() {
            Ok(view) if is_enough(&view) => return Ok(view),
            // A listed file is gone: a checkpoint lists the files that hold its commits now, or fails and
            // names what is missing.
            Err(error) if !load::is_motion(&error) => return Err(error),
            listed => listed.is_err(),
        };
        self.host.locked(|writer, view| {
            if is_gone || view.last_commit() > view.manifest_last {
                writer.list_commits(view)
            } else {
                Ok(())
            }
        })?;
        self.listed()
    }

    /// Merges a range of listed segments into one. If some are damaged, only notes these in the manifest, and
    /// merges nothing.
    pub(super) fn merge(
        &self,
        view: &View,
        range: Range<usize>,
        lane: Lane,
        pace: &Pace<'_>,
        total: &mut CompactReport,
    ) -> Result<()> {
        let inputs = view.segments.get(range).unwrap_or_default();
        let (Some(first), Some(last)) = (inputs.first(), inputs.last()) else {
            return Err(Error::internal("a merge of nothing"));
        };
        let pacer = Pacer::new(pace);
        let step = |bytes| pacer.worked_on(bytes);
        let input_bytes = inputs.iter().map(|live| live.segment.footer().file_len).sum();
        pacer.expect(input_bytes);
        let damaged = damaged_among(inputs, &step)?;
        if !damaged.is_empty() {
            pacer.done();
            return self.note_damaged(damaged);
        }
        let dir = self.host.path().join(SEGMENTS);
        // An unreadable version is an error now, not after the work.
        let versions = versions::read_all(self.host.vfs(), self.host.path())?;
        let versions = versions.into_iter().map(|version| version.manifest);
        let known = load::known_names(self.host.vfs(), self.host.path(), versions)?;
        let name = load::next_generation(&known, first.segment.name().first, last.segment.name().last);
        let settings = settings::encode(&last.segment.settings()?)?;
        let joined = match joined(inputs, name.first, &step) {
            Ok(joined) => joined,
            Err(error) => {
                // Each input is sound by itself, but this one contradicts those before it.
                let of = contradicting(inputs, &error);
                return of.map_or(Err(error.clone()), |name| self.note_damaged(vec![(name, error)]));
            }
        };
        let encoded =
            joined.lay_out(identity(inputs, name, random_id()?)?, last.segment.dtype(), settings)?;
        self.check_space(&dir, encoded.file_len())?;
        // The output is written, and read back.
        pacer.expect(encoded.file_len().saturating_mul(2));
        let tmp_prefix = if lane == Lane::Small { "tmp-merge-small-" } else { "tmp-merge-large-" };
        let target = Target {
            vfs: self.host.vfs(),
            dir: &dir,
            prefix: tmp_prefix,
            name,
            len: encoded.file_len(),
            // The inputs are removed afterwards, so the output is read back first.
            verify: Verify::AsRead,
            step: &step,
        };
        let written = target.publish(|file| {
            let mut throttled = Throttled::new(file, &pacer);
            let layout = encoded.write(&mut throttled)?;
            throttled.finish()?;
            Ok((layout.footer, ()))
        });
        let (path, _) = match written {
            Err(Error::Io { cause, .. })
                if pacer.is_stopped() && cause.kind() == io::ErrorKind::Interrupted =>
            {
                return Err(Error::Interrupted { action: STOPPED });
            }
            written => written?,
        };
        self.host.with_writer(|writer, view| writer.flush_seen(view))?;
        let output = Segment::open(self.host.vfs(), &path, name)?;
        let filter = self.filter(&output, tmp_prefix).unwrap_or_else(|error| {
            log::warn!("no key filter for {}, looking up keys takes longer: {error}", output.name());
            None
        });
        let swap = || self.swap(view, inputs, &output, filter);
        // Removed after the manifest lock is released: nothing can pin the inputs any more, and freeing their
        // blocks may take long. A rest before the removal would leave time for another store to take this
        // one's place; a backup into this store waits for the lane's lock.
        let remove = |name: &SegmentName| remove_own(self.host.vfs(), &dir.join(name.to_string()));
        self.state.lane(lane).going.replaced(name, inputs.len(), swap, remove)?;
        pacer.pause();
        pacer.done();
        total.merges += 1;
        total.bytes_read += input_bytes;
        total.bytes_written += output.footer().file_len;
        let entries = |segment: &Segment| segment.footer().entries;
        let before: u64 = inputs.iter().map(|live| entries(&live.segment)).sum();
        total.entries_dropped += before.saturating_sub(entries(&output));
        self.host.note(&Event::Merged {
            first: name.first,
            last: name.last,
            segments: inputs.len(),
            bytes: output.footer().file_len,
        });
        Ok(())
    }

    fn check_space(&self, dir: &Path, needed: u64) -> Result<()> {
        match self.host.vfs().free_space(dir) {
            Ok(free) if free < needed => Err(Error::NoSpace {
                path: dir.to_owned(),
                op: "merge segments",
                needed,
                free: Some(free),
                cause: Arc::new(io::ErrorKind::StorageFull.into()),
            }),
            _ => Ok(()),
        }
    }

    /// Writes the output's key filter, if it needs one, under a temporary name.
    fn filter(&self, output: &Segment, prefix: &str) -> Result<Option<Pending>> {
        if !output.wants_filter_file() {
            return Ok(None);
        }
        let (vfs, dir) = (self.host.vfs(), self.host.path());
        hold_manifest(vfs, dir, self.lock_timeout()?, |_, _| {
            let is_relied_on = !Manifest::read(vfs, dir)?.body.derived.is_empty();
            make_folder(vfs, dir, DERIVED, is_relied_on)
        })?;
        derived::pending(vfs, dir, prefix, output)
    }

    /// Puts the output in place of the inputs in the manifest. Returns the inputs that no version pins.
    fn swap(
        &self,
        view: &View,
        inputs: &[LiveSegment],
        output: &Segment,
        filter: Option<Pending>,
    ) -> Result<Vec<SegmentName>> {
        let swapped = hold_manifest(self.host.vfs(), self.host.path(), self.lock_timeout()?, |lock, _| {
            self.swap_locked(lock, view, inputs, (output, filter))
        });
        // The writer is used only now: it takes the commit lock, which comes before the manifest lock.
        swapped?.or_else(|source| {
            self.host.with_writer(|writer, known| {
                Err(writer.flush_failed(self.host.path(), known.first_unlisted(), source))
            })
        })
    }

    /// Returns the inputs that may go. The inner error: the new manifest is visible, but the flush of its
    /// name failed.
    fn swap_locked(
        &self,
        lock: &mut Lock,
        view: &View,
        inputs: &[LiveSegment],
        (output, filter): (&Segment, Option<Pending>),
    ) -> Result<io::Result<Vec<SegmentName>>> {
        let mut manifest = Manifest::read(self.host.vfs(), self.host.path())?;
        let superseded = derived::named(&manifest.body);
        let records: Vec<SegmentRecord> =
            inputs.iter().map(|live| SegmentRecord::of(&live.segment)).collect();
        let listed = &mut manifest.body.segments;
        let at = listed.iter().position(|record| Some(record) == records.first());
        let range = at.map(|at| at..at + records.len());
        match range.filter(|range| listed.get(range.clone()) == Some(records.as_slice())) {
            Some(range) => drop(listed.splice(range, [SegmentRecord::of(output)])),
            // Only a repair or restore during the merge leads here: the output stays unlisted, and the next
            // merger removes it.
            None => {
                return Err(Error::Interrupted {
                    action: "a merge, because a repair or restore replaced its inputs,",
                });
            }
        }
        // A new epoch begins only under the commit lock: see `next`.
        if manifest.body.is_backup {
            let found = "a backup was put in its place";
            return Err(Error::Moved { path: self.host.path().to_owned(), found });
        }
        manifest.generation += 1;
        derived::after_merge(&mut manifest.body, output.name(), view.last_commit());
        match filter.map(|filter| filter.publish(self.host.vfs(), self.host.path())).transpose() {
            Ok(record) => derived::list_in(&mut manifest.body, record),
            Err(error) => log::warn!("no key filter for {}: {error}", output.name()),
        }
        manifest.replace(self.host.vfs(), self.host.path())?;
        // If this flush fails, a power cut may bring back the former manifest, which lists the inputs: they
        // stay, and the manifest's name is in doubt.
        if let Err(source) = self.host.vfs().flush_dir(self.host.path()) {
            if !Bug::NoManifestMark.is_on() {
                lock.mark_suspect(1);
            }
            return Ok(Err(source));
        }
        lock.clear_suspect();
        let files = Files::read(self.host.vfs(), self.host.path())?;
        derived::remove_unlisted(self.host.vfs(), self.host.path(), &manifest, superseded)?;
        Ok(Ok(files.unlisted(records.iter().map(SegmentRecord::name))))
    }
}

/// The input that an error reports as damaged.
fn contradicting(inputs: &[LiveSegment], error: &Error) -> Option<SegmentName> {
    let Error::Damaged { path, .. } = error else { return None };
    inputs
        .iter()
        .map(|live| &live.segment)
        .find(|segment| segment.path() == path)
        .map(|segment| segment.name())
}

/// Checks every byte of the inputs. Returns the damaged ones, each with its error.
fn damaged_among(
    inputs: &[LiveSegment],
    step: &dyn Fn(usize) -> Result<()>,
) -> Result<Vec<(SegmentName, Error)>> {
    let mut damaged = Vec::new();
    for live in inputs {
        match unless(Bug::TrustInputs, || check_open(&live.segment, step)) {
            Ok(()) => {}
            Err(error @ Error::Damaged { .. }) => damaged.push((live.segment.name(), error)),
            Err(error) => return Err(error),
        }
    }
    Ok(damaged)
}
