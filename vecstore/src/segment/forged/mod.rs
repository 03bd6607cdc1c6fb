//! Forged segments: every checksum is right, and the content is wrong. Each fault is reported, and repaired
//! as far as possible.

#[cfg(test)]
mod entries;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod liveness;
#[cfg(test)]
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::SegmentBuilder;
use crate::base::DType;
use crate::care::{Fault, RepairOptions, RepairReport};
use crate::format::footer::{Footer, Layout};
use crate::format::section;
use crate::handle::{MergePolicy, OpenOptions, Store};
use crate::state::{Totals, load};
use crate::types::{Kind, OnDuplicate, StoreConfig};
use crate::vfs::{RealFs, VfsFile};

struct Memory(Vec<u8>);

impl VfsFile for Memory {
    fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A store with one commit for each of `commits`, which put keys with one row each.
fn store_of(path: &Path, commits: &[&[&str]]) -> Store {
    let store =
        OpenOptions::new().merge_policy(MergePolicy::OnDemand).create(path, StoreConfig::new(2)).unwrap();
    for (number, keys) in commits.iter().enumerate() {
        let mut batch = store.batch();
        keys.iter().for_each(|key| batch.push(key, &[number as f32, 2.0]).unwrap());
        store.append(&mut batch, OnDuplicate::Replace).unwrap();
    }
    store
}

/// Writes a file for a commit of the store, in place of the existing file or after the last one; returns its
/// path.
fn forge<'a>(path: &Path, commit: u64, build: impl FnOnce(&mut SegmentBuilder<'a>)) -> PathBuf {
    forge_as(path, commit..=commit, |_, _| (), build)
}

/// As [`forge`], for several commits, with a changed footer or changed settings. The run of the first commit
/// has begun.
fn forge_as<'a>(
    path: &Path,
    commits: RangeInclusive<u64>,
    change: impl FnOnce(&mut Footer, &mut Vec<u8>),
    build: impl FnOnce(&mut SegmentBuilder<'a>),
) -> PathBuf {
    let view = load::load(&RealFs, path, None).unwrap();
    let there = |commit| view.segment_of(commit).map(|live| *live.segment.footer());
    let last = view.segments.last().unwrap().segment.footer();
    let mut identity = Footer::empty();
    (identity.store_id, identity.epoch) = (last.store_id, last.epoch);
    (identity.first, identity.last) = (*commits.start(), *commits.end());
    identity.link_in = there(identity.first).map_or(last.link_out, |footer| footer.link_in);
    identity.link_out = there(identity.last).map_or([7; 16], |footer| footer.link_out);
    (identity.dim, identity.dtype, identity.metric) = (last.dim, last.dtype, last.metric);
    let mut settings = crate::format::settings::encode(&BTreeMap::new()).unwrap();
    change(&mut identity, &mut settings);
    let mut builder = SegmentBuilder::new(0);
    builder.begin_run(identity.first, 0, 0);
    build(&mut builder);
    let encoded = builder.finish(identity, DType::F32, settings).unwrap();
    let mut file = Memory(Vec::new());
    let name = path.join(load::SEGMENTS).join(encoded.name().to_string());
    encoded.write(&mut file).unwrap();
    put(&name, &file.0);
    name
}

/// Removes the old file instead of overwriting it, because it may be mapped.
fn put(name: &Path, bytes: &[u8]) {
    let _ = std::fs::remove_file(name);
    std::fs::write(name, bytes).unwrap();
}

/// Adds an entry with one row.
fn push(builder: &mut SegmentBuilder<'_>, key: &[u8]) {
    const ROW: [u8; 8] = [0, 0, 0xA0, 0x40, 0, 0, 0, 0x40];
    builder.push(key, Kind::Rows, 1, b"");
    builder.add_rows(&ROW, &[]);
}

fn flip_bit(name: &Path, at: u64) {
    let mut bytes = std::fs::read(name).unwrap();
    bytes[at as usize] ^= 1;
    put(name, &bytes);
}

fn layout_in(bytes: &[u8]) -> Layout {
    Layout::parse(Path::new("x"), bytes).unwrap()
}

/// Replaces the end of a file, with right checksums. The section table may have another length.
fn put_end(bytes: &mut Vec<u8>, mut layout: Layout) {
    bytes.truncate(layout.footer.table_at as usize);
    let table: &[u8] = bytemuck::cast_slice(&layout.sections);
    bytes.extend_from_slice(table);
    layout.footer.section_count = layout.sections.len() as u32;
    layout.footer.table_crc = crc32fast::hash(table);
    layout.footer.file_len = (bytes.len() + layout.footer.bytes().len()) as u64;
    layout.footer.seal();
    bytes.extend_from_slice(layout.footer.bytes());
}

