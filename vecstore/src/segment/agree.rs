//! Checks that checksums cannot make: the tables of a segment agree with each other, and its entries are
//! possible.

use super::check::{Step, fault, from_error};
use super::{Segment, SegmentFault, ask_for};
use crate::base::{Error, Result};
use crate::format::records::{Kill, Run, count};
use crate::format::{key_hash, npy};
use crate::types::{Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN};

/// Entries that are checked between two calls of `step`, which may end the check.
const ENTRIES_PER_STEP: usize = 1 << 16;

/// Checks the tables against each other.
pub(super) fn check_tables(segment: &Segment, step: Step<'_>) -> Result<Vec<SegmentFault>> {
    let mut faults = Vec::new();
    let footer = segment.footer();
    let expected_header = npy::header(segment.dtype(), footer.rows, footer.dim as usize);
    if segment.bytes().get(..npy::HEADER_LEN) != Some(expected_header.as_slice()) {
        faults.push(fault("HEAD", None, "the NumPy header does not describe the rows"));
    }
    if let Err(error) = segment.settings() {
        faults.push(from_error(error));
    }
    let (mut kinds, mut rows) = ([0u64; 4], 0);
    for index in 0..segment.entry_count() {
        if index % ENTRIES_PER_STEP == 0 {
            step(0)?;
        }
        let looked = look(segment, index, rows);
        match looked.and_then(|rows| Ok((rows, segment.kind(index)?))) {
            Ok((end, kind)) => {
                rows = end;
                count(&mut kinds, kind.code());
            }
            Err(error) => {
                let keys = segment.key(index).into_iter().filter(|key| is_key(key)).map(<[u8]>::to_vec);
                faults.push(SegmentFault { keys: keys.collect(), ..from_error(error) });
                return Ok(faults);
            }
        }
    }
    let mut add = |section: &str, detail: String| faults.push(fault(section, None, detail));
    if let Some(run) = first_wrong_run(segment) {
        add("RUNS", format!("run {run} does not begin with the first row of its first entry"));
    }
    if let Some(run) = segment.runs().iter().position(|run| run.entry.max(run.row) > Run::MOST) {
        add("RUNS", format!("run {run} names entries or rows of numbers that no batch has"));
    }
    if let Some(run) = first_overlapping(segment.runs()) {
        add("RUNS", format!("run {run} names entries or rows that the one before it names too"));
    }
    if let Some(index) = first_not_found(segment, step)? {
        add("HASH", format!("entry {index} cannot be found by its key"));
        return Ok(faults);
    }
    check_kills(segment, &mut add);
    if kinds != footer.kinds {
        add("KIND", format!("expected {:?} entries of each kind, found {kinds:?}", footer.kinds));
    }
    if rows != segment.row_count() {
        add("REND", format!("expected {} rows, the entries have {rows}", segment.row_count()));
    }
    let index = || segment.hashes().iter().enumerate().map(|(at, hash)| (hash, segment.hash_entry(at)));
    if !index().is_sorted() {
        add("HASH", "hashes, or entries of equal hashes, do not ascend".to_owned());
    }
    Ok(faults)
}

fn is_key(key: &[u8]) -> bool {
    (1..=MAX_KEY_LEN).contains(&key.len())
}

/// Checks an entry whose rows must begin with row `rows`; returns the row at which they end.
fn look(segment: &Segment, index: usize, rows: usize) -> Result<usize> {
    let wrong = |section: &str, detail: String| Err(Error::damaged(segment.path(), section, detail));
    let (key, kind, span) = (segment.key(index)?, segment.kind(index)?, segment.row_span(index)?);
    if !is_key(key) {
        let len = key.len();
        return wrong("KEYS", format!("entry {index} has a key of {len} bytes; it has 1 to {MAX_KEY_LEN}"));
    }
    if span.start != rows || span.is_empty() == (kind == Kind::Rows) {
        return wrong("REND", format!("entry {index} of kind {kind} has rows {span:?}"));
    }
    let payload = segment.payload(index)?.len();
    // The payload of a rejected entry begins with the length of its reason.
    let most = MAX_PAYLOAD_LEN + if kind == Kind::Rejected { size_of::<u32>() } else { 0 };
    if payload > most {
        let limit = format!("it has at most {most}");
        return wrong("PEND", format!("entry {index} has a payload of {payload} bytes; {limit}"));
    }
    Ok(span.end)
}

