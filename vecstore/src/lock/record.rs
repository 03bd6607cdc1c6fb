//! The record of a lock file: holder, change counter, suspect mark, and the latest commits.

use std::ffi::CStr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytemuck::{Pod, Zeroable};

use crate::base::{Bug, LockHolder, Result};
use crate::vfs::LockFile;

const MAGIC: [u8; 8] = *b"\x89VECLCK\n";

/// Length of the record in bytes.
pub(crate) const RECORD_LEN: usize = 256;

/// True for possible contents of a lock file, also after a power cut: a record, or the start of one.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    bytes.len() == RECORD_LEN || bytes.len() < RECORD_LEN && bytes.iter().zip(MAGIC).all(|(a, b)| *a == b)
}

/// Number of raises of the counter whose commits the record holds.
const SPANS: usize = 9;

/// The record, as it lies in the file. `docs/FORMAT.md` has the offsets.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Record {
    pub(super) magic: [u8; 8],
    /// Change counter, raised by every commit, and by every other change that open handles must notice.
    pub counter: u64,
    /// Suspect mark: first commit whose name may not be durable, because a flush of its directory failed.
    /// 0: none. In LOCK.manifest, 1: the name of MANIFEST may not be durable.
    pub suspect: u64,
    /// Time at which the lock was taken, in seconds since 1970.
    pub(super) since: u64,
    /// Process id of the holder; 0: none. A process that dies while it holds the lock leaves this set.
    pub pid: u32,
    pub(super) padding: u32,
    pub(super) host: [u8; 64],
    /// Commits of the last raises of the counter, the newest at the end. LOCK.merge: the last one is a claim.
    pub(super) spans: [Span; SPANS],
    pub(super) tail: [u8; 4],
    pub(super) crc: u32,
}

const _: () = assert!(size_of::<Record>() == RECORD_LEN);

/// First and last commit of one raise of the counter; zeros if the change was no plain commit.
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

    /// A record with a random counter, in place of a void one: no reader may take it for one it has seen.
    pub(super) fn fresh() -> Result<Self> {
        let random = crate::format::random_id()?.first_chunk().copied().unwrap_or_default();
        Ok(Record { counter: u64::from_le_bytes(random) >> 1, ..Record::void() })
    }

    pub(super) fn computed_crc(&self) -> u32 {
        crc32fast::hash(bytemuck::bytes_of(self).get(..RECORD_LEN - 4).unwrap_or_default())
    }

    /// Reads the record; `None` if it is void (absent, torn, or of another kind).
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

    /// Commits since the counter was `then`; `None` if the record does not hold that many raises, or one of
    /// them was no plain commit.
    pub(super) fn since(&self, then: u64) -> Option<Vec<Span>> {
        let raised =
            usize::try_from(self.counter.wrapping_sub(then)).ok().filter(|raised| *raised <= SPANS)?;
        let spans = self.spans.get(SPANS - raised..)?;
        spans.iter().all(|span| span.first != 0).then(|| spans.to_vec())
    }

    pub(super) fn holder(&self) -> LockHolder {
        LockHolder {
            pid: (self.pid != 0).then_some(self.pid),
            host: CStr::from_bytes_until_nul(&self.host).unwrap_or_default().to_string_lossy().into_owned(),
            held_secs: now_secs().saturating_sub(self.since),
        }
    }
}

pub(super) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The host's name, padded with zeros; asked for once, at the first call.
pub(super) fn host_name() -> [u8; 64] {
    static NAME: std::sync::OnceLock<[u8; 64]> = std::sync::OnceLock::new();
    *NAME.get_or_init(|| {
        let name = rustix::system::uname();
        let mut host = [0; 64];
        host.iter_mut().take(63).zip(name.nodename().to_bytes()).for_each(|(to, from)| *to = *from);
        host
    })
}
