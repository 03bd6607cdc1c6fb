//! Kills that contradict the entries that they name, or that are out of order.

use super::{
    Memory, contents, flip_bit, forge, forge_as, layout_in, mend, push, rewrite, section_at, store_of, with,
};
use crate::base::DType;
use crate::care::Fault;
use crate::format::records::Kill;
use crate::format::section;
use crate::segment::{Joined, Segment, SegmentName};
use crate::state::load;
use crate::types::Kind;
use crate::vfs::{Mapping, RealFs};

/// A kill of the first entry of the first commit.
pub(super) const KILL: Kill =
    Kill { killer: 2, commit: 1, entry: 0, row: 0, rows: 1, kind: 0, padding: [0; 3] };

/// The faults that `verify` reports of a store whose second commit deletes the one entry of the first, with a
/// changed kill. Checks that a repair makes the store whole and that the deleted entry stays deleted.
fn faults_of_a_kill(change: impl FnOnce(&mut Kill)) -> Vec<Fault> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    let mut kill = KILL;
    change(&mut kill);
    let name = forge(&path, 2, |builder| {
        builder.push(b"a", Kind::Tombstone, 0, b"");
        builder.kill(kill);
    });
    let report = crate::care::verify(&path).unwrap();
    assert_eq!(report.last_commit, 2);
    assert!(report.faults.iter().all(|fault| fault.path == name), "{:?}", report.faults);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!(repaired.was_whole(), report.is_whole());
    if let Some(finding) = repaired.findings.first() {
        assert_eq!((&finding.path, finding.kept), (&name, 1));
        assert_eq!(finding.problem, format!("section KILL: {}", report.faults[0].detail));
        assert_eq!(contents(&path), [], "its kill was found again");
    }
    report.faults
}

#[test]
fn a_kill_that_contradicts_its_entry_is_reported() {
    assert_eq!(faults_of_a_kill(|_| ()), []);
    type Change = fn(&mut Kill);
    let wrong: [(&str, Change); 4] = [
        ("more rows", |kill| kill.rows = 2),
        ("no rows", |kill| kill.rows = 0),
        ("another kind", |kill| kill.kind = 1),
        ("another row", |kill| kill.row = 1),
    ];
    for (what, change) in wrong {
        let faults = faults_of_a_kill(change);
        assert_eq!(faults.len(), 1, "{what}: {faults:?}");
        assert_eq!(faults[0].section, "KILL", "{what}");
        let detail = &faults[0].detail;
        assert!(detail.contains("does not agree with entry 0 of commit"), "{what}: {detail}");
    }
    let wrong: [(&str, Change); 4] = [
        ("a commit to come", |kill| kill.commit = 3),
        ("no commit", |kill| kill.commit = 0),
        ("a killer of another file", |kill| kill.killer = 1),
        ("padding", |kill| kill.padding[2] = 1),
    ];
    for (what, change) in wrong {
        let faults = faults_of_a_kill(change);
        assert_eq!(faults.len(), 1, "{what}: {faults:?}");
        let detail = &faults[0].detail;
        assert!(detail.contains("kills an entry of commit"), "{what}: {detail}");
    }
}

#[test]
fn unsorted_kills_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a", "b"]]);
    let name = forge(&path, 2, |builder| {
        builder.kill(Kill { entry: 1, row: 1, ..KILL });
        builder.kill(KILL);
        push(builder, b"b");
        push(builder, b"a");
    });
    assert!(crate::care::verify(&path).unwrap().is_whole(), "a writer sorts them");
    for (kill, number) in [(0, 1u64), (1, 0)] {
        // The numbers of the entry and of its row.
        let both = [number.to_le_bytes(), number.to_le_bytes()].concat();
        rewrite(&name, section::KILL, kill * size_of::<Kill>() + 16, &both);
    }
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), &*faults[0].section, &faults[0].path), (1, "KILL", &name));
    assert!(faults[0].detail.contains("do not ascend"), "{}", faults[0].detail);
    assert_eq!(repaired.findings.len(), 1);
    assert_eq!(contents, with(&[("b", 5.0), ("a", 5.0)]));
}