fn section_at(name: &Path, tag: section::Tag) -> u64 {
    let layout = layout_in(&std::fs::read(name).unwrap());
    layout.sections.iter().find(|line| line.tag == tag).unwrap().offset
}

/// Keys and first values of a repaired store. Checks that the store is whole, and that a full merge changes
/// nothing.
fn contents(path: &Path) -> Vec<(String, f32)> {
    let read = |store: &Store| -> Vec<(String, f32)> {
        let snapshot = store.snapshot();
        let entry = |entry: crate::read::Entry<'_>| {
            let key = String::from_utf8(entry.key().to_vec()).unwrap();
            assert_eq!(
                snapshot.get(&key).unwrap().unwrap().address(),
                entry.address(),
                "{key} is there twice"
            );
            (key, entry.to_f32().unwrap().first().copied().unwrap_or(-1.0))
        };
        let all: Vec<_> = snapshot.iter().map(|found| entry(found.unwrap())).collect();
        let Totals { entries, with_rows, empty, rejected, .. } = snapshot.totals();
        assert_eq!([entries, with_rows + empty + rejected], [all.len() as u64; 2]);
        all
    };
    assert!(crate::care::verify(path).unwrap().is_whole());
    let store = OpenOptions::new().merge_policy(MergePolicy::OnDemand).open(path).unwrap();
    let before = read(&store);
    store.compact_full().unwrap();
    assert_eq!(read(&store), before);
    assert!(crate::care::verify(path).unwrap().is_whole());
    before
}

/// Repairs a store that is not whole, and checks that it is whole then and stays so. Returns the faults that
/// `verify` reported, the repair's report and the contents.
fn mend(path: &Path) -> (Vec<Fault>, RepairReport, Vec<(String, f32)>) {
    let faults = crate::care::verify(path).unwrap().faults;
    assert_ne!(faults, []);
    let planned = crate::care::repair_with(path, RepairOptions::new().dry_run(true)).unwrap();
    let repaired = crate::care::repair(path).unwrap();
    let told = |report: &RepairReport| -> Vec<_> {
        report.findings.iter().map(|found| (found.path.clone(), found.problem.clone(), found.kept)).collect()
    };
    assert_eq!(told(&planned), told(&repaired));
    let contents = contents(path);
    assert!(crate::care::repair(path).unwrap().was_whole());
    assert_eq!(crate::care::verify(path).unwrap().notes, [] as [&str; 0]);
    (faults, repaired, contents)
}

/// Expected contents: keys and first values, which are 5.0 for entries of [`push`], else the commit's number
/// from 0.
fn with(entries: &[(&str, f32)]) -> Vec<(String, f32)> {
    entries.iter().map(|(key, first)| ((*key).to_owned(), *first)).collect()
}

/// Changes the end of a file and makes its checksums right.
fn seal(name: &Path, change: impl FnOnce(&mut Layout)) {
    let mut bytes = std::fs::read(name).unwrap();
    let mut layout = layout_in(&bytes);
    change(&mut layout);
    put_end(&mut bytes, layout);
    put(name, &bytes);
}

/// Overwrites bytes of a table that has one block, and makes all checksums right again.
fn rewrite(name: &Path, tag: section::Tag, at: usize, value: &[u8]) {
    let mut bytes = std::fs::read(name).unwrap();
    let sections = layout_in(&bytes).sections;
    let number = |tag| sections.iter().position(|line| line.tag == tag).unwrap();
    let (line, table) = (number(tag), number(section::CRCS));
    let range = |line: &section::Section| line.offset as usize..(line.offset + line.len) as usize;
    let place = sections[line].offset as usize + at;
    bytes[place..place + value.len()].copy_from_slice(value);
    let crc = crc32fast::hash(&bytes[range(&sections[line])]);
    let block = range(&sections[table]).start + sections[line].first_block as usize * 4;
    bytes[block..block + 4].copy_from_slice(&crc.to_le_bytes());
    let table_crc = crc32fast::hash(&bytes[range(&sections[table])]);
    put(name, &bytes);
    seal(name, |layout| {
        layout.sections[line].crc = crate::format::blocks::section_crc(&[crc]);
        layout.sections[table].crc = table_crc;
    });
}
