//! Makes the golden stores: with the library or, if no version of it writes such a file, by changing bytes as
//! `docs/FORMAT.md` lays them out.

use std::fs;
use std::path::{Path, PathBuf};

use vecstore::{Batch, DType, Fingerprint, Metric, OnDuplicate, Store, StoreConfig, Value};

use crate::common::layout::{
    DERIVED_HEADER, FOOTER, MANIFEST_HEADER, footer_crc, seal_derived, seal_manifest, seal_segment, section,
};
use crate::common::{copy_dir, on_demand};
use crate::folder;

pub const ONE: &str = "segments/0000000001-0000000001.0.npy";
pub const TWO: &str = "segments/0000000002-0000000002.0.npy";

/// Makes a store.
type Make = fn(&Path);
/// Makes a store and changes its files.
type Changed = Box<dyn Fn(&Path)>;

/// Makes the golden stores that do not exist yet.
pub fn all() {
    let open: [(&str, Make); 18] = [
        ("empty", |path| drop(create(path, 2))),
        ("two-commits", two_commits),
        ("kinds", kinds),
        ("f16-dot", |path| element_type(path, DType::F16, Metric::Dot)),
        ("bf16-l2", |path| element_type(path, DType::BF16, Metric::L2)),
        ("i8-cosine", |path| element_type(path, DType::I8, Metric::Cosine)),
        ("merged", merged),
        ("attributes", attributes),
        ("attributes-merged", attributes_merged),
        ("later-attribute", later_attribute),
        ("version", version),
        ("backup", backup),
        ("restored", restored),
        ("lossy", lossy),
        ("filter", filter),
        ("later-minor", later_minor),
        ("later-sections", later_sections),
        ("later-ro-compat", |path| changed_manifest(path, |bytes| bytes[32] = 2)),
    ];
    let refuse: Vec<(&str, Changed)> = vec![
        ("manifest-major", manifest(|bytes| bytes[8] = 2)),
        ("manifest-incompat", manifest(|bytes| bytes[24] = 1)),
        ("manifest-checksum-kind", manifest(|bytes| bytes[16] = 2)),
        ("manifest-reserved", manifest(|bytes| bytes[95] = 1)),
        (
            "manifest-flipped",
            Box::new(|path| {
                two_commits(path);
                change(path, "MANIFEST", |bytes| bytes[150] ^= 1);
            }),
        ),
        ("manifest-settings-twice", manifest(settings_twice)),
        ("manifest-epoch-parent", manifest(|bytes| bytes[MANIFEST_HEADER + 55] = 7)),
        ("segment-major", footer_of(TWO, |footer| footer[484] = 2)),
        ("segment-incompat", footer_of(TWO, |footer| footer[296] = 1)),
        ("segment-checksum-kind", footer_of(TWO, |footer| footer[488] = 2)),
        ("segment-element-type-u8", footer_of(TWO, |footer| footer[136] = 5)),
        ("segment-block-length", footer_of(TWO, |footer| footer[138] = 11)),
        ("segment-reserved", footer_of(TWO, |footer| footer[383] = 1)),
        ("segment-of-another-store", footer_of(TWO, |footer| footer[0] ^= 1)),
        ("segment-of-another-history", footer_of(TWO, |footer| footer[48] ^= 1)),
        (
            "segment-missing",
            Box::new(|path| {
                two_commits(path);
                fs::remove_file(path.join(ONE)).unwrap();
            }),
        ),
        (
            "segment-not-the-listed-one",
            Box::new(|path| {
                two_commits(path);
                change(path, ONE, |bytes| {
                    let at = bytes.len() - FOOTER + 32;
                    bytes[at] ^= 1;
                    seal_segment(bytes);
                });
            }),
        ),
        ("table-codec", line_of("KEYS", |line| line[6] = 1)),
        ("table-flags", line_of("ROWS", |line| line[40] = 1)),
        ("table-name", line_of("NORM", |line| line[0] = b' ')),
        ("table-offset", line_of("KEYS", |line| line[8] += 1)),
        ("table-length", line_of("KEND", |line| (line[16], line[24]) = (line[16] - 8, line[24] - 8))),
        ("runs-descend", table_of("RUNS", |runs| runs[0] = 9)),
        ("key-ends-descend", table_of("KEND", |ends| ends[0] = 200)),
        ("hashes-wrong", table_of("HASH", |hashes| hashes[3] ^= 1)),
        // The kill names an entry that does not exist, so that a key has two live entries.
        ("kill-missing", table_of("KILL", |kill| kill[16] = 9)),
        // The kill names the newest entry of the key.
        ("kill-misdirected", table_of("KILL", |kill| (kill[8], kill[16], kill[24]) = (2, 1, 1))),
        ("kill-of-more-rows", table_of("KILL", |kill| kill[32] = 2)),
        ("lengths-wrong", table_of("NORM", |norms| norms[2] ^= 0x40)),
        ("numpy-header-wrong", table_of("HEAD", |head| head[20] ^= 1)),
        (
            "block-flipped",
            Box::new(|path| {
                two_commits(path);
                let at = section(&path.join(ONE), "ROWS").offset;
                change(path, ONE, |bytes| bytes[at] ^= 1);
            }),
        ),
        ("bitmap-wrong", derived_of("live", |bytes| bytes[DERIVED_HEADER] ^= 3)),
        (
            "bitmap-missing",
            Box::new(|path| {
                kinds(path);
                fs::remove_dir_all(path.join("derived")).unwrap();
            }),
        ),
    ];
    for (name, make) in open {
        make_one("must-open", name, &make);
    }
    for (name, make) in &refuse {
        make_one("must-refuse", name, make);
    }
}

