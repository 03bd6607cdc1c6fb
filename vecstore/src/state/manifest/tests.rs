//! Tests of the manifest's encoding and of its exact bounds.

use super::*;
use crate::format::{VERSION_MAJOR, VERSION_MINOR};

fn manifest() -> Manifest {
    let segment = |first, last| SegmentRecord {
        first,
        last,
        generation: 0,
        footer_crc: 7,
        file_len: 5120,
        link_out: [first as u8; 16],
        entries: 5,
        rows: 6,
    };
    Manifest {
        generation: 3,
        ro_compat: 0,
        compat: 5,
        time: 1_800_000_000_000,
        body: Body {
            store_id: [1; 16],
            dim: 512,
            dtype: 1,
            metric: 1,
            fingerprint: Some(FingerprintRecord { id: [9; 32], description: "a model".to_owned() }),
            settings: [("root".to_owned(), "/pictures".to_owned())].into(),
            epochs: vec![EpochRecord { id: [2; 16], parent: [0; 16], first: 1 }],
            segments: vec![segment(1, 64), segment(65, 65)],
            ..Body::default()
        },
    }
}

#[test]
fn round_trip_and_every_flipped_bit() {
    let good = manifest();
    let bytes = good.encode().unwrap();
    assert_eq!(Manifest::decode(Path::new("m"), &bytes).unwrap(), good);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::decode(Path::new("m"), &flipped).is_err(), "bit {bit}");
    }
    for cut in 0..bytes.len() {
        assert!(Manifest::decode(Path::new("m"), &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn segments_must_tile() {
    let mut gap = manifest();
    gap.body.segments[1].first = 66;
    gap.body.segments[1].last = 66;
    let error = gap.encode().unwrap_err().to_string();
    assert!(error.contains("do not tile"), "{error}");
}

#[test]
fn bodies_that_take_too_much_memory_are_refused() {
    let long = || "x".repeat(70_000);
    type Change = fn(&mut Body, String);
    let cases: [(&str, Change); 4] = [
        ("segments in", |body, _| {
            let record = |commit| SegmentRecord { first: commit, last: commit, ..body.segments[0] };
            body.segments = (1..=100_000).map(record).collect();
        }),
        ("settings of", |body, long| drop(body.settings.insert(long, String::new()))),
        ("description", |body, long| {
            body.fingerprint = Some(FingerprintRecord { id: [1; 32], description: long });
        }),
        ("named records", |body, _| {
            body.extra = (0..=MAX_EXTRA).map(|number| (number.to_string(), Vec::new())).collect();
        }),
    ];
    for (expected, change) in cases {
        let mut bad = manifest();
        change(&mut bad.body, long());
        let error = bad.encode().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let error = Manifest::decode(Path::new("m"), &vec![0; MAX_LEN as usize + 1]).unwrap_err().to_string();
    assert!(error.contains("at most"), "{error}");
}

/// A value at its bound is written and read again. A value beyond it is refused by writer and reader.
#[test]
fn bounds_of_a_body() {
    type Change = fn(&mut Body);
    let good: [(&str, Change); 4] = [
        ("the smallest dimension", |body| body.dim = 1),
        ("the largest dimension", |body| body.dim = crate::types::MAX_DIM as u32),
        ("as many named records as there may be", |body| {
            body.extra = (0..MAX_EXTRA).map(|number| (number.to_string(), Vec::new())).collect();
        }),
        ("the last commit", |body| body.segments[1].last = MAX_COMMIT),
    ];
    for (what, change) in good {
        let mut manifest = manifest();
        change(&mut manifest.body);
        let bytes = manifest.encode().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(Manifest::decode(Path::new("m"), &bytes).unwrap(), manifest, "{what}");
    }
    let bad: [(&str, Change); 8] = [
        ("dimension", |body| body.dim = 0),
        ("dimension", |body| body.dim = crate::types::MAX_DIM as u32 + 1),
        ("element type", |body| body.dtype = 200),
        ("metric", |body| body.metric = 200),
        ("no epoch", |body| body.epochs.clear()),
        ("do not tile", |body| body.segments[1].last = MAX_COMMIT + 1),
        ("do not tile", |body| body.segments[1].last = 64),
        ("do not tile", |body| body.segments[0].last = 65),
    ];
    for (expected, change) in bad {
        let mut bad = manifest();
        change(&mut bad.body);
        let error = bad.encode().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        let body = bincode::serde::encode_to_vec(&bad.body, config()).unwrap();
        let error = Manifest::decode(Path::new("m"), &sealed(|_| (), &body)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{expected}: {error}");
    }
}

/// Each epoch follows the epoch before it and begins no earlier. The last one begins with the next commit or
/// before.
#[test]
fn epochs_follow_each_other() {
    let decode = |epochs: &[(u8, u8, u64)]| {
        let record = |&(id, parent, first)| EpochRecord { id: [id; 16], parent: [parent; 16], first };
        let mut body = manifest().body;
        body.epochs = epochs.iter().map(record).collect();
        let is_written = Manifest { body: body.clone(), ..manifest() }.encode().is_ok();
        let body = bincode::serde::encode_to_vec(&body, config()).unwrap();
        let read = Manifest::decode(Path::new("m"), &sealed(|_| (), &body));
        assert_eq!(read.is_ok(), is_written, "{epochs:?}");
        read.map(drop)
    };
    for good in [&[(2, 0, 1)][..], &[(2, 0, 1), (3, 2, 66)], &[(2, 0, 1), (3, 2, 1), (4, 3, 1), (5, 4, 65)]] {
        decode(good).unwrap();
    }
    for bad in [
        &[(2, 1, 1)][..],
        &[(2, 0, 0)],
        &[(2, 0, 67)],
        &[(2, 0, 1), (3, 0, 2)],
        &[(2, 0, 1), (3, 2, 67)],
        &[(2, 0, 5), (3, 2, 4)],
        &[(2, 0, 1), (3, 2, 4), (2, 3, 5)],
        &[(2, 0, 1), (2, 2, 4)],
    ] {
        let error = decode(bad).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{bad:?}: {error}");
        assert!(error.to_string().contains("does not follow epoch"), "{bad:?}: {error}");
    }
}

/// Names of settings and of records must be unique and ascending: a body that is read is the body that would
/// be written.
#[test]
fn names_out_of_order_are_refused() {
    let mut manifest = manifest();
    manifest.body.settings = ["sett-a", "sett-b"].map(|name| (name.to_owned(), String::new())).into();
    manifest.body.extra = ["extr-a", "extr-b"].map(|name| (name.to_owned(), Vec::new())).into();
    let body = encode_body(&manifest.body).unwrap();
    let decode = |body: &[u8]| Manifest::decode(Path::new("m"), &sealed(|_| (), body));
    assert_eq!(decode(&body).unwrap(), manifest);
    for names in ["sett-", "extr-"] {
        let last = |name: &str| body.windows(6).position(|bytes| bytes == name.as_bytes()).unwrap() + 5;
        let (a, b) = (last(&format!("{names}a")), last(&format!("{names}b")));
        for (what, new) in [("out of order", b"ba"), ("twice", b"aa")] {
            let mut body = body.clone();
            (body[a], body[b]) = (new[0], new[1]);
            let error = decode(&body).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "{names} {what}: {error}");
            assert!(error.to_string().contains("ascending order"), "{names} {what}: {error}");
        }
    }
}

/// The bytes of a manifest with this body and a changed header. The checksum covers both.
fn sealed(change: impl FnOnce(&mut Header), body: &[u8]) -> Vec<u8> {
    let bytes = manifest().encode().unwrap();
    let mut header: Header = bytemuck::pod_read_unaligned(&bytes[..HEADER_LEN]);
    header.body_len = body.len() as u64;
    change(&mut header);
    header.crc = record_crc(bytemuck::bytes_of(&header), body);
    [bytemuck::bytes_of(&header), body].concat()
}

/// Each changed header has a matching checksum, so that the field itself is checked.
#[test]
fn every_field_of_the_header_counts() {
    let body = bincode::serde::encode_to_vec(&manifest().body, config()).unwrap();
    let decode = |change: fn(&mut Header)| Manifest::decode(Path::new("m"), &sealed(change, &body));
    assert_eq!(decode(|_| ()).unwrap(), manifest());
    let later: [fn(&mut Header); 3] = [
        |header| header.head.version_major += 1,
        |header| header.head.version_major = 0,
        |header| header.head.incompat = 1 << 63,
    ];
    for change in later {
        let error = decode(change).unwrap_err();
        assert!(matches!(error, Error::UnsupportedVersion { .. }), "{error}");
    }
    type Change = fn(&mut Header);
    let damaged: [(&str, Change); 6] = [
        ("magic", |header| header.head.magic[7] = 0),
        ("a body of", |header| header.body_len += 1),
        ("a header of 1 bytes", |header| header.head.len = 1),
        ("reserved", |header| header.head.zeros[6] = 1),
        ("reserved", |header| header.refused[23] = 1),
        ("generation", |header| header.generation = u64::MAX / 2 + 1),
    ];
    for (expected, change) in damaged {
        let error = decode(change).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(decode(|header| header.head.version_minor += 1).unwrap(), manifest(), "later minor versions");
    assert_eq!(decode(|header| header.ignored = [7; 28]).unwrap(), manifest());
    assert_eq!(decode(|header| header.generation = u64::MAX / 2).unwrap().generation, u64::MAX / 2);
    let followed = [body.as_slice(), &[0]].concat();
    let error = Manifest::decode(Path::new("m"), &sealed(|_| (), &followed)).unwrap_err().to_string();
    assert!(error.contains("1 bytes follow"), "{error}");
}

/// Flags of later versions are kept, and the header names the version that wrote the file.
#[test]
fn the_header_names_the_version_that_wrote_it() {
    let manifest = Manifest { ro_compat: 6, ..manifest() };
    let bytes = manifest.encode().unwrap();
    let header: Header = bytemuck::pod_read_unaligned(&bytes[..HEADER_LEN]);
    assert_eq!((header.head.version_major, header.head.version_minor), (VERSION_MAJOR, VERSION_MINOR));
    assert_eq!((header.head.ro_compat, header.head.compat, header.generation), (6, 5, 3));
}

#[test]
fn the_longest_manifest_is_read_again() {
    let mut long = manifest();
    long.body.extra.insert("filling".to_owned(), Vec::new());
    let len = long.encode().unwrap().len();
    long.body.extra.insert("filling".to_owned(), vec![7; MAX_LEN as usize - len]);
    let bytes = long.encode().unwrap();
    assert_eq!(bytes.len() as u64, MAX_LEN);
    assert_eq!(Manifest::decode(Path::new("m"), &bytes).unwrap(), long);
    long.body.extra.insert("filling".to_owned(), vec![7; MAX_LEN as usize - len + 1]);
    let error = long.encode().unwrap_err().to_string();
    assert!(error.contains("the limit is"), "{error}");

    // Lists take more space in memory than in the file.
    let mut many = manifest();
    let record = |commit| SegmentRecord { first: commit, last: commit, ..many.body.segments[0] };
    many.body.segments = (1..=50_000).map(record).collect();
    let bytes = many.encode().unwrap();
    assert_eq!(Manifest::decode(Path::new("m"), &bytes).unwrap(), many);
}

#[test]
fn a_new_epoch_begins_after_the_listed_commits() {
    let mut body = manifest().body;
    body.is_backup = true;
    body.begin_epoch().unwrap();
    assert!(!body.is_backup);
    let [before, after] = body.epochs[..] else { panic!("two epochs") };
    assert_eq!((after.parent, after.first), (before.id, 66));
    assert_ne!(after.id, before.id);
}

#[test]
fn a_file_longer_than_any_manifest_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join(MANIFEST)).unwrap();
    file.set_len(MAX_LEN + 1).unwrap();
    let error = Manifest::read(&crate::vfs::RealFs, dir.path()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}
