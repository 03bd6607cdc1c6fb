//! Finds files that contradict older entries in their kills, or older files in the types of attributes. The
//! bytes of such a file are as they were written, but wrong content was written.

use std::collections::HashMap;

use super::chain::Piece;
use super::remains::Remains;
use super::survey::{Found, State};
use crate::base::{IoContext, Result};
use crate::care::attributes::Types;
use crate::format::records::Kill;
use crate::segment::{Pieces, Segment, SegmentName};
use crate::state::SegmentRecord;
use crate::types::Kind;
use crate::vfs::Vfs;

/// What a kill says about an entry: its first row (0 if it has none), its number of rows, its kind.
type Said = (u64, u64, u8);

fn said(kill: &Kill) -> Said {
    (if kill.rows == 0 { 0 } else { kill.row }, u64::from(kill.rows), kill.kind)
}

fn as_said(row: u64, rows: u64, kind: Kind) -> Said {
    (if rows == 0 { 0 } else { row }, rows, kind.code())
}

/// True if a kill describes an entry with this first row, number of rows and kind.
pub(super) fn says(kill: &Kill, row: u64, rows: u64, kind: Kind) -> bool {
    said(kill) == as_said(row, rows, kind)
}

/// Treats sound files of the chain as damaged if their kills contradict the entries that they name: their
/// kills are then found by keys, as if the section could not be read. Likewise if an attribute has another
/// type than before: the attribute is lost. True if there was such a file; the chain may then be another one.
pub(super) fn distrust(
    vfs: &dyn Vfs,
    found: &mut [Found],
    pieces: &[Piece],
    records: &[SegmentRecord],
) -> Result<bool> {
    let mut before: Vec<(SegmentName, There<'_>)> = Vec::new();
    let (mut wrong, mut types): (Vec<(usize, String)>, _) = (Vec::new(), Types::default());
    for piece in pieces {
        let Piece::File(number) = *piece else { continue };
        let Some(file) = found.get(number) else { continue };
        match &file.state {
            State::Sound(segment) => {
                before.push((file.name, There::Whole(segment)));
                if let Some(Kill { entry, commit, .. }) = contradicting(&before, segment)? {
                    let problem = "a kill does not agree with";
                    wrong.push((number, format!("section KILL: {problem} entry {entry} of commit {commit}")));
                } else if let Some(problem) = types.add(segment.directory()?.columns()) {
                    wrong.push((number, format!("section ATTR: {problem}")));
                }
            }
            State::Remains(remains) => {
                before.push((file.name, There::Intact(intact(remains))));
                types.add(remains.columns());
            }
            State::Nothing => {}
        }
    }
    let any = !wrong.is_empty();
    for (number, problem) in wrong {
        let Some(file) = found.get_mut(number) else { continue };
        let record = records.iter().find(|record| file.listed && record.name() == file.name);
        let pieces = Pieces::open(vfs, &file.path).at(&file.path, "open the segment")?;
        file.distrust(pieces, record, problem);
    }
    Ok(any)
}

/// The known entries of a file.
enum There<'a> {
    Whole(&'a Segment),
    /// The intact entries of a damaged file, by commit and number in the batch.
    Intact(HashMap<(u64, u64), Said>),
}

fn intact(remains: &Remains) -> HashMap<(u64, u64), Said> {
    let entries = (0..remains.entry_count()).filter_map(|index| {
        let entry = remains.entry(index);
        let (kind, content) = (entry.kind?, entry.content?);
        let origin = remains.origin(index, Some(content.rows.start))?;
        Some(((origin.commit, origin.entry), as_said(origin.row, content.row_count(), kind)))
    });
    entries.collect()
}

/// A kill of `last` that contradicts an entry of these files.
fn contradicting(files: &[(SegmentName, There<'_>)], last: &Segment) -> Result<Option<Kill>> {
    for kill in last.kills() {
        let after = files.partition_point(|(name, _)| name.first <= kill.commit);
        let target = after.checked_sub(1).and_then(|at| files.get(at));
        let Some((_, there)) = target.filter(|(name, _)| kill.commit <= name.last) else { continue };
        let agrees = match there {
            There::Whole(segment) => segment.agrees_with(kill)?,
            There::Intact(entries) => {
                entries.get(&(kill.commit, kill.entry)).is_none_or(|entry| *entry == said(kill))
            }
        };
        if !agrees {
            return Ok(Some(*kill));
        }
    }
    Ok(None)
}