fn make_one(kind: &str, name: &str, make: &dyn Fn(&Path)) {
    let golden = folder(kind).join(name);
    if golden.exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    make(&path);
    fs::create_dir_all(&golden).unwrap();
    let store = golden.join("store.vecs");
    copy_dir(&path, &store);
    // Lock files are left out: their contents are of no use later, and openers make new ones.
    for name in fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()) {
        if name.file_name().unwrap().to_string_lossy().starts_with("LOCK") {
            fs::remove_file(name).unwrap();
        }
    }
}

fn create(path: &Path, dim: usize) -> Store {
    on_demand().create(path, StoreConfig::new(dim)).unwrap()
}

fn append(store: &Store, fill: impl FnOnce(&mut Batch)) {
    let mut batch = store.batch();
    fill(&mut batch);
    store.append(&mut batch, OnDuplicate::Replace).unwrap();
}

/// The store that FORMAT.md shows byte by byte.
pub fn two_commits(path: &Path) {
    let store = create(path, 2);
    append(&store, |batch| batch.push("cat", &[3.0f32, 4.0]).unwrap());
    append(&store, |batch| {
        batch.entry("dog").row(&[0.5f32, -2.0]).payload(b"brown").push().unwrap();
        batch.push("cat", &[0.0f32, 1.0]).unwrap();
    });
    store.close().unwrap();
}

fn kinds(path: &Path) {
    let config = StoreConfig::new(2).setting("root", "/pictures").setting("", "no name");
    let config = config.fingerprint(Fingerprint::new([7; 32], "a model"));
    let store = on_demand().create(path, config).unwrap();
    append(&store, |batch| {
        batch.push("one row", &[1.0f32, 2.0]).unwrap();
        let rows = [[1.0f32, 0.0], [0.0, 1.0], [-0.5, 0.25]];
        batch.entry("three rows").rows(rows).payload(b"\x00\xFFpayload").push().unwrap();
        batch.entry("nothing found").payload(b"stamp").push_empty().unwrap();
        batch.entry("broken").payload(b"stamp").push_rejected("truncated after 1024 bytes").unwrap();
        batch.push_rejected("no reason", "").unwrap();
        batch.push(b"not \xFF text\n", &[0.0f32, 0.0]).unwrap();
        batch.push("to be deleted", &[5.0f32, 6.0]).unwrap();
    });
    append(&store, |batch| {
        batch.delete("to be deleted").unwrap();
        batch.push_empty("one row").unwrap();
        batch.push("broken", &[7.0f32, 8.0]).unwrap();
    });
    store.close().unwrap();
}

fn element_type(path: &Path, dtype: DType, metric: Metric) {
    let store = on_demand().create(path, StoreConfig::new(3).dtype(dtype).metric(metric)).unwrap();
    append(&store, |batch| {
        batch.entry("a").converted(&[127.0, -63.5, 0.0]).converted(&[1.5, 0.25, -2.0]).push().unwrap();
        batch.push_converted("zero", &[0.0; 3]).unwrap();
    });
    store.close().unwrap();
}