/// Checks kills without the entries that they name.
fn check_kills(segment: &Segment, add: &mut impl FnMut(&str, String)) {
    let footer = segment.footer();
    let mut killed = ([0u64; 4], 0u64);
    for kill in segment.kills() {
        count(&mut killed.0, kill.kind);
        killed.1 = killed.1.saturating_add(u64::from(kill.rows));
    }
    let is_wrong = |kill: &&Kill| {
        let is_here = (footer.first..=footer.last).contains(&kill.killer);
        !is_here || kill.padding != [0; 3] || kill.commit == 0 || kill.commit > kill.killer
    };
    if let Some(Kill { killer, commit, .. }) = segment.kills().iter().find(is_wrong) {
        let detail = format!("commit {killer} kills an entry of commit {commit}");
        add("KILL", detail + "; the killer is of this file and no older, and padding is zero");
    }
    if killed != (footer.killed, footer.killed_rows) {
        add("KILL", "the kills are not those that the footer counts".to_owned());
    }
    if !segment.kills().is_sorted_by_key(Kill::victim) {
        add("KILL", "kills do not ascend by the entries that they name".to_owned());
    }
}

/// The first run whose row is not the first row of its first entry.
fn first_wrong_run(segment: &Segment) -> Option<usize> {
    segment.runs().iter().position(|run| {
        let entry = usize::try_from(run.segment_entry).unwrap_or(usize::MAX);
        let row = if entry < segment.entry_count() {
            segment.row_span(entry).map(|span| span.start as u64)
        } else {
            Ok(segment.footer().rows)
        };
        row.ok() != Some(run.segment_row)
    })
}

/// The first run that may not follow the run before it.
fn first_overlapping(runs: &[Run]) -> Option<usize> {
    let pairs = runs.iter().zip(runs.iter().skip(1));
    pairs.enumerate().find(|(_, (run, next))| !run.may_precede(next)).map(|(number, _)| number + 1)
}

/// The first entry that the key index does not have under the hash of its key. Goes through the index, not
/// through the entries: looking up each entry takes five times as long.
fn first_not_found(segment: &Segment, step: Step<'_>) -> Result<Option<usize>> {
    /// Keys that are prefetched together.
    const TOGETHER: usize = 64;
    let mut found = vec![0u64; segment.entry_count().div_ceil(64)];
    let hashes = segment.hashes();
    for (group, hashes) in hashes.chunks(TOGETHER).enumerate() {
        if group % (ENTRIES_PER_STEP / TOGETHER) == 0 {
            step(0)?;
        }
        let mut entries = [(usize::MAX, None); TOGETHER];
        for (position, place) in entries.iter_mut().enumerate().take(hashes.len()) {
            let entry = segment.hash_entry(group * TOGETHER + position).unwrap_or(usize::MAX);
            let key = segment.key(entry).ok();
            ask_for(key.unwrap_or_default());
            *place = (entry, key);
        }
        for (hash, (entry, key)) in hashes.iter().zip(entries) {
            if key.is_some_and(|key| key_hash(key) == *hash)
                && let Some(word) = found.get_mut(entry / 64)
            {
                *word |= 1 << (entry % 64);
            }
        }
    }
    let is_missing = |entry: &usize| found.get(entry / 64).is_none_or(|word| word >> (entry % 64) & 1 == 0);
    Ok((0..segment.entry_count()).find(is_missing))
}
