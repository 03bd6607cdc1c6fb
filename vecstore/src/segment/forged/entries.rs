//! Entries that no batch can have: impossible keys, reasons and payloads.

use super::{forge, mend, push, rewrite, store_of, with};
use crate::format::{rejected, section};
use crate::types::{Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN};

/// An entry with a key that is too long or empty is left out by a repair, which reports it. The file goes to
/// quarantine.
#[test]
fn an_impossible_key_is_reported() {
    for (len, told) in [(MAX_KEY_LEN, false), (MAX_KEY_LEN + 1, true), (0, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _store = store_of(&path, &[&["a"]]);
        let name = forge(&path, 2, |builder| {
            push(builder, &vec![b'k'; len.max(1)]);
            push(builder, b"b");
        });
        if len == 0 {
            // The first key becomes empty; its only byte becomes part of the second key.
            rewrite(&name, section::KEND, 0, &0u64.to_le_bytes());
            let hashes: [u64; 2] = {
                let mut hashes = [b"".as_slice(), b"kb"].map(crate::format::key_hash);
                hashes.sort_unstable();
                hashes
            };
            rewrite(&name, section::HASH, 0, bytemuck::bytes_of(&hashes));
        }
        let faults = crate::care::verify(&path).unwrap().faults;
        assert_eq!(!faults.is_empty(), told, "{len}: {faults:?}");
        if told {
            let (faults, repaired, contents) = mend(&path);
            assert_eq!((faults.len(), &*faults[0].section, &faults[0].path), (1, "KEYS", &name));
            assert!(faults[0].detail.contains(&format!("a key of {len} bytes")), "{}", faults[0].detail);
            let finding = &repaired.findings[0];
            assert_eq!((finding.kept, finding.lost_unnamed), (1, 1), "{finding:#?}");
            assert!(finding.notes.iter().any(|note| note.starts_with("1 entries have keys of no bytes")));
            assert_eq!(contents, with(&[("a", 0.0), (if len == 0 { "kb" } else { "b" }, 5.0)]));
        }
    }
}

/// The reason of a rejected entry must be text. If it is not, the entry counts as lost, and its key may be
/// tried again. Payloads of other entries are not examined.
#[test]
fn a_reason_that_is_not_text_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let name = forge(&path, 2, |builder| {
        builder.push(b"b", Kind::Rejected, 0, &rejected::encode("schlie\u{df}lich", b"\xFF"));
        builder.push(b"c", Kind::Rejected, 0, &rejected::encode("", b""));
        builder.push(b"d", Kind::Empty, 0, b"\xFF");
        builder.push(b"e", Kind::Rejected, 0, b"\x0B\0\0\0schlie\xDFlich");
    });
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &*faults[0].section, &faults[0].path), (1, "PAYL", &name));
    assert_eq!(faults[0].keys, [b"e"]);
    assert_eq!(repaired.lost_keys().collect::<Vec<_>>(), [b"e"]);
    assert_eq!(contents, with(&[("a", 0.0), ("b", -1.0), ("c", -1.0), ("d", -1.0)]));
}

#[test]
fn a_payload_that_is_too_long_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let long = vec![0; MAX_PAYLOAD_LEN + 1];
    forge(&path, 2, |builder| {
        builder.push(b"b", Kind::Empty, 0, &long[1..]);
        builder.push(b"c", Kind::Empty, 0, &long);
    });
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &*faults[0].section, &faults[0].keys), (1, "PEND", &vec![b"c".to_vec()]));
    assert_eq!(repaired.lost_keys().collect::<Vec<_>>(), [b"c"]);
    assert_eq!(contents, with(&[("a", 0.0), ("b", -1.0)]));
}

/// A tombstone has a key and nothing else: a repair leaves its payload out.
#[test]
fn a_tombstone_with_a_payload_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let name = forge(&path, 2, |builder| builder.push(b"b", Kind::Tombstone, 0, b"x"));
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &faults[0].path), (1, &name), "{faults:?}");
    assert_eq!((repaired.findings.len(), repaired.lost_keys().count()), (1, 0), "{repaired:#?}");
    assert_eq!(contents, with(&[("a", 0.0)]));
}
