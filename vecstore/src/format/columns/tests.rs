use proptest::prelude::*;

use super::*;
use crate::types::Value;

type Entry<'a> = Vec<(&'a str, Value<'a>)>;

/// ATTR and ATTD of some entries.
fn written(entries: &[Entry<'_>]) -> (Vec<u8>, Vec<u8>) {
    let mut columns = FreshColumns::default();
    for (number, entry) in entries.iter().enumerate() {
        entry.iter().for_each(|(name, value)| columns.add(number, name, value).unwrap());
    }
    columns.finish(entries.len()).unwrap()
}

/// Checks all of ATTR and ATTD, and returns the directory.
fn checked(attr: &[u8], attd: &[u8], entries: usize) -> Result<Directory, String> {
    let directory = Directory::parse(attr, entries as u64, attd.len() as u64)?;
    directory.columns().iter().try_for_each(|column| directory.check(column, attd))?;
    directory.check_layout(attr, attd)?;
    Ok(directory)
}

/// All attributes of an entry, in ascending order of names.
fn read<'a>(directory: &'a Directory, attd: &'a [u8], entry: usize) -> Result<Entry<'a>, String> {
    let mut found = Vec::new();
    for column in directory.columns() {
        let value = column.buffers(attd).map_or(Ok(None), |buffers| buffers.value(entry))?;
        found.extend(value.map(|value| (&*column.name, value)));
    }
    Ok(found)
}

/// Three entries: with a value of each type, without any value, and with some values.
fn sample() -> Vec<Entry<'static>> {
    vec![
        vec![
            ("b", Value::Bool(true)),
            ("f", Value::F64(-0.5)),
            ("i", Value::I64(i64::MIN)),
            ("l", Value::Texts(vec!["ä", "", "b"])),
            ("t", Value::Text("text")),
            ("when", Value::Time(-1)),
        ],
        vec![],
        vec![("b", Value::Bool(false)), ("l", Value::Texts(vec![])), ("t", Value::Text(""))],
    ]
}