/// Every type of attribute, with and without a value, and a column that came with a later commit.
fn attributes(path: &Path) {
    let store = create(path, 1);
    append(&store, |batch| {
        let all = batch.entry("all").row(&[1.0f32]).payload(b"p").attribute("year", 2024);
        let all = all.attribute("place", "Köln").attribute("sharp", true).attribute("weight", 0.25);
        let all = all.attribute("tags", vec!["a", "", "ü"]).attribute("taken", Value::Time(-1));
        all.push().unwrap();
        batch.push("none", &[2.0f32]).unwrap();
        let empty = batch.entry("empty values").attribute("place", "").attribute("tags", Vec::<&str>::new());
        empty.attribute("sharp", false).attribute("year", i64::MIN).push_empty().unwrap();
        batch.entry("rejected").payload(b"q").attribute("year", -1).push_rejected("a reason").unwrap();
    });
    append(&store, |batch| {
        batch.entry("later").row(&[3.0f32]).attribute("rating", 4.5).attribute("year", 7).push().unwrap();
        batch.push("none", &[4.0f32]).unwrap();
    });
    store.close().unwrap();
}

fn attributes_merged(path: &Path) {
    attributes(path);
    let store = on_demand().open(path).unwrap();
    store.compact_full().unwrap();
    store.close().unwrap();
}

/// An attribute of a type that this version does not know.
fn later_attribute(path: &Path) {
    attributes(path);
    let place = section(&path.join(TWO), "ATTR");
    change(path, TWO, |bytes| {
        bytes[place.offset + 8 + 8] = 99;
        seal_segment(bytes);
    });
    list_again(path, TWO);
}

fn merged(path: &Path) {
    kinds(path);
    let store = on_demand().open(path).unwrap();
    append(&store, |batch| batch.push("later", &[9.0f32, 9.5]).unwrap());
    store.compact_full().unwrap();
    append(&store, |batch| batch.delete("later").unwrap());
    store.close().unwrap();
}

fn version(path: &Path) {
    kinds(path);
    let store = on_demand().open(path).unwrap();
    store.create_version("before-2027").unwrap();
    append(&store, |batch| batch.push("three rows", &[1.0f32, 1.0]).unwrap());
    store.close().unwrap();
}

fn backup(path: &Path) {
    let source = path.with_file_name("source");
    kinds(&source);
    on_demand().open(&source).unwrap().backup(path).unwrap();
}

fn restored(path: &Path) {
    let source = path.with_file_name("source");
    two_commits(&source);
    vecstore::restore(&source, path).unwrap();
    let store = on_demand().open(path).unwrap();
    append(&store, |batch| batch.push("in another history", &[1.0f32, 1.0]).unwrap());
    store.close().unwrap();
}

/// The first commit is lost, and a block of the second.
fn lossy(path: &Path) {
    kinds(path);
    let store = on_demand().open(path).unwrap();
    append(&store, |batch| batch.push("after", &[1.0f32, 1.0]).unwrap());
    store.close().unwrap();
    fs::remove_file(path.join(ONE)).unwrap();
    let at = section(&path.join(TWO), "ROWS").offset;
    change(path, TWO, |bytes| bytes[at] ^= 1);
    vecstore::repair(path).unwrap();
    fs::remove_dir_all(path.join("quarantine")).unwrap();
}

/// A key filter, which version 1.0 writes only for many keys.
fn filter(path: &Path) {
    two_commits(path);
    let segment = fs::read(path.join(TWO)).unwrap();
    let hashes = section(&path.join(TWO), "HASH");
    let mut word = 0u64;
    for hash in segment[hashes.offset..][..hashes.len].chunks(8) {
        let hash = u64::from_le_bytes(hash.try_into().unwrap());
        (0..5).for_each(|number| word |= 1 << (hash >> (6 * number) & 63));
    }
    derive(path, *b"KEYF", &[2, 1, 5, 0, 0, 0, 0, 0], &word.to_le_bytes());
}

