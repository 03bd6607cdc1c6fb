//! Checkpoints bring the manifest up to date. They are made under LOCK and LOCK.manifest.

use std::path::Path;

use crate::base::{Bug, Error, Event, IoContext, Result};
use crate::segment::check_open;
use crate::state::{
    DERIVED, DerivedName, Manifest, SegmentRecord, TMP_PREFIX, VERSIONS, View, derived, load, quarantine,
    remove_temporaries,
};
use crate::vfs::Vfs;

/// Kills outside bitmaps above which a checkpoint that no user asked for writes bitmaps too. Replaying so
/// many takes some milliseconds; each bitmap costs a flush, and there can be as many bitmaps as segments.
const MANY_KILLS: u64 = 1 << 16;

/// How a checkpoint treats liveness bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bitmaps {
    /// Brings all bitmaps up to date.
    All,
    /// Leaves the bitmaps as they are while few kills are outside them: the manifest says up to which commit
    /// they are complete.
    WhenMany,
}

/// Replaces the manifest by one made from that on disk: appends commits, applies `change`, brings derived
/// files up to date. `flush` flushes a directory of the store; after it fails nothing more is written.
pub(crate) fn write(
    vfs: &dyn Vfs,
    dir: &Path,
    view: &mut View,
    bitmaps: Bitmaps,
    change: impl FnOnce(&mut Manifest) -> Result<()>,
    mut flush: impl FnMut(&Path) -> Result<()>,
) -> Result<Option<Event>> {
    for folder in [dir, &dir.join(DERIVED), &dir.join(VERSIONS)] {
        remove_temporaries(vfs, folder, TMP_PREFIX);
    }
    let mut manifest = Manifest::read(vfs, dir)?;
    if manifest.body.store_id != view.meta.store_id {
        return Err(Error::Moved { path: dir.to_owned(), found: "another store was put in its place" });
    }
    if manifest.body.is_backup {
        // Commits to a backup are a history of their own. Files that an interrupted backup brought are not
        // part of it: no manifest ever listed them. If they come back, their epoch is not the new one.
        let mut beyond = load::list_segments(vfs, dir)?;
        beyond.retain(|name| name.last > manifest.body.last_commit());
        quarantine::move_aside(vfs, dir, &beyond)?;
        flush(&dir.join(load::SEGMENTS))?;
        manifest.body.begin_epoch()?;
        if Bug::NoEpochBackup.is_on() {
            manifest.body.epochs.pop();
        }
    }
    if let Some(found) = in_place_of_missing(vfs, dir, view, &manifest)? {
        flush(&dir.join(load::SEGMENTS))?;
        // Segments after the listed ones are added below, as always.
        let last = manifest.body.last_commit();
        manifest.body.list(found.records().take_while(|record| record.last <= last).collect());
        *view = found;
    }
    let from = manifest.body.last_commit() + 1;
    let mut fresh_rows = 0;
    let mut fresh = Vec::new();
    for live in view.segments.iter().filter(|live| live.segment.name().first >= from) {
        let record = SegmentRecord::of(&live.segment);
        // A file is only listed if it exists and has the length that was written.
        let path = live.segment.path();
        let found = vfs.metadata(path).at(path, "look at the segment")?;
        if found.len != record.file_len {
            let detail = format!("expected a file of {} bytes, found {}", record.file_len, found.len);
            return Err(Error::damaged(path, "file", detail));
        }
        fresh_rows += live.segment.footer().rows;
        fresh.push(record);
    }
    manifest.body.segments.extend_from_slice(&fresh);
    manifest.generation += 1;
    change(&mut manifest)?;
    let superseded = derived::named(&manifest.body);
    let (written, has_all) = bring_derived(vfs, dir, view, &mut manifest, bitmaps);
    // All names that the manifest lists are durable: this handle's own since they were committed, those of
    // other processes since this handle caught up with them, those of derived files since they were written.
    manifest.replace(vfs, dir).inspect_err(|_| {
        derived::discard_unlisted(vfs, dir, &manifest, &written);
    })?;
    flush(dir)?;
    derived::note_written(view, &written);
    // These files are removed last: a power cut before the flush would bring back the manifest that needs
    // them.
    if let Err(error) = derived::remove_unlisted(vfs, dir, &manifest, superseded) {
        log::warn!("superseded derived files stay where they are: {error}");
    }
    *view = View {
        segments: std::mem::take(&mut view.segments),
        totals: view.totals,
        distrusts_bitmaps: view.distrusts_bitmaps && !has_all,
        ..View::empty(&manifest)
    };
    attach(vfs, dir, view, &manifest);
    let bytes = fresh.iter().map(|record| record.file_len).sum();
    Ok(fresh.last().map(|last| Event::Checkpoint { first: from, last: last.last, rows: fresh_rows, bytes }))
}

