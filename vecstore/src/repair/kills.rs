//! Which files say of older entries what those are not: their bytes are what was written, and what was written is wrong.

use std::collections::HashMap;

use super::chain::Piece;
use super::remains::Remains;
use super::survey::{Found, State};
use crate::error::IoContext;
use crate::format::records::Kill;
use crate::manifest::SegmentRecord;
use crate::segment::{Pieces, Segment};
use crate::vfs::Vfs;
use crate::{Kind, Result};

/// What kills say of an entry: its first row, how many it has, its kind. Without rows there is no first one.
type Said = (u64, u64, u8);

fn said(kill: &Kill) -> Said {
    (if kill.rows == 0 { 0 } else { kill.row }, u64::from(kill.rows), kill.kind)
}

/// Entries that kills name, by commit and number in the batch, and what they say of them.
#[derive(Debug, Default)]
pub(super) struct Killed(HashMap<(u64, u64), Option<Said>>);

impl Killed {
    pub fn add(&mut self, kill: &Kill) {
        let said = said(kill);
        let known = self.0.entry((kill.commit, kill.entry)).or_insert(Some(said));
        if *known != Some(said) {
            *known = None;
        }
    }

    pub fn contains(&self, origin: &(u64, u64)) -> bool {
        self.0.contains_key(origin)
    }

    /// The entries named.
    pub fn origins(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.keys().copied()
    }

    /// True when all kills of an entry, if there are any, say that it has these rows and this kind.
    pub fn agree(&self, origin: &(u64, u64), row: u64, rows: u64, kind: Kind) -> bool {
        let is = (if rows == 0 { 0 } else { row }, rows, kind.code());
        self.0.get(origin).is_none_or(|said| *said == Some(is))
    }
}

/// True when a kill says this of an entry.
pub(super) fn says(kill: &Kill, row: u64, rows: u64, kind: Kind) -> bool {
    said(kill) == (if rows == 0 { 0 } else { row }, rows, kind.code())
}

/// Sound files of the chain whose kills do not agree with the sound files that they name are damaged: what they kill is
/// told by keys, as if the section could not be read. True when there was one; the chain may go another way then.
pub(super) fn distrust(
    vfs: &dyn Vfs,
    found: &mut [Found],
    pieces: &[Piece],
    records: &[SegmentRecord],
) -> Result<bool> {
    let mut before: Vec<&Segment> = Vec::new();
    let mut wrong: Vec<(usize, String)> = Vec::new();
    for piece in pieces {
        let Piece::File(number) = *piece else { continue };
        let Some(State::Sound(segment)) = found.get(number).map(|file| &file.state) else { continue };
        before.push(segment);
        if let Some(kill) = contradicting(&before, segment)? {
            let Kill { entry, commit, .. } = kill;
            wrong.push((
                number,
                format!("section KILL: a kill does not agree with entry {entry} of commit {commit}"),
            ));
        }
    }
    let any = !wrong.is_empty();
    for (number, problem) in wrong {
        let Some(file) = found.get_mut(number) else { continue };
        let record = records.iter().find(|record| file.listed && record.name() == file.name);
        let pieces = Pieces::open(vfs, &file.path).at(&file.path, "open the segment")?;
        let remains = Remains::read(&file.path, file.name, pieces, record);
        file.state = remains.map_or(State::Nothing, |remains| State::Remains(Box::new(remains)));
        file.problem = problem;
        file.damaged = true;
    }
    Ok(any)
}

/// A kill of the last file that does not agree with what is there.
fn contradicting(segments: &[&Segment], last: &Segment) -> Result<Option<Kill>> {
    for kill in last.kills() {
        if kill.commit == 0 || kill.commit > last.name().last {
            return Ok(Some(*kill));
        }
        let after = segments.partition_point(|segment| segment.name().first <= kill.commit);
        let target = after.checked_sub(1).and_then(|at| segments.get(at));
        // What is not sound is written anew, and agrees with what follows.
        let Some(target) = target.filter(|segment| kill.commit <= segment.name().last) else { continue };
        if !target.agrees_with(kill)? {
            return Ok(Some(*kill));
        }
    }
    Ok(None)
}