#[test]
fn values_round_trip_and_bytes_match_the_format() {
    let (attr, attd) = written(&sample());
    let directory = checked(&attr, &attd, 3).unwrap();
    for (number, entry) in sample().iter().enumerate() {
        assert_eq!(&read(&directory, &attd, number).unwrap(), entry);
    }
    assert!(directory.column("t").is_some() && directory.column("x").is_none());
    assert_eq!(attr[..8], [6, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(attr[8 + 6 * 64..], *b"bfiltwhen");
    let record = |at: usize| -> Record { bytemuck::pod_read_unaligned(&attr[8 + at * 64..][..64]) };
    let number = |at: u64| attd[at as usize];
    let texts = record(3);
    assert_eq!((texts.name, texts.name_len, texts.kind, texts.nulls), (395, 1, 5, 1));
    assert_eq!((number(texts.validity), texts.values_len), (0b101, 3));
    assert_eq!([0, 8, 16, 24].map(|at| number(texts.ends + at)), [0, 3, 3, 3]);
    assert_eq!([0, 8, 16, 24].map(|at| number(texts.items + at)), [0, 2, 2, 3]);
    assert_eq!((record(0).values, number(record(0).values), record(0).ends), (64, 1, 0));
    assert_eq!(attd.len() as u64, record(5).values + 24);
}

#[test]
fn entries_without_attributes_take_no_bytes_and_faulty_ones_are_refused() {
    assert_eq!(written(&[vec![], vec![]]), (vec![], vec![]));
    let mut columns = FreshColumns::default();
    columns.add(1, "a", &Value::I64(1)).unwrap();
    columns.add(1, "a", &Value::I64(1)).unwrap_err();
    columns.add(0, "a", &Value::I64(1)).unwrap_err();
    columns.add(2, "a", &Value::Time(1)).unwrap_err();
}

#[test]
fn no_flipped_bit_or_length_causes_a_panic() {
    let (attr, attd) = written(&sample());
    let survives = |attr: &[u8], attd: &[u8], entries: usize| {
        let Ok(directory) = Directory::parse(attr, entries as u64, attd.len() as u64) else { return };
        let _ = checked(attr, attd, entries);
        (0..entries.min(9)).for_each(|entry| drop(read(&directory, attd, entry)));
        let _ = directory.known(attd).map(|all| JoinedColumns::new([all], once((0, 0..entries.min(9)))));
    };
    let unknown_types = (0..6).map(|at| 8 + at * 64 + 8..8 + at * 64 + 9);
    for bit in 0..attr.len() * 8 {
        let mut flipped = attr.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        survives(&flipped, &attd, 3);
        if !unknown_types.clone().any(|range| range.contains(&(bit / 8))) && bit / 8 < 8 + 6 * 64 {
            assert!(checked(&flipped, &attd, 3).is_err(), "bit {bit} of ATTR");
        }
    }
    for bit in 0..attd.len() * 8 {
        let mut flipped = attd.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        survives(&attr, &flipped, 3);
    }
    for cut in 0..attr.len() {
        assert!(Directory::parse(&attr[..cut], 3, attd.len() as u64).is_err(), "ATTR cut at {cut}");
    }
    for cut in 0..attd.len() {
        assert!(checked(&attr, &attd[..cut], 3).is_err(), "ATTD cut at {cut}");
        // The same cut after the directory was read.
        let directory = Directory::parse(&attr, 3, attd.len() as u64).unwrap();
        (0..3).for_each(|entry| drop(read(&directory, &attd[..cut], entry)));
        assert!(directory.known(&attd[..cut]).is_err(), "ATTD cut at {cut}");
    }
    for entries in [0, 1, 2, 4, 64, 65, 1 << 32, u64::MAX - 1, u64::MAX] {
        assert!(Directory::parse(&attr, entries, attd.len() as u64).is_err(), "{entries} entries");
    }
    let longer = [&attd[..], &[0; 64]].concat();
    assert!(checked(&attr, &longer, 3).is_err());
}

/// ATTD with one byte changed (in validity, values, ends or item ends), as in a forged file whose checksums
/// are right.
#[test]
fn forged_buffers_are_refused() {
    let (attr, attd) = written(&sample());
    let record = |name: usize| -> Record { bytemuck::pod_read_unaligned(&attr[8 + name * 64..][..64]) };
    let (bools, numbers, lists, texts) = (record(0), record(2), record(3), record(4));
    let refuses = |at: u64, byte: u8| {
        let mut forged = attd.clone();
        assert_ne!(forged[at as usize], byte);
        forged[at as usize] = byte;
        checked(&attr, &forged, 3).map(drop).unwrap_err()
    };
    for (at, byte, what) in [
        (bools.validity, 0b1101, "ATTD"),
        (bools.values, 0b011, "entry 1 has no value"),
        (bools.values, 0b1001, "ATTD"),
        (bools.values + 8, 1, "ATTD"),
        (bools.validity, 0b111, "ATTR"),
        (numbers.values + 8, 1, "entry 1 has no value"),
        (texts.values, 0xFF, "entry 0 points outside, or is no UTF-8"),
        (texts.ends, 1, "ATTD"),
        (texts.ends + 8, 5, "entry 0 points outside"),
        (texts.ends + 8, 3, "entry 1 has no value"),
        (texts.ends + 16, 3, "entry 1 has no value, but something"),
        (texts.ends + 24, 3, "entry 2 points outside"),
        (texts.ends + 15, 0x80, "entry 0 points outside"),
        (lists.values, b'x', "no UTF-8"),
        (lists.ends, 1, "ATTD"),
        (lists.ends + 8, 2, "entry 1 has no value"),
        (lists.ends + 8, 4, "entry 0 points outside"),
        (lists.ends + 31, 1, "entry 2 points outside"),
        (lists.items, 1, "no UTF-8"),
        (lists.items + 8, 1, "no UTF-8"),
        (lists.items + 16, 1, "entry 0 points outside"),
        (lists.items + 24, 2, "ATTD"),
        (lists.items + 32, 1, "ATTD"),
    ] {
        let error = refuses(at, byte);
        assert!(error.contains(what), "byte {at} set to {byte}: {error}");
    }
}

#[test]
fn a_column_of_an_unknown_type_is_skipped_and_reported() {
    let (mut attr, attd) = written(&sample());
    attr[8 + 3 * 64 + 8] = 7;
    let directory = checked(&attr, &attd, 3).unwrap();
    assert_eq!(directory.unknown().map(|column| &*column.name), Some("l"));
    assert!(directory.known(&attd).unwrap_err().contains("\"l\""));
    let names: Vec<&str> = read(&directory, &attd, 0).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["b", "f", "i", "t", "when"]);
}

#[test]
fn columns_of_two_types_are_not_joined() {
    let files = [Value::I64(1), Value::Time(1)].map(|value| written(&[vec![("a", value)]]));
    let directories = files.each_ref().map(|(attr, attd)| checked(attr, attd, 1).unwrap());
    let all = directories.iter().zip(&files).map(|(directory, (_, attd))| directory.known(attd).unwrap());
    let (input, what) = JoinedColumns::new(all, [(0, 0..1), (1, 0..1)].into_iter()).unwrap_err();
    assert_eq!((input, &*what), (1, "column \"a\" is time, and i64 elsewhere"));
}

/// An entry made from random numbers.
fn entry(numbers: &[u8]) -> Entry<'static> {
    let all = [
        ("b", vec![Value::Bool(true), Value::Bool(false)]),
        ("f", vec![Value::F64(1.5)]),
        ("i", vec![Value::I64(7), Value::I64(0)]),
        ("l", vec![Value::Texts(vec!["one", "", "ä"]), Value::Texts(vec![]), Value::Texts(vec!["x"])]),
        ("t", vec![Value::Text("text"), Value::Text("")]),
        ("w", vec![Value::Time(5)]),
    ];
    // A number beyond the listed values: the entry has no value.
    let value = |((name, values), number): ((&'static str, Vec<Value<'static>>), &u8)| {
        values.get(usize::from(*number)).map(|value| (name, value.clone()))
    };
    all.into_iter().zip(numbers).filter_map(value).collect()
}

