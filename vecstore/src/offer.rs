//! A group of batches that its writer offers to whoever holds the commit lock, as bytes, and the answer.
//!
//! Both lie in one file, which lives as long as the writer's handle: first the answer, then the offer. Nothing of it is
//! ever flushed: it is a letter between processes that are alive, and void after a power cut.

use bytemuck::{Pod, Zeroable};

use crate::batch::Ends;
use crate::commit::Request;
use crate::format::Id;
use crate::lock::boot_id;
use crate::{Appended, Batch, DType, OnDuplicate};

/// Batches in an offer, at most.
pub(crate) const MAX_BATCHES: usize = 32;
/// Bytes of an offer, at most: what is larger gains little from sharing a flush.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Where the offer lies.
pub(crate) const OFFER_AT: u64 = 4096;

const ANSWER_MAGIC: [u8; 8] = *b"\x89VECANS\n";
const OFFER_MAGIC: [u8; 8] = *b"\x89VECOFR\n";

/// What has become of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// There is none, or its owner deals with it himself.
    None,
    /// It may be taken.
    Offered,
    /// The holder of the commit lock is committing it, with these outcomes if he succeeds.
    Taken,
    /// It is committed, durably.
    Done,
}

impl State {
    const ALL: [State; 4] = [State::None, State::Offered, State::Taken, State::Done];

    fn code(self) -> u32 {
        match self {
            State::None => 0,
            State::Offered => 1,
            State::Taken => 2,
            State::Done => 3,
        }
    }
}

/// The outcome of one batch.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Outcome {
    /// 0: nothing was left to write.
    commit: u64,
    entries: u64,
    rows: u64,
    skipped: u64,
    replaced: u64,
    deleted: u64,
}

/// The answer, as it lies in the file. Written by the owner when he offers, by the holder of the commit lock after that.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Answer {
    magic: [u8; 8],
    /// Number of the offer.
    pub seq: u64,
    state: u32,
    count: u32,
    /// `link_out` of the segment that has the batches.
    pub link_out: Id,
    /// First commit of that segment; 0: nothing is written.
    pub first: u64,
    /// Its last commit, or the last one that the decision rests on when nothing is written.
    pub last: u64,
    outcomes: [Outcome; MAX_BATCHES],
    tail: [u8; 4],
    crc: u32,
}

/// The segment that will have the batches of an offer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promised {
    /// 0: nothing is written.
    pub first: u64,
    /// Also when nothing is written: the last commit that is known.
    pub last: u64,
    pub link_out: Id,
}

/// Length of an answer.
pub(crate) const ANSWER_LEN: usize = size_of::<Answer>();

impl Answer {
    /// An answer that says nothing of outcomes.
    pub fn new(seq: u64, state: State) -> Self {
        Answer { magic: ANSWER_MAGIC, seq, state: state.code(), ..Answer::zeroed() }
    }

    /// The answer of somebody who is about to commit: the end of the segment, if there will be one, and all outcomes.
    pub fn promise(seq: u64, promised: Promised, outcomes: &[Appended]) -> Self {
        let Promised { first, last, link_out } = promised;
        let mut answer = Answer { first, last, link_out, ..Answer::new(seq, State::Taken) };
        for (to, from) in answer.outcomes.iter_mut().zip(outcomes) {
            *to = Outcome {
                commit: from.commit.unwrap_or(0),
                entries: from.entries,
                rows: from.rows,
                skipped: from.skipped,
                replaced: from.replaced,
                deleted: from.deleted,
            };
            answer.count += 1;
        }
        answer
    }

    /// The same in another state.
    pub fn become_state(mut self, state: State) -> Self {
        self.state = state.code();
        self
    }

    pub fn state(&self) -> State {
        State::ALL.into_iter().find(|state| state.code() == self.state).unwrap_or(State::None)
    }

    /// What became, or would become, of each batch.
    pub fn outcomes(&self) -> Vec<Appended> {
        let count = self.count as usize;
        let outcomes = self.outcomes.iter().take(count);
        outcomes
            .map(|outcome| Appended {
                commit: (outcome.commit != 0).then_some(outcome.commit),
                entries: outcome.entries,
                rows: outcome.rows,
                skipped: outcome.skipped,
                replaced: outcome.replaced,
                deleted: outcome.deleted,
            })
            .collect()
    }

    fn computed_crc(&self) -> u32 {
        crc32fast::hash(bytemuck::bytes_of(self).get(..ANSWER_LEN - 4).unwrap_or_default())
    }

    /// The bytes to write.
    pub fn to_bytes(mut self) -> Vec<u8> {
        self.crc = self.computed_crc();
        bytemuck::bytes_of(&self).to_vec()
    }

    /// Reads an answer; `None` for bytes that are none, or half of one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let answer: Answer = bytemuck::try_pod_read_unaligned(bytes).ok()?;
        (answer.magic == ANSWER_MAGIC && answer.crc == answer.computed_crc()).then_some(answer)
    }
}

