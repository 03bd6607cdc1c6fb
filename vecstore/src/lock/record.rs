//! The record in LOCK: the lock's holder, how often the store changed, and what is in doubt.

use std::ffi::CStr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytemuck::{Pod, Zeroable};

use crate::base::{Bug, Holder, Result};
use crate::vfs::LockFile;

const MAGIC: [u8; 8] = *b"\x89VECLCK\n";

/// Length of the record.
pub(crate) const RECORD_LEN: usize = 256;

/// True for what a lock file may hold, also after a power cut: a record, or the beginning of one.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    bytes.len() == RECORD_LEN || bytes.len() < RECORD_LEN && bytes.iter().zip(MAGIC).all(|(a, b)| *a == b)
}

/// Raises of the counter that the record explains.
const SPANS: usize = 9;

/// The record in LOCK.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Record {
    pub(super) magic: [u8; 8],
    /// Raised by every commit and every change of the manifest's settings.
    pub counter: u64,
    /// First commit whose name may not be durable, because flushing its directory failed; 0: none.
    pub suspect: u64,
    /// Seconds since 1970 when the lock was taken.
    pub(super) since: u64,
    /// Process that holds the lock; 0: none. A process that dies while it holds the lock leaves this set.
    pub pid: u32,
    pub(super) padding: u32,
    pub(super) host: [u8; 64],
    /// The commits of the last raises of the counter, the newest at the end.
    pub(super) spans: [Span; SPANS],
    pub(super) tail: [u8; 4],
    pub(super) crc: u32,
}

const _: () = assert!(size_of::<Record>() == RECORD_LEN);

/// The commits of one raise of the counter; zeros for one that was no commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Span {
    pub first: u64,
    pub last: u64,
}

impl Record {
    pub(super) fn void() -> Self {
        Record { magic: MAGIC, ..Record::zeroed() }
    }

    /// A void record starts at a random count, so that no reader takes it for a count it has seen.
    pub(super) fn fresh() -> Result<Self> {
        let random = crate::format::random_id()?.first_chunk().copied().unwrap_or_default();
        Ok(Record { counter: u64::from_le_bytes(random) >> 1, ..Record::void() })
    }

    pub(super) fn computed_crc(&self) -> u32 {
        crc32fast::hash(bytemuck::bytes_of(self).get(..RECORD_LEN - 4).unwrap_or_default())
    }

    /// Reads the record; `None` when it is void (absent, torn, or of another kind).
    pub(super) fn read(file: &dyn LockFile) -> std::io::Result<Option<Self>> {
        let mut bytes = [0; RECORD_LEN];
        if file.read_record(&mut bytes)? < RECORD_LEN {
            return Ok(None);
        }
        let record: Record = bytemuck::pod_read_unaligned(&bytes);
        let is_right = record.crc == record.computed_crc() || Bug::TrustRecord.is_on();
        Ok((record.magic == MAGIC && is_right).then_some(record))
    }

    pub(super) fn newest(&self) -> Span {
        self.spans.last().copied().unwrap_or_default()
    }

    pub(super) fn set_newest(&mut self, span: Span) {
        if let Some(newest) = self.spans.last_mut() {
            *newest = span;
        }
    }

    /// The commits since the counter was `then`; `None` when they are more than the record holds, or not all.
    pub(super) fn since(&self, then: u64) -> Option<Vec<Span>> {
        let raised =
            usize::try_from(self.counter.wrapping_sub(then)).ok().filter(|raised| *raised <= SPANS)?;
        let spans = self.spans.get(SPANS - raised..)?;
        spans.iter().all(|span| span.first != 0).then(|| spans.to_vec())
    }

    pub(super) fn holder(&self) -> Holder {
        Holder {
            pid: (self.pid != 0).then_some(self.pid),
            host: CStr::from_bytes_until_nul(&self.host).unwrap_or_default().to_string_lossy().into_owned(),
            held_secs: now_secs().saturating_sub(self.since),
        }
    }
}

pub(super) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// This machine's name at the first call, padded with zeros.
pub(super) fn host_name() -> [u8; 64] {
    static NAME: std::sync::OnceLock<[u8; 64]> = std::sync::OnceLock::new();
    *NAME.get_or_init(|| {
        let name = rustix::system::uname();
        let mut host = [0; 64];
        host.iter_mut().take(63).zip(name.nodename().to_bytes()).for_each(|(to, from)| *to = *from);
        host
    })
}
