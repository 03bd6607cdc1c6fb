//! Trials as bytes: a fuzzer mutates them, random tests generate them, regression files hold them.

use std::collections::BTreeMap;

use vecstore::OnDuplicate;

use super::SHORT;
use super::oracle::Value;
use super::run::Do;

/// Bytes of one act.
pub const LEN: usize = 8;
/// The handle on a restored store.
pub const RESTORED: usize = 4;
pub const EACCES: i32 = 13;
/// Errors that calls fail with: EIO, ENOSPC, EDQUOT, EMFILE, EACCES, EROFS, ENOLCK, EINTR; and short reads of
/// a lock's record.
const ERRORS: [i32; 9] = [5, 28, 122, 24, EACCES, 30, 37, 4, SHORT];

/// An operation of two processes with two handles each, or an event that happens to them.
#[derive(Clone, Debug)]
pub enum Act {
    /// A handle appends these entries; `None` deletes a key.
    Write(usize, OnDuplicate, Vec<(String, Option<Value>)>),
    /// Any other operation.
    Do(Do),
    /// Before call number `after` of `outer`, another process does `inner` from beginning to end.
    Meanwhile { outer: Do, after: usize, inner: Do },
    /// A snapshot of this handle is kept; it must never change.
    Keep(usize),
    /// A reader opens the store and reads everything.
    Look,
    /// The call that this process makes `after` calls from now fails; if `lasting`, all later ones, too.
    Fault { process: usize, after: usize, errno: i32, lasting: bool },
    /// All faults end.
    Relief,
    /// The disk, or a quota, has this many bytes left.
    Full { bytes: u64, is_quota: bool },
    /// The process dies `after` calls from now.
    Kill { process: usize, after: usize },
    /// The power fails `back` changes before the last one. `fates` says which unflushed changes survive:
    /// 0 none, 1 all, otherwise a choice that `seed` makes.
    PowerCut { back: usize, fates: usize, seed: u64 },
}

/// Decodes bytes into acts. Any bytes are acts; an incomplete act at the end is ignored.
pub fn acts(bytes: &[u8]) -> Vec<Act> {
    bytes.as_chunks::<LEN>().0.iter().map(Act::from_bytes).collect()
}

/// The bytes of a line of hexadecimal digits; none for an empty line or a comment.
pub fn from_hex(line: &str) -> Vec<u8> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let digits = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hexadecimal digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

/// These bytes as a line of hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The operation with this number, of a handle on the store.
fn operation(number: u8, handle: usize) -> Do {
    const ALL: [fn(usize) -> Do; 16] = [
        Do::Append,
        Do::Replace,
        Do::Skip,
        Do::Delete,
        Do::Setting,
        Do::Fingerprint,
        Do::Checkpoint,
        Do::Refresh,
        Do::Merge,
        Do::FullMerge,
        Do::Name,
        Do::DropName,
        Do::Backup,
        Do::Dated,
        Do::Close,
        Do::Open,
    ];
    ALL[usize::from(number) % ALL.len()](handle)
}

/// The operation with this number, of the handle on a restored store.
fn restored(number: u8) -> Do {
    const ALL: [fn(usize) -> Do; 8] = [
        Do::Restore,
        Do::Append,
        Do::Replace,
        Do::Delete,
        Do::Setting,
        Do::Checkpoint,
        Do::FullMerge,
        Do::Close,
    ];
    ALL[usize::from(number) % ALL.len()](RESTORED)
}

/// The operation with this number, among those that may happen in the middle of another one.
fn meanwhile(number: u8, handle: usize) -> Do {
    const ALL: [fn(usize) -> Do; 9] = [
        Do::Append,
        Do::Replace,
        Do::Delete,
        Do::Merge,
        Do::FullMerge,
        Do::Name,
        Do::Backup,
        Do::Setting,
        Do::Checkpoint,
    ];
    ALL[usize::from(number) % ALL.len()](handle)
}

impl Act {
    /// Decodes an act: the first byte is its kind, the others are its arguments.
    pub fn from_bytes(bytes: &[u8; LEN]) -> Act {
        let [what, a, b, c, d, e, f, g] = *bytes;
        let handle = usize::from(a % 4);
        let process = handle / 2;
        match what % 32 {
            0..=9 => {
                // A map: each key is there once.
                let entries: BTreeMap<String, Option<Value>> = [d, e, f, g][..1 + usize::from(c % 4)]
                    .iter()
                    .map(|byte| (byte & 15, byte >> 4))
                    .map(|(key, kind)| {
                        let value = Value::number(u32::from(kind) + 16 * u32::from(b / 3));
                        (format!("k{}", key % 12), (kind > 2).then_some(value))
                    })
                    .collect();
                let handle = if a & 0xF0 == 0xF0 { RESTORED } else { handle };
                let policy =
                    [OnDuplicate::Skip, OnDuplicate::Replace, OnDuplicate::Error][usize::from(b % 3)];
                Act::Write(handle, policy, entries.into_iter().collect())
            }
            10..=16 => Act::Do(operation(b, handle)),
            17 | 18 => Act::Do(restored(b)),
            19 | 20 => Act::Meanwhile {
                outer: operation(b, handle),
                after: usize::from(d),
                inner: meanwhile(c, 2 * (1 - process) + usize::from(a / 4 % 2)),
            },
            21 => Act::Keep(handle),
            22 => Act::Look,
            23..=25 => Act::Fault {
                process,
                after: usize::from(b),
                errno: ERRORS[usize::from(c) % ERRORS.len()],
                lasting: d % 2 == 1,
            },
            26 => Act::Relief,
            27 => Act::Full { bytes: u64::from(u16::from_le_bytes([b, c])), is_quota: d % 2 == 1 },
            28 => Act::Kill { process, after: usize::from(b) },
            _ => Act::PowerCut {
                back: usize::from(a),
                fates: usize::from(b % 8),
                seed: u64::from(u16::from_le_bytes([c, d])),
            },
        }
    }
}
