//! Inputs on their way to being looked up: which chunk each is in, and which chunks are complete.

use std::mem;
use std::path::PathBuf;

use crate::source::Input;

/// Inputs whose keys are looked up together: some chunks, the last of which may still grow.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) inputs: Vec<Input>,
    /// Number, unit and first input of each chunk.
    pub(crate) chunks: Vec<(u64, PathBuf, usize)>,
    /// What the chunks of the last folder are numbered by: its part of the key, and how many there are.
    folder: Vec<u8>,
    in_folder: u64,
}

impl Group {
    /// Adds an input, and says whether it begins a chunk.
    pub(crate) fn push(&mut self, input: Input, chunk: usize, in_order: bool) -> bool {
        let (at, key) = (self.inputs.len(), &input.key[..]);
        let folder = key
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(&[][..], |slash| key.get(..slash).unwrap_or(key));
        let same = !self.chunks.is_empty() && (in_order || self.folder == folder);
        let begun = self.chunks.last().map_or(0, |(_, _, from)| at - from);
        if same && begun < chunk {
            self.inputs.push(input);
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
        self.chunks.push((id, input.unit().to_owned(), at));
        self.inputs.push(input);
        true
    }

    /// Everything but the last chunk, if that one has only begun; or everything.
    pub(crate) fn split(&mut self, begun: bool) -> Group {
        let Some((id, unit, from)) = self.chunks.pop_if(|_| begun) else {
            return mem::take(self);
        };
        let rest = Group {
            inputs: self.inputs.split_off(from),
            chunks: vec![(id, unit, 0)],
            folder: mem::take(&mut self.folder),
            in_folder: self.in_folder,
        };
        mem::replace(self, rest)
    }
}
