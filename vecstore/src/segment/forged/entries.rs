//! Entries that no batch could have: keys, reasons and payloads.

use super::{forge, mend, push, rewrite, store_of, with};
use crate::format::{rejected, section};
use crate::types::{Kind, MAX_KEY_LEN, MAX_PAYLOAD_LEN};

/// A key that is too long, or empty: its entry is left out, which the report says; the file is in quarantine.
#[test]
fn a_key_that_no_entry_may_have_is_told() {
    for (len, told) in [(MAX_KEY_LEN, false), (MAX_KEY_LEN + 1, true), (0, true)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _store = store_of(&path, &[&["a"]]);
        let name = forge(&path, 2, |builder| {
            push(builder, &vec![b'k'; len.max(1)]);
            push(builder, b"b");
        });
        if len == 0 {
            // The only byte of the first key is the second's.
            rewrite(&name, section::KEND, 0, &0u64.to_le_bytes());
            let hashes: [u64; 2] = {
                let mut hashes = [b"".as_slice(), b"kb"].map(crate::format::key_hash);
                hashes.sort_unstable();
                hashes
            };
            rewrite(&name, section::HASH, 0, bytemuck::bytes_of(&hashes));
        }
        let faults = crate::care::verify(&path, |_| {}).unwrap().faults;
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

/// The reason of a rejected entry is text; else it counts as lost, and the key may be tried again. What other entries have
/// as payload is nothing to look into.
#[test]
fn a_reason_that_is_no_text_is_told() {
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
fn a_payload_that_is_too_long_is_told() {
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

/// A deletion has a key and nothing else; what it has is left out.
#[test]
fn a_deletion_with_a_payload_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let name = forge(&path, 2, |builder| builder.push(b"b", Kind::Tombstone, 0, b"x"));
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &faults[0].path), (1, &name), "{faults:?}");
    assert_eq!((repaired.findings.len(), repaired.lost_keys().count()), (1, 0), "{repaired:#?}");
    assert_eq!(contents, with(&[("a", 0.0)]));
}