/// A merge keeps the kills of entries that are older than its inputs. Each input has them sorted, and so has
/// the output.
#[test]
fn a_merge_sorts_the_kills_of_all_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a", "b", "c", "d"], &["c", "b"], &["d", "a", "c"]]);
    let view = load::load(&RealFs, &path, None).unwrap();
    let inputs = view.segments[1..].iter().map(|live| &*live.segment);
    let joined = Joined::new(inputs, 2, |_, _| Ok(true)).unwrap();
    let mut identity = view.segments[2].segment.footer().identity();
    identity.first = 2;
    let mut file = Memory(Vec::new());
    joined.lay_out(identity, DType::F32, Vec::new()).unwrap().write(&mut file).unwrap();
    let name = SegmentName { first: 2, last: 3, generation: 0 };
    let output = Segment::from_mapping(&path, name, Mapping::copied(&file.0).unwrap()).unwrap();
    let named: Vec<_> = output.kills().iter().map(Kill::victim).collect();
    assert_eq!(named, [(1, 0), (1, 1), (1, 2), (1, 3)]);
}

/// A commit kills an entry of the next commit, in the same file.
#[test]
fn a_kill_of_a_later_entry_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"]]);
    forge_as(
        &path,
        2..=3,
        |_, _| (),
        |builder| {
            push(builder, b"b");
            builder.begin_run(3, 0, 0);
            push(builder, b"c");
            builder.kill(Kill { commit: 3, ..KILL });
        },
    );
    let (faults, repaired, contents) = mend(&path);
    assert_eq!((faults.len(), repaired.lost_keys().count()), (1, 0));
    assert!(faults[0].detail.starts_with("commit 2 kills an entry of commit 3"), "{}", faults[0]);
    assert_eq!(contents, with(&[("a", 0.0), ("b", 5.0), ("c", 5.0)]));
}

/// A damaged file, all of it readable, says that an entry has two rows; a whole file that supersedes the
/// entry says that it had one. Neither can be shown to be wrong, so nothing is lost.
#[test]
fn a_damaged_and_a_whole_file_contradict_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a", "b"], &["a"]]);
    let row: Vec<u8> = [5.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let name = forge(&path, 1, |builder| {
        for (key, rows) in [(b"a", 2), (b"b", 1)] {
            builder.push(key, Kind::Rows, rows, b"");
            (0..rows).for_each(|_| builder.add_rows(&row, &[]));
        }
    });
    // Damages padding, which affects no entry.
    let layout = layout_in(&std::fs::read(&name).unwrap());
    let mut ends = layout.sections.iter().map(|section| section.offset + section.len);
    flip_bit(&name, ends.find(|end| end % section::ALIGN != 0).unwrap());
    let repaired = crate::care::repair(&path).unwrap();
    let kept: u64 = repaired.findings.iter().map(|finding| finding.kept).sum();
    assert_eq!((repaired.findings.len(), kept, repaired.lost_keys().count()), (2, 3, 0), "{repaired:#?}");
    assert_eq!(contents(&path), [("b".to_owned(), 5.0), ("a".to_owned(), 1.0)]);
}

/// The kills of a damaged file are unreadable, and a whole file kills the same entry, wrongly. When the wrong
/// kill is removed, the entry stays superseded.
#[test]
fn an_entry_stays_superseded_without_a_wrong_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"], &["a"]]);
    forge(&path, 3, |builder| {
        builder.push(b"b", Kind::Empty, 0, b"");
        builder.kill(Kill { killer: 3, rows: 2, ..KILL });
    });
    let name = path.join(load::SEGMENTS).join("0000000002-0000000002.0.npy");
    flip_bit(&name, section_at(&name, section::KILL) + 3);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!(repaired.findings.len(), 2, "{repaired:#?}");
    assert_eq!(contents(&path), [("a".to_owned(), 1.0), ("b".to_owned(), -1.0)]);
}

/// The index of a file is damaged, which loses nothing. A whole file kills an entry of it, wrongly: the entry
/// stays.
#[test]
fn a_wrong_kill_takes_nothing_from_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _store = store_of(&path, &[&["a"], &["b"]]);
    forge(&path, 3, |builder| {
        builder.push(b"c", Kind::Empty, 0, b"");
        builder.kill(Kill { killer: 3, commit: 2, rows: 2, ..KILL });
    });
    let name = path.join(load::SEGMENTS).join("0000000002-0000000002.0.npy");
    flip_bit(&name, section_at(&name, section::HASH) + 3);
    let repaired = crate::care::repair(&path).unwrap();
    assert_eq!((repaired.findings.len(), repaired.lost_keys().count()), (2, 0), "{repaired:#?}");
    let all = [("a".to_owned(), 0.0), ("b".to_owned(), 1.0), ("c".to_owned(), -1.0)];
    assert_eq!(contents(&path), all);
}
