//! Inputs on their way to being looked up: which chunk each is in, and which chunks are complete.

use std::path::{Path, PathBuf};
use std::{fs, mem};

use crate::record::Stamp;
use crate::scan::Member;

/// Inputs whose keys are looked up together: some chunks, the last of which may still grow.
#[derive(Default)]
pub(super) struct Group {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) inputs: Vec<Input>,
    /// Number, unit and first input of each chunk.
    pub(super) chunks: Vec<(u64, PathBuf, usize)>,
    /// What the chunks of the last folder are numbered by: its part of the key, and how many there are.
    folder: Vec<u8>,
    in_folder: u64,
}

pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) by_content: bool,
    pub(super) member: Option<Member>,
}

impl Input {
    /// Length and time of the file, or of the part of it. `None` where it cannot be told: then it did not change.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let file = self.member.as_ref().map_or(&self.path, |member| &member.tar);
        let mut stamp = Stamp::of(&fs::metadata(file).ok()?);
        if let Some(member) = &self.member {
            stamp.length = member.length;
        }
        Some(stamp)
    }
}

impl Group {
    /// Says which chunk the next input is in. True when it begins one.
    pub(super) fn push(&mut self, key: &[u8], unit: &Path, chunk: usize, in_order: bool) -> bool {
        let at = self.keys.len();
        let folder = key
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(&[][..], |slash| key.get(..slash).unwrap_or(key));
        let same = !self.chunks.is_empty() && (in_order || self.folder == folder);
        let begun = self.chunks.last().map_or(0, |(_, _, from)| at - from);
        if same && begun < chunk {
            return false;
        }
        if !same {
            self.folder = folder.to_vec();
            self.in_folder = 0;
        }
        let named = if in_order { key } else { folder };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.in_folder.to_le_bytes()).update(named);
        let id = hasher.finalize().as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.in_folder += u64::from(!in_order);
        self.chunks.push((id, unit.to_owned(), at));
        true
    }

    /// Everything but the last chunk, if that one has only begun; or everything.
    pub(super) fn split(&mut self, begun: bool) -> Group {
        let Some((id, unit, from)) = self.chunks.pop_if(|_| begun) else {
            return mem::take(self);
        };
        let rest = Group {
            keys: self.keys.split_off(from),
            inputs: self.inputs.split_off(from),
            chunks: vec![(id, unit, 0)],
            folder: mem::take(&mut self.folder),
            in_folder: self.in_folder,
        };
        mem::replace(self, rest)
    }
}