/// Before the bytes of an offer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Head {
    magic: [u8; 8],
    seq: u64,
    store_id: Id,
    /// The run of its writer's system: only within it is what one process writes what another one reads at once.
    boot: [u8; 64],
    /// Bytes after the head.
    len: u64,
    count: u32,
    /// Of those bytes.
    body_crc: u32,
    tail: [u8; 4],
    crc: u32,
}

/// Length of the head.
pub(crate) const HEAD_LEN: usize = size_of::<Head>();

impl Head {
    fn computed_crc(&self) -> u32 {
        crc32fast::hash(bytemuck::bytes_of(self).get(..HEAD_LEN - 4).unwrap_or_default())
    }

    /// Reads the head of offer number `seq` to this store, written since this system was started; `None` when it is none.
    pub fn parse(bytes: &[u8; HEAD_LEN], seq: u64, store_id: Id) -> Option<Self> {
        let head: Head = bytemuck::pod_read_unaligned(bytes);
        let is_sound = head.magic == OFFER_MAGIC
            && head.crc == head.computed_crc()
            && head.len <= MAX_BYTES as u64 * 2
            && head.count as usize <= MAX_BATCHES;
        let is_meant = head.seq == seq && head.store_id == store_id && Some(head.boot) == boot_id();
        (is_sound && is_meant).then_some(head)
    }

    /// Bytes after the head.
    pub fn len(&self) -> usize {
        usize::try_from(self.len).unwrap_or(0)
    }
}

/// Before each batch of an offer.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct BatchHead {
    policy: u64,
    rows: u64,
    scales: u64,
    keys: u64,
    payloads: u64,
    entries: u64,
}

/// An entry's ends.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct EndsRecord {
    kind: u64,
    key: u64,
    rows: u64,
    payload: u64,
}

/// Lays an offer out: the head, the batches. `None` when it would be too large.
pub(crate) fn encode(seq: u64, store_id: Id, group: &[Request<'_>], out: &mut Vec<u8>) -> Option<()> {
    let size: usize = group.iter().map(|request| request.batch.byte_len() + request.batch.len() * 32).sum();
    if group.is_empty() || group.len() > MAX_BATCHES || size > MAX_BYTES {
        return None;
    }
    out.clear();
    out.resize(HEAD_LEN, 0);
    for request in group {
        let parts = request.batch.parts();
        let head = BatchHead {
            policy: policy_code(request.policy),
            rows: parts.rows.len() as u64,
            scales: parts.scales.len() as u64,
            keys: parts.keys.len() as u64,
            payloads: parts.payloads.len() as u64,
            entries: parts.entries.len() as u64,
        };
        out.extend_from_slice(bytemuck::bytes_of(&head));
        out.extend_from_slice(parts.rows);
        out.extend_from_slice(bytemuck::cast_slice(parts.scales));
        out.extend_from_slice(parts.keys);
        out.extend_from_slice(parts.payloads);
        for ends in parts.entries {
            let (kind, key) = (u64::from(ends.kind), ends.key as u64);
            let record = EndsRecord { kind, key, rows: ends.rows as u64, payload: ends.payload as u64 };
            out.extend_from_slice(bytemuck::bytes_of(&record));
        }
    }
    let body = out.get(HEAD_LEN..).unwrap_or_default();
    let mut head = Head {
        magic: OFFER_MAGIC,
        seq,
        store_id,
        boot: boot_id()?,
        len: body.len() as u64,
        count: u32::try_from(group.len()).unwrap_or(u32::MAX),
        body_crc: crc32fast::hash(body),
        ..Head::zeroed()
    };
    head.crc = head.computed_crc();
    out.get_mut(..HEAD_LEN)?.copy_from_slice(bytemuck::bytes_of(&head));
    Some(())
}

/// Reads the batches of an offer; `None` when the bytes are not what its head says, or make no batches of this shape.
pub(crate) fn decode(
    head: &Head,
    body: &[u8],
    dim: usize,
    dtype: DType,
) -> Option<Vec<(Batch, OnDuplicate)>> {
    if body.len() as u64 != head.len || crc32fast::hash(body) != head.body_crc {
        return None;
    }
    let mut rest = Rest(body);
    let mut batches = Vec::new();
    for _ in 0..head.count {
        let BatchHead { policy, rows, scales, keys, payloads, entries } = rest.record()?;
        let policy = policy_from(policy)?;
        let rows = rest.take(rows)?.to_vec();
        let scales = rest.take(scales.checked_mul(4)?)?.chunks_exact(4);
        let scales = scales.map(bytemuck::pod_read_unaligned).collect();
        let (keys, payloads) = (rest.take(keys)?.to_vec(), rest.take(payloads)?.to_vec());
        let mut ends = Vec::new();
        for _ in 0..entries {
            let record: EndsRecord = rest.record()?;
            ends.push(Ends {
                kind: u8::try_from(record.kind).ok()?,
                key: usize::try_from(record.key).ok()?,
                rows: usize::try_from(record.rows).ok()?,
                payload: usize::try_from(record.payload).ok()?,
            });
        }
        batches.push((Batch::from_parts(dim, dtype, rows, scales, keys, payloads, ends)?, policy));
    }
    rest.0.is_empty().then_some(batches)
}

/// Bytes that were not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn record<T: bytemuck::AnyBitPattern>(&mut self) -> Option<T> {
        self.take(size_of::<T>() as u64).map(bytemuck::pod_read_unaligned)
    }
}