/// If listed files are gone: the state that other files make up, if these tile all commits (an older manifest
/// than a merge was put back, say). Called under the manifest lock, so that no merge replaces files
/// meanwhile.
fn in_place_of_missing(vfs: &dyn Vfs, dir: &Path, view: &View, manifest: &Manifest) -> Result<Option<View>> {
    let listed = &manifest.body.segments;
    if view.records().take(listed.len()).eq(listed.iter().copied()) {
        return Ok(None);
    }
    let present = load::list_segments(vfs, dir)?;
    let is_there = |record: &&SegmentRecord| present.binary_search(&record.name()).is_ok();
    if listed.iter().all(|record| is_there(&record)) {
        return Ok(None);
    }
    let found = load::load(vfs, dir, Some(view))?;
    for live in &found.segments {
        // A file that is no longer listed is removed one day, so every byte of the file that takes its place
        // is checked first.
        let name = live.segment.name();
        let holds = |record: &&SegmentRecord| name.first <= record.first && record.last <= name.last;
        if listed.iter().filter(is_there).filter(holds).any(|record| record.name() != name) {
            check_open(&live.segment, &|_| Ok(()))?;
        }
    }
    log::warn!(
        "{}: the manifest lists segments that are gone, and others hold their commits: these are listed now",
        dir.display()
    );
    Ok(Some(found))
}

/// Brings the derived files of a manifest that lists everything up to date. Returns the names of the written
/// files, and whether the bitmaps are complete. Its failure does not fail the checkpoint: the manifest says
/// how far the bitmaps go.
fn bring_derived(
    vfs: &dyn Vfs,
    dir: &Path,
    view: &mut View,
    manifest: &mut Manifest,
    bitmaps: Bitmaps,
) -> (Vec<DerivedName>, bool) {
    let many = view.distrusts_bitmaps() || view.kills_after(manifest.body.live_last) > MANY_KILLS;
    let all = bitmaps == Bitmaps::All || many;
    // Other processes may have written filters that this handle has not opened.
    attach(vfs, dir, view, manifest);
    if !all && !view.lacks_filters() {
        return (Vec::new(), false);
    }
    let brought = as_listed(vfs, dir, view, manifest)
        .and_then(|()| derived::publish(vfs, dir, &mut manifest.body, view, all));
    match brought {
        Ok(written) => (written, all),
        Err(error) => {
            log::warn!(
                "no derived files with this checkpoint, opening and looking up keys take longer: {error}"
            );
            (Vec::new(), false)
        }
    }
}

/// Gives the segments of a view the filters that a manifest lists.
fn attach(vfs: &dyn Vfs, dir: &Path, view: &View, manifest: &Manifest) {
    derived::attach(vfs, dir, &manifest.body, view.segments.iter().map(|live| &live.segment));
}

/// Makes the view consist of the very files that the manifest lists: another handle may have merged segments
/// that this one still reads, and each bitmap is about one file.
fn as_listed(vfs: &dyn Vfs, dir: &Path, view: &mut View, manifest: &Manifest) -> Result<()> {
    if !view.records().eq(manifest.body.segments.iter().copied()) {
        let listed = load::listed(vfs, dir, manifest, Some(view))?;
        view.take_over(&listed);
    }
    Ok(())
}
