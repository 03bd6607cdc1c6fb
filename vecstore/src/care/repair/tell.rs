//! Reports what became of each file, and lists lost keys.

use crate::state::QUARANTINE;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::carry_out::Plan;
use super::chain::Piece;
use super::mend::{Made, Mender};
use super::rescue::Rescued;
use super::survey::State;
use super::{Finding, Repair};
use crate::base::{Result, escaped};
use crate::segment::{Segment, SegmentName};
use crate::state::{Manifest, SEGMENTS, SegmentRecord, View};
use crate::types::{Kind, MAX_KEY_LEN};

impl Repair<'_> {
    /// Reports what became of each file that is not whole, and of missing files.
    pub(super) fn tell(
        &self,
        mender: &mut Mender<'_>,
        manifest: &Manifest,
        pieces: &[Piece],
        view: &View,
        plan: &mut Plan,
    ) -> Result<()> {
        let folder = self.dir.join(SEGMENTS);
        let path_of = |segment: &Segment| folder.join(segment.name().to_string());
        for (number, file) in mender.found.iter().enumerate().filter(|(_, file)| !file.is_whole()) {
            let called = file.called.to_string();
            let mut finding = self.set_aside(plan, &file.path, &called, &file.problem)?;
            match made_of(&mut mender.made, Piece::File(number)) {
                Some((segment, rescued)) => {
                    finding.replaced_by = Some(path_of(&segment));
                    let is_of_store = pieces.contains(&Piece::File(number));
                    match rescued {
                        Some(rescued) => finding.take(rescued, view, is_of_store)?,
                        None => finding.kept = segment.footer().entries,
                    }
                    finding.lost_unknown = matches!(file.state, State::Nothing);
                }
                None if file.damaged && file.called.last > view.last_commit() => {
                    finding.lost_unknown = true;
                    finding
                        .notes
                        .push("it may have held commits after the last one that can be told".to_owned());
                }
                None if self.is_held_by_lossy(view, file.name) => {
                    finding.lost_unknown = true;
                    finding.notes.push(
                        "an earlier repair, perhaps interrupted, wrote what it rescued of these commits to \
                         another file; look for its .lost-keys.txt in quarantine/"
                            .to_owned(),
                    );
                }
                None if file.footer().is_some() && !file.is_misplaced() => {
                    finding.notes.push("other files hold its commits, whole".to_owned());
                }
                None => {}
            }
            finding.count(manifest.body.record_of(file.called).into_iter());
            let beside = finding.moved_to.clone().unwrap_or_default();
            finding.list(&beside, plan);
            plan.report.findings.push(finding);
        }
        let here: HashSet<SegmentName> = mender.found.iter().map(|file| file.called).collect();
        for record in &manifest.body.segments {
            let meets = |(first, last)| first <= record.last && record.first <= last;
            let in_hole = pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Hole { .. }) && meets(piece.range(&mender.found)));
            if !here.contains(&record.name()) && !in_hole {
                let mut finding = Finding::missing(folder.join(record.name().to_string()));
                finding.count(std::iter::once(record));
                finding.notes.push("other files hold its commits, whole".to_owned());
                plan.report.findings.push(finding);
            }
        }
        let mut holes: Vec<Piece> = mender.made.iter().map(|made| made.piece).collect();
        let mut told: HashSet<Piece> = HashSet::new();
        holes.retain(|piece| told.insert(*piece));
        let all = holes.clone();
        for piece in holes {
            let Piece::Hole { first, last } = piece else { continue };
            // Versions list single files of what the store lacks as a whole: the loss is one.
            let is_part = all.iter().any(|other| match other {
                Piece::Hole { first: from, last: to } => *other != piece && *from <= first && last <= *to,
                _ => false,
            });
            let Some((segment, rescued)) = made_of(&mut mender.made, piece) else { continue };
            let listed =
                manifest.body.segments.iter().find(|record| record.first <= first && last <= record.last);
            let name = listed.map_or(SegmentName { first, last, generation: 0 }, SegmentRecord::name);
            let path = folder.join(name.to_string());
            let problem = match first == last {
                true => format!("the segment of commit {first} is missing"),
                false => format!("the segments of commits {first} to {last} are missing"),
            };
            let mut finding = Finding { path, problem, lost_unknown: !is_part, ..Finding::default() };
            finding.replaced_by = Some(path_of(&segment));
            let records = manifest.body.segments.iter();
            finding.count(records.filter(|record| first <= record.first && record.last <= last));
            if let Some(rescued) = rescued {
                finding.take(rescued, view, pieces.contains(&piece))?;
            }
            finding.list(&self.dir.join(QUARANTINE).join(segment.name().to_string()), plan);
            plan.report.findings.push(finding);
        }
        Ok(())
    }

    /// True if the store's file for some of these commits lacks entries.
    fn is_held_by_lossy(&self, view: &View, name: SegmentName) -> bool {
        view.segments.iter().map(|live| &live.segment).any(|segment| {
            segment.name().first <= name.last && name.first <= segment.name().last && segment.is_lossy()
        })
    }
}