fn policy_code(policy: OnDuplicate) -> u64 {
    match policy {
        OnDuplicate::Skip => 0,
        OnDuplicate::Replace => 1,
        OnDuplicate::Error => 2,
    }
}

fn policy_from(code: u64) -> Option<OnDuplicate> {
    [OnDuplicate::Skip, OnDuplicate::Replace, OnDuplicate::Error]
        .into_iter()
        .find(|policy| policy_code(*policy) == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Vec<Batch> {
        let mut rows = Batch::new(2, DType::I8);
        rows.push_quantized("a", &[1, 2, 3, 4], &[0.5, 0.25], b"payload").unwrap();
        rows.push_rejected("b", "why").unwrap();
        let mut deletes = Batch::new(2, DType::I8);
        deletes.delete("c").unwrap();
        vec![rows, deletes]
    }

    fn encoded() -> Vec<u8> {
        let batches = group();
        let requests: Vec<Request<'_>> =
            batches.iter().map(|batch| Request { batch, policy: OnDuplicate::Replace }).collect();
        let mut bytes = Vec::new();
        encode(7, [9; 16], &requests, &mut bytes).unwrap();
        bytes
    }

    fn head(bytes: &[u8], seq: u64, store_id: Id) -> Option<Head> {
        Head::parse(bytes[..HEAD_LEN].try_into().unwrap(), seq, store_id)
    }

    #[test]
    fn batches_come_back_as_they_were() {
        let bytes = encoded();
        let head = head(&bytes, 7, [9; 16]).unwrap();
        let back = decode(&head, &bytes[HEAD_LEN..], 2, DType::I8).unwrap();
        assert_eq!(back.len(), 2);
        for ((batch, policy), then) in back.iter().zip(group()) {
            assert_eq!(*policy, OnDuplicate::Replace);
            assert_eq!(format!("{:?}", batch.parts()), format!("{:?}", then.parts()));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_offer_is_refused() {
        let bytes = encoded();
        assert!(head(&bytes, 8, [9; 16]).is_none(), "another number");
        assert!(head(&bytes, 7, [8; 16]).is_none(), "another store");
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read =
                head(&bytes, 7, [9; 16]).and_then(|head| decode(&head, &bytes[HEAD_LEN..], 2, DType::I8));
            assert!(read.is_none(), "bit {bit}");
        }
        let answer = Answer::promise(1, Promised::default(), &[Appended::default()]).to_bytes();
        assert!(Answer::parse(&answer).is_some());
        for bit in 0..answer.len() * 8 {
            let mut answer = answer.clone();
            answer[bit / 8] ^= 1 << (bit % 8);
            assert!(Answer::parse(&answer).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn outcomes_come_back_as_they_were() {
        let outcomes = [
            Appended { commit: Some(4), entries: 1, rows: 2, skipped: 3, replaced: 4, deleted: 5 },
            Appended { commit: None, skipped: 9, ..Appended::default() },
        ];
        let segment = Promised { first: 4, last: 6, link_out: [5; 16] };
        let answer = Answer::promise(3, segment, &outcomes).become_state(State::Done);
        let back = Answer::parse(&answer.to_bytes()).unwrap();
        assert_eq!((back.seq, back.state(), back.link_out), (3, State::Done, [5; 16]));
        assert_eq!((back.first, back.last), (4, 6));
        assert_eq!(back.outcomes(), outcomes);
    }

    #[test]
    fn lengths_that_do_not_fit_together_make_no_batch() {
        let parts = |rows: usize, ends: Ends| {
            Batch::from_parts(
                2,
                DType::I8,
                vec![0; rows],
                vec![1.0; rows / 2],
                vec![b'k'],
                Vec::new(),
                vec![ends],
            )
        };
        let ends = Ends { kind: 0, key: 1, rows: 4, payload: 0 };
        assert!(parts(4, ends).is_some());
        assert!(parts(4, Ends { rows: 2, ..ends }).is_none(), "rows of nobody");
        assert!(parts(4, Ends { rows: 6, ..ends }).is_none(), "rows that are not there");
        assert!(parts(3, Ends { rows: 3, ..ends }).is_none(), "half a row");
        assert!(parts(4, Ends { key: 0, ..ends }).is_none(), "no key");
        assert!(parts(4, Ends { key: 2, ..ends }).is_none(), "a key that is not there");
        assert!(parts(4, Ends { kind: 9, ..ends }).is_none(), "another kind");
        assert!(parts(4, Ends { payload: 1, ..ends }).is_none(), "a payload that is not there");
        assert!(parts(0, Ends { rows: 0, ..ends }).is_none(), "an entry with rows that has none");
    }
}