/// Adds a derived file of the second segment, and lists it.
fn derive(path: &Path, kind: [u8; 4], numbers: &[u64; 8], body: &[u8]) {
    let segment = fs::read(path.join(TWO)).unwrap();
    let footer = &segment[segment.len() - FOOTER..];
    let version = 0x0123_4567_89AB_CDEFu64;
    let mut file = vec![0; DERIVED_HEADER];
    file[..8].copy_from_slice(b"\x89VECDER\n");
    file[8..10].copy_from_slice(&1u16.to_le_bytes());
    file[12..16].copy_from_slice(&(DERIVED_HEADER as u32).to_le_bytes());
    file[16] = 1;
    file[48..64].copy_from_slice(&footer[..16]);
    file[64..68].copy_from_slice(&kind);
    file[68..72].copy_from_slice(&1u32.to_le_bytes());
    file[72..92].copy_from_slice(&footer[112..132]);
    file[92..96].copy_from_slice(&footer_crc(&segment));
    file[96..104].copy_from_slice(&version.to_le_bytes());
    let len = DERIVED_HEADER + body.len() + body.len().div_ceil(4096) * 4;
    file[104..112].copy_from_slice(&(len as u64).to_le_bytes());
    file[112..120].copy_from_slice(&(body.len() as u64).to_le_bytes());
    file[120] = 12;
    numbers.iter().enumerate().for_each(|(at, number)| {
        file[128 + at * 8..136 + at * 8].copy_from_slice(&number.to_le_bytes());
    });
    file.extend_from_slice(body);
    let crc = seal_derived(&mut file);
    let name =
        format!("0000000002-0000000002.0.{version:016x}.{}", String::from_utf8_lossy(&kind).to_lowercase());
    fs::create_dir_all(path.join("derived")).unwrap();
    fs::write(path.join("derived").join(name), &file).unwrap();
    let record = [
        &footer[112..132],
        &kind,
        &footer_crc(&segment),
        &crc,
        &version.to_le_bytes(),
        &(file.len() as u64).to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    change(path, "MANIFEST", |bytes| {
        // The last record of a derived file is followed by: damaged segments (none), not a backup, extra
        // records (none).
        let end = bytes.len() - 17;
        let count = end - 56 * bitmaps_in(bytes) - 8;
        bytes[count] += 1;
        bytes.splice(end..end, record);
        seal_manifest(bytes);
    });
}

fn bitmaps_in(manifest: &[u8]) -> usize {
    manifest.windows(4).filter(|four| four == b"LIVE").count()
}

/// A manifest with a longer header, a segment with a longer footer, and values in bytes that readers ignore.
fn later_minor(path: &Path) {
    two_commits(path);
    change(path, TWO, |bytes| {
        let tail = bytes.split_off(bytes.len() - 32);
        bytes.extend([9; 128]);
        bytes.extend(tail);
        let end = bytes.len();
        let footer = end - FOOTER - 128;
        bytes[end - 32..end - 28].copy_from_slice(&(FOOTER as u32 + 128).to_le_bytes());
        bytes[end - 26] = 7;
        bytes[footer + 400] = 1;
        // Unknown compat flags: one that merges keep (bit 7), and one that they drop (bit 32).
        bytes[footer + 312] = 0x80;
        bytes[footer + 312 + 4] = 1;
        seal_segment(bytes);
    });
    list_again(path, TWO);
    change(path, "MANIFEST", |bytes| {
        let crc = bytes.split_off(MANIFEST_HEADER - 4);
        bytes.extend([5; 64]);
        bytes.extend(crc);
        bytes[10] = 7;
        bytes[12..16].copy_from_slice(&(MANIFEST_HEADER as u32 + 64).to_le_bytes());
        bytes[100] = 1;
        // An extra record of a later version.
        let at = bytes.len() - 8;
        bytes[at] = 1;
        bytes.extend(5u64.to_le_bytes());
        bytes.extend(b"later");
        bytes.extend(2u64.to_le_bytes());
        bytes.extend([1, 2]);
        let header = MANIFEST_HEADER + 64;
        let body = (bytes.len() - header) as u64;
        bytes[56..64].copy_from_slice(&body.to_le_bytes());
        let crc = crc32fast::hash(&[&bytes[..header - 4], &bytes[header..]].concat()).to_le_bytes();
        bytes[header - 4..header].copy_from_slice(&crc);
    });
}

/// Lists a changed segment as it is now; no derived file of it may be listed.
pub fn list_again(path: &Path, name: &str) {
    let segment = fs::read(path.join(name)).unwrap();
    let footer_len = u32::from_le_bytes(segment[segment.len() - 32..][..4].try_into().unwrap()) as usize;
    let footer = &segment[segment.len() - footer_len..];
    change(path, "MANIFEST", |bytes| {
        let name = &footer[112..132];
        let at = bytes.windows(20).position(|window| window == name).unwrap() + 20;
        bytes[at..at + 4].copy_from_slice(&footer_crc(&segment));
        bytes[at + 4..at + 12].copy_from_slice(&(segment.len() as u64).to_le_bytes());
        seal_manifest(bytes);
    });
}

/// Unknown sections: one of each merge rule, with gaps between them, a page-aligned one, a packed one, and
/// larger blocks; and a derived file of an unknown kind.
fn later_sections(path: &Path) {
    two_commits(path);
    add_sections(path, TWO, [2, 2]);
    list_again(path, TWO);
    derive(path, *b"NEXT", &[0; 8], &[7; 24]);
}

/// Adds unknown sections to a segment that has `entries` entries and `rows` rows.
pub fn add_sections(path: &Path, name: &str, [entries, rows]: [usize; 2]) {
    change(path, name, |bytes| {
        let end = bytes.len();
        let footer = bytes[end - FOOTER..].to_vec();
        let number = |at: usize| u64::from_le_bytes(footer[at..at + 8].try_into().unwrap()) as usize;
        let table = number(240);
        let mut lines: Vec<Vec<u8>> = bytes[table..end - FOOTER].chunks(64).map(<[u8]>::to_vec).collect();
        let crcs = lines.pop().unwrap();
        let last = lines.last().unwrap();
        let at = |line: &[u8], at: usize| u64::from_le_bytes(line[at..at + 8].try_into().unwrap()) as usize;
        bytes.truncate(at(last, 8) + at(last, 16));
        // Blocks of 1 MiB: each section, old or new, has one block.
        let mut block = lines.len() as u32;
        for (number, line) in lines.iter_mut().enumerate() {
            line[36..40].copy_from_slice(&(number as u32).to_le_bytes());
        }
        type New<'a> = (&'a [u8; 4], u8, u8, u8, u8, &'a [u8]);
        let new: [New<'_>; 5] = [
            (b"DROP", 0, 0, 0, 6, b"to be left out by merges"),
            (b"NOTE", 1, 0, 0, 12, b"about the file"),
            (b"enum", 1, 1, 0, 6, &[1, 2, 3, 4][..entries * 2]),
            (b"BOXX", 1, 2, 0, 7, &[9; 16][..rows * 8]),
            (b"PACK", 0, 0, 3, 6, b"packed"),
        ];
        for (tag, merge, unit, codec, align, content) in new {
            let offset = (bytes.len() + 200).next_multiple_of(1 << align);
            bytes.resize(offset, 0);
            bytes.extend_from_slice(content);
            let mut line = vec![0; 64];
            line[..4].copy_from_slice(tag);
            line[4..8].copy_from_slice(&[merge, unit, codec, align]);
            line[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            line[16..24].copy_from_slice(&(content.len() as u64).to_le_bytes());
            let raw = if codec == 0 { content.len() as u64 } else { 99 };
            line[24..32].copy_from_slice(&raw.to_le_bytes());
            line[36..40].copy_from_slice(&block.to_le_bytes());
            line[50] = 1;
            block += 1;
            lines.push(line);
        }
        let offset = bytes.len().next_multiple_of(64);
        let mut crcs = crcs;
        crcs[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
        for at in [16, 24] {
            crcs[at..at + 8].copy_from_slice(&u64::from(block * 4).to_le_bytes());
        }
        lines.push(crcs);
        bytes.resize((offset + block as usize * 4).next_multiple_of(64), 0);
        let table = bytes.len() as u64;
        let mut footer = footer;
        footer[138] = 20;
        footer[140..144].copy_from_slice(&(lines.len() as u32).to_le_bytes());
        footer[240..248].copy_from_slice(&table.to_le_bytes());
        bytes.extend(lines.concat());
        bytes.extend(footer);
        seal_segment(bytes);
    });
}

/// Changes a file of a store.
fn change(path: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let file: PathBuf = path.join(name);
    let mut bytes = fs::read(&file).unwrap();
    change(&mut bytes);
    // The old file is not overwritten, because a handle may have it mapped.
    fs::remove_file(&file).unwrap();
    fs::write(file, bytes).unwrap();
}

fn changed_manifest(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    two_commits(path);
    change(path, "MANIFEST", |bytes| {
        how(bytes);
        seal_manifest(bytes);
    });
}

fn manifest(how: fn(&mut Vec<u8>)) -> Changed {
    Box::new(move |path| changed_manifest(path, how))
}

/// Gives a manifest without settings one setting, twice.
fn settings_twice(bytes: &mut Vec<u8>) {
    // Store id, dim, element type, metric and no fingerprint come before the number of settings.
    let at = MANIFEST_HEADER + 16 + 4 + 1 + 1 + 1;
    bytes[at] = 2;
    let setting = [&1u64.to_le_bytes()[..], b"a", &1u64.to_le_bytes(), b"b"].concat();
    bytes.splice(at + 8..at + 8, [&setting[..], &setting].concat());
}

/// Changes the footer of a segment and corrects the checksums. The manifest ends with the first commit.
fn footer_of(name: &'static str, how: fn(&mut [u8])) -> Changed {
    Box::new(move |path| {
        unlisted(path);
        change(path, name, |bytes| {
            let at = bytes.len() - FOOTER;
            how(&mut bytes[at..]);
            seal_segment(bytes);
        });
    })
}

/// Two commits, of which the second is not in the manifest.
fn unlisted(path: &Path) {
    let store = create(path, 2);
    append(&store, |batch| batch.push("cat", &[3.0f32, 4.0]).unwrap());
    store.checkpoint().unwrap();
    append(&store, |batch| {
        batch.entry("dog").row(&[0.5f32, -2.0]).payload(b"brown").push().unwrap();
        batch.push("cat", &[0.0f32, 1.0]).unwrap();
    });
    let before = path.with_file_name("before");
    copy_dir(path, &before);
    drop(store);
    fs::remove_dir_all(path).unwrap();
    fs::rename(before, path).unwrap();
}

fn line_of(name: &'static str, how: fn(&mut [u8])) -> Changed {
    Box::new(move |path| {
        unlisted(path);
        change(path, TWO, |bytes| {
            let footer = bytes.len() - FOOTER;
            let table = u64::from_le_bytes(bytes[footer + 240..footer + 248].try_into().unwrap()) as usize;
            let lines = (table..footer).step_by(64);
            let line = lines.into_iter().find(|at| &bytes[*at..at + 4] == name.as_bytes()).unwrap();
            how(&mut bytes[line..line + 64]);
            let crc = crc32fast::hash(&bytes[table..footer]).to_le_bytes();
            bytes[footer + 248..footer + 252].copy_from_slice(&crc);
            let end = bytes.len();
            let crc = crc32fast::hash(&bytes[footer..end - 4]).to_le_bytes();
            bytes[end - 4..].copy_from_slice(&crc);
        });
    })
}

fn table_of(name: &'static str, how: fn(&mut [u8])) -> Changed {
    Box::new(move |path| {
        unlisted(path);
        let place = section(&path.join(TWO), name);
        change(path, TWO, |bytes| {
            how(&mut bytes[place.offset..place.offset + place.len]);
            seal_segment(bytes);
        });
    })
}

/// Changes a derived file of this kind, corrects its checksums, and lists the result.
fn derived_of(kind: &'static str, how: fn(&mut Vec<u8>)) -> Changed {
    Box::new(move |path| {
        kinds(path);
        let mut names = fs::read_dir(path.join("derived")).unwrap().map(|entry| entry.unwrap().path());
        let file = names.find(|name| name.extension().is_some_and(|extension| extension == kind)).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        let old = bytes[DERIVED_HEADER - 4..DERIVED_HEADER].to_vec();
        how(&mut bytes);
        let new = seal_derived(&mut bytes);
        fs::write(&file, bytes).unwrap();
        change(path, "MANIFEST", |manifest| {
            let at = manifest.windows(4).rposition(|four| four == old).unwrap();
            manifest[at..at + 4].copy_from_slice(&new);
            seal_manifest(manifest);
        });
    })
}
