//! The states that a power cut may leave.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;

use super::{Ino, Node, Op};

/// Pseudorandom numbers, the same for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// The fate of an unflushed change in a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Whole,
    /// Of a rename, only the new name is durable: the file has both names.
    BothNames,
    /// Of a write, only the length is durable: the bytes are zero.
    Zeros,
    /// Of a write, only this many bytes at its beginning are durable.
    Torn(usize),
    /// Of a write, only the 512-byte sectors whose bits are set are durable: the others are zero.
    Sectors(u64),
}

/// Fates of unflushed changes, by number of the change.
pub type Fates = BTreeMap<usize, Fate>;

/// The recorded changes of a disk.
#[derive(Debug)]
pub struct History {
    base: Vec<Node>,
    kinds: Vec<bool>,
    pub log: Vec<Op>,
    lock_files: HashSet<Ino>,
}

/// Applies a change to a tree.
pub fn apply(nodes: &mut [Node], op: &Op) {
    match op {
        Op::Write { ino, offset, data } => write(nodes, *ino, *offset, data),
        Op::Add { dir, name, ino } => {
            names(nodes, *dir).insert(name.clone(), *ino);
        }
        Op::Remove { dir, name } => {
            names(nodes, *dir).remove(name);
        }
        Op::Rename { dir, from, to, ino } => {
            let names = names(nodes, *dir);
            names.remove(from);
            names.insert(to.clone(), *ino);
        }
        Op::Rot { dir, name, now: Some((ino, bytes)) } => {
            names(nodes, *dir).insert(name.clone(), *ino);
            nodes[*ino] = Node::File(Arc::clone(bytes));
        }
        Op::Rot { dir, name, now: None } => drop(names(nodes, *dir).remove(name)),
        Op::Flush { .. } | Op::FlushDir { .. } => {}
    }
}

fn names(nodes: &mut [Node], dir: Ino) -> &mut BTreeMap<std::ffi::OsString, Ino> {
    match &mut nodes[dir] {
        Node::Dir(names) => names,
        Node::File(_) => panic!("{dir} is a file"),
    }
}