proptest! {
    /// Joining the kept entries of some segments gives the same bytes as writing these entries at once.
    #[test]
    fn joining_columns_equals_writing_the_kept_entries(
        segments in prop::collection::vec(
            prop::collection::vec((prop::bool::weighted(0.8), prop::collection::vec(0u8..4, 0..=6)), 1..90),
            0..4
        )
    ) {
        let entries: Vec<Vec<Entry<'_>>> = segments
            .iter().map(|segment| segment.iter().map(|(_, numbers)| entry(numbers)).collect()).collect();
        let files: Vec<_> = entries.iter().map(|entries| written(entries)).collect();
        let directories: Vec<Directory> = files.iter().zip(&entries).map(|((attr, attd), entries)| {
            if attr.is_empty() { Directory::default() } else { checked(attr, attd, entries.len()).unwrap() }
        }).collect();
        let (mut staying, mut expected): (Vec<(usize, Range<usize>)>, _) = (Vec::new(), Vec::new());
        for (input, segment) in segments.iter().enumerate() {
            for (number, _) in segment.iter().enumerate().filter(|(_, (stays, _))| *stays) {
                expected.push(entries[input][number].clone());
                match staying.last_mut().filter(|(last, range)| *last == input && range.end == number) {
                    Some((_, range)) => range.end += 1,
                    None => staying.push((input, number..number + 1)),
                }
            }
        }
        let inputs: Vec<_> = directories.iter().zip(&files)
            .map(|(directory, (_, attd))| directory.known(attd).unwrap()).collect();
        let joined = JoinedColumns::new(inputs, staying.iter().cloned()).unwrap();
        let mut attd = Vec::new();
        joined.write(staying.iter().cloned(), &mut attd).unwrap();
        prop_assert_eq!(joined.attd_len, attd.len() as u64);
        prop_assert_eq!((&joined.attr, &attd), (&written(&expected).0, &written(&expected).1));
        if !joined.attr.is_empty() {
            let directory = checked(&joined.attr, &attd, expected.len()).unwrap();
            for (number, entry) in expected.iter().enumerate() {
                prop_assert_eq!(&read(&directory, &attd, number).unwrap(), entry);
            }
        }
    }
}