/// The first file made of a piece, and what was lost with it. Of the files that only versions use, the
/// largest loss is counted.
fn made_of(made: &mut [Made], piece: Piece) -> Option<(Arc<Segment>, Option<Rescued>)> {
    let mut of_piece = made.iter_mut().filter(|made| made.piece == piece);
    let first = of_piece.next()?;
    let (segment, mut rescued) = (Arc::clone(&first.segment), first.rescued.take());
    let more = of_piece.filter_map(|made| Some(made.rescued.take()?.lost_keys.len())).max();
    if let Some((rescued, more)) = rescued.as_mut().zip(more) {
        rescued.lost_from_versions = more;
    }
    Some((segment, rescued))
}

impl Finding {
    /// Notes what became of the entries. A key that the store has in newer commits is not lost. For a file
    /// that only versions use, a key that the store has deleted is not lost, either.
    fn take(&mut self, rescued: Rescued, view: &View, is_of_store: bool) -> Result<()> {
        self.kept = rescued.kept;
        self.readdressed = rescued.readdressed;
        self.lost_unnamed = rescued.unnamed;
        self.attributes_lost = rescued.attributes_lost;
        let lost = rescued.lost_keys.len();
        for key in rescued.lost_keys {
            let is_there = match view.find(&key)? {
                Some((segment, index)) => !is_of_store || segment.kind(index)? != Kind::Tombstone,
                None => false,
            };
            if !is_there {
                self.lost_keys.push(key);
            }
        }
        let elsewhere = (lost - self.lost_keys.len()).max(rescued.lost_from_versions);
        if elsewhere > 0 {
            self.notes.push(format!(
                "{elsewhere} lost entries are missing from versions; the store has newer ones of their keys"
            ));
        }
        if rescued.readdressed > 0 {
            self.notes.push("the run table was hit: its entries have new addresses".to_owned());
        }
        if rescued.attributes_lost > 0 {
            let entries = rescued.attributes_lost;
            self.notes
                .push(format!("{entries} of the entries kept may have lost attributes; append them again"));
        }
        if !rescued.sections_lost.is_empty() {
            let sections = rescued.sections_lost.join(", ");
            self.notes.push(format!(
                "not in the new file, because only a later version knows what it is: section {sections}; \
                 that version can take it from quarantine"
            ));
        }
        if rescued.impossible_keys > 0 {
            self.notes.push(format!(
                "{} entries have keys of no bytes, or of more than {MAX_KEY_LEN}: no store can keep them",
                rescued.impossible_keys
            ));
        }
        if rescued.kills_lost {
            self.notes.push(
                "what it replaced or deleted cannot be read, and was told by keys: what it deleted may be \
                 there again"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Notes how many entries and rows the manifest counts in the file.
    fn count<'a>(&mut self, records: impl Iterator<Item = &'a SegmentRecord>) {
        let counts = records.map(|record| (record.entries, record.rows));
        self.listed = counts.reduce(|all, one| (all.0.saturating_add(one.0), all.1.saturating_add(one.1)));
        if let Some((entries, rows)) = self.listed.filter(|_| self.lost_unknown) {
            self.notes.push(format!(
                "it had {entries} entries with {rows} rows, superseded ones included: no more than these are \
                 lost"
            ));
        }
    }

    pub(super) fn missing(path: PathBuf) -> Self {
        Finding { path, problem: "it is missing".to_owned(), ..Finding::default() }
    }

    /// Plans the list of lost keys, beside the file in quarantine.
    fn list(&mut self, beside: &Path, plan: &mut Plan) {
        if self.lost_keys.is_empty() {
            return;
        }
        let name = beside.file_name().unwrap_or_default().to_string_lossy();
        let path = beside.with_file_name(format!("{name}.lost-keys.txt"));
        let lines = self.lost_keys.iter().map(|key| escaped(key) + "\n");
        plan.lists.push((path.clone(), lines.collect()));
        self.list = Some(path);
    }
}