fn write(nodes: &mut [Node], ino: Ino, offset: usize, data: &Arc<Vec<u8>>) {
    let Node::File(bytes) = &mut nodes[ino] else { panic!("{ino} is a directory") };
    if offset == 0 && bytes.len() <= data.len() {
        *bytes = Arc::clone(data);
        return;
    }
    let bytes = Arc::make_mut(bytes);
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

impl History {
    pub fn new(base: Vec<Node>, now: &[Node], log: Vec<Op>, lock_files: HashSet<Ino>) -> Self {
        let kinds = now.iter().map(|node| matches!(node, Node::Dir(_))).collect();
        History { base, kinds, log, lock_files }
    }

    /// Numbers of the changes among the first `prefix` that no successful flush has made durable. A failed
    /// flush marks pages and names as clean, so that a later flush does not write them.
    pub fn unsynced(&self, prefix: usize) -> Vec<usize> {
        let mut open: HashMap<Ino, Vec<usize>> = HashMap::new();
        let mut given_up: Vec<usize> = Vec::new();
        for (number, op) in self.log[..prefix].iter().enumerate() {
            match op {
                Op::Write { ino, .. } if self.lock_files.contains(ino) => {}
                Op::Write { ino, .. } => open.entry(*ino).or_default().push(number),
                Op::Add { dir, .. } | Op::Remove { dir, .. } | Op::Rename { dir, .. } => {
                    open.entry(*dir).or_default().push(number);
                }
                Op::Flush { ino, ok } | Op::FlushDir { dir: ino, ok } => {
                    let changes = open.remove(ino).unwrap_or_default();
                    if !ok {
                        given_up.extend(changes);
                    }
                }
                Op::Rot { .. } => {}
            }
        }
        given_up.extend(open.into_values().flatten());
        given_up.sort_unstable();
        given_up
    }

    fn possible(&self, number: usize, rng: &mut Rng) -> Vec<Fate> {
        let mut fates = vec![Fate::Lost, Fate::Whole];
        match &self.log[number] {
            // A directory never has two names.
            Op::Rename { ino, .. } if !self.kinds[*ino] => fates.push(Fate::BothNames),
            Op::Write { data, .. } => {
                fates.push(Fate::Zeros);
                fates.extend([1, 512, 4096].into_iter().filter(|n| *n < data.len()).map(Fate::Torn));
                fates.push(Fate::Sectors(rng.next()));
            }
            _ => {}
        }
        fates
    }

    /// Fates to try after the first `prefix` changes: every combination if there are at most `limit`;
    /// otherwise all lost, all whole, each alone lost, each alone whole, and random ones up to the limit.
    pub fn fates(&self, prefix: usize, limit: usize, rng: &mut Rng) -> Vec<Fates> {
        let unsynced = self.unsynced(prefix);
        let possible: Vec<Vec<Fate>> = unsynced.iter().map(|number| self.possible(*number, rng)).collect();
        let all = possible.iter().try_fold(1usize, |product, fates| product.checked_mul(fates.len()));
        let with = |chosen: &mut dyn FnMut(usize) -> Fate| -> Fates {
            unsynced.iter().enumerate().map(|(at, number)| (*number, chosen(at))).collect()
        };
        if let Some(all) = all.filter(|all| *all <= limit) {
            return (0..all)
                .map(|mut code| {
                    with(&mut |at| {
                        let fate = possible[at][code % possible[at].len()];
                        code /= possible[at].len();
                        fate
                    })
                })
                .collect();
        }
        let mut fates = vec![with(&mut |_| Fate::Lost), with(&mut |_| Fate::Whole)];
        for alone in 0..unsynced.len() {
            fates.push(with(&mut |at| if at == alone { Fate::Lost } else { Fate::Whole }));
            fates.push(with(&mut |at| if at == alone { Fate::Whole } else { Fate::Lost }));
        }
        fates.truncate(limit);
        while fates.len() < limit {
            fates.push(with(&mut |at| possible[at][rng.below(possible[at].len())]));
        }
        fates
    }

    /// The image of the disk after a power cut that follows the first `prefix` changes. Lock files are
    /// written in place and never flushed: each has an old record, the newest, a part of it, or garbage.
    pub fn image(&self, prefix: usize, fates: &Fates, rng: &mut Rng) -> Vec<Node> {
        let mut nodes = self.base.clone();
        nodes.extend(self.kinds[self.base.len()..].iter().map(|is_dir| match is_dir {
            true => Node::Dir(BTreeMap::new()),
            false => Node::File(Arc::default()),
        }));
        let mut records: BTreeMap<Ino, Vec<&Arc<Vec<u8>>>> = BTreeMap::new();
        for (number, op) in self.log[..prefix].iter().enumerate() {
            match (fates.get(&number), op) {
                (_, Op::Write { ino, data, .. }) if self.lock_files.contains(ino) => {
                    records.entry(*ino).or_default().push(data);
                }
                (None | Some(Fate::Whole), op) => apply(&mut nodes, op),
                (Some(Fate::Lost), _) => {}
                (Some(Fate::BothNames), Op::Rename { dir, to, ino, .. }) => {
                    names(&mut nodes, *dir).insert(to.clone(), *ino);
                }
                (Some(fate), Op::Write { ino, offset, data }) => {
                    write(&mut nodes, *ino, *offset, &Arc::new(damaged(data, *fate)));
                }
                (Some(fate), op) => panic!("{fate:?} makes no sense for {op:?}"),
            }
        }
        for (ino, written) in records {
            let newest = written[written.len() - 1];
            let record = match rng.below(5) {
                0 => continue,
                1 => newest.to_vec(),
                2 => written[rng.below(written.len())].to_vec(),
                3 => newest[..rng.below(newest.len())].to_vec(),
                _ => newest.iter().map(|byte| byte ^ rng.next() as u8).collect(),
            };
            nodes[ino] = Node::File(Arc::new(record));
        }
        nodes
    }
}

impl History {
    /// The last changes before a crash and their fates, for a message.
    pub fn tell(&self, prefix: usize, fates: &Fates) -> String {
        let first = prefix.saturating_sub(24);
        let lines = self.log[first..prefix].iter().enumerate().map(|(number, op)| {
            let mut op = format!("{op:?}");
            if let Some(cut) = op.find(", data: ").or(op.find(", now: ")) {
                op.truncate(cut);
            }
            let fate = fates.get(&(first + number)).map_or(String::new(), |fate| format!("   <- {fate:?}"));
            format!("  {:4} {op}{fate}\n", first + number)
        });
        lines.collect()
    }
}

fn damaged(data: &[u8], fate: Fate) -> Vec<u8> {
    match fate {
        Fate::Zeros => vec![0; data.len()],
        Fate::Torn(len) => data[..len].to_vec(),
        Fate::Sectors(bits) => {
            let mut bytes = data.to_vec();
            for (number, sector) in bytes.chunks_mut(512).enumerate() {
                if bits >> (number % 64) & 1 == 0 {
                    sector.fill(0);
                }
            }
            bytes
        }
        Fate::Lost | Fate::Whole | Fate::BothNames => data.to_vec(),
    }
}

/// Hash of a tree's names and bytes, lock files excepted. No CRC, because the CRC over bytes that end in
/// their own CRC is always the same.
pub fn digest(nodes: &[Node]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325;
    digest_of(nodes, 0, &mut hash);
    hash
}

fn digest_of(nodes: &[Node], at: Ino, hash: &mut u64) {
    let Node::Dir(names) = &nodes[at] else { return };
    for (name, ino) in names {
        mix_bytes(hash, OsStr::as_encoded_bytes(name));
        match &nodes[*ino] {
            Node::File(_) if name.to_string_lossy().starts_with("LOCK") => {}
            Node::File(bytes) => mix_bytes(hash, bytes),
            Node::Dir(_) => digest_of(nodes, *ino, hash),
        }
    }
    mix(hash, u64::MAX);
}

fn mix_bytes(hash: &mut u64, bytes: &[u8]) {
    mix(hash, bytes.len() as u64);
    for word in bytes.chunks(8) {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        mix(hash, u64::from_le_bytes(padded));
    }
}

fn mix(hash: &mut u64, word: u64) {
    *hash = (*hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
}
