//! The `.npy` header of a segment. To a reader that knows NumPy's rules and nothing of this project, it must
//! mean exactly the rows that were appended. A header that says anything else must be found, must change no
//! answer, and must be mended.

use std::path::Path;

use vecstore::vfs::Vfs as _;
use vecstore::{DType, OnDuplicate, Progress, RepairOptions, StoreConfig};

use crate::files::{Files, disk};
use crate::fix_segment;
use crate::literal::{Literal, parse};
use crate::memory::bounded;
use crate::sim::SimFs;
use crate::sim::run::{STORE, options};

/// Where rows begin in a segment.
const ROWS: usize = 4096;
const SEGMENT: &str = "segments/0000000001-0000000001.0.npy";

/// Contents of a header.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    pub descr: String,
    pub fortran_order: bool,
    pub shape: Vec<u64>,
    /// Where the data begins.
    pub data: usize,
}

/// Reads a header as NumPy does (`numpy.lib.format`, versions 1.0 to 3.0); `None` if NumPy would refuse it.
pub fn header(file: &[u8]) -> Option<Header> {
    let rest = file.strip_prefix(b"\x93NUMPY")?;
    let ([major, minor], rest) = rest.split_first_chunk::<2>()?;
    let (len, start): (usize, usize) = match (major, minor) {
        (1, 0) => (usize::from(u16::from_le_bytes(*rest.first_chunk()?)), 10),
        (2 | 3, 0) => (usize::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()?, 12),
        _ => return None,
    };
    let text = file.get(start..start.checked_add(len)?)?;
    // Headers of versions before 3.0 are Latin-1.
    let text: String = match major {
        3 => String::from_utf8(text.to_vec()).ok()?,
        _ => text.iter().map(|byte| char::from(*byte)).collect(),
    };
    if text.chars().count() > 10_000 {
        return None;
    }
    let Literal::Dict(entries) = parse(&text)? else { return None };
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if names != ["descr", "fortran_order", "shape"] {
        return None;
    }
    let value = |name: &str| entries.iter().find(|(found, _)| found == name).map(|(_, value)| value);
    let Literal::Str(descr) = value("descr")? else { return None };
    let Literal::Bool(fortran_order) = value("fortran_order")? else { return None };
    let Literal::Tuple(shape) = value("shape")? else { return None };
    let shape = shape.iter().map(|size| match size {
        Literal::Int(size) => Some(*size),
        _ => None,
    });
    let shape = shape.collect::<Option<Vec<u64>>>()?;
    Some(Header { descr: descr.clone(), fortran_order: *fortran_order, shape, data: start + len })
}

/// Four bytes choose the store and the kind of edit, the rest edits its header. If the fourth byte is even,
/// the rest overwrites the header from its beginning; if odd, each three bytes are a place and a new byte.
pub fn npy(data: &[u8]) {
    let Some(([shape, rows, dim, how], rest)) = data.split_first_chunk::<4>() else { return };
    let dtype = [DType::F32, DType::F16, DType::BF16, DType::I8][usize::from(shape % 4)];
    let (rows, dim) = (usize::from(*rows) % 40, usize::from(*dim) % 24 + 1);
    let (mut files, written) = store(dtype, rows, dim);
    let file = files.get_mut(SEGMENT).expect("it was appended");

    let said = header(file).expect("NumPy reads it");
    let descr = ["<f4", "<f2", "<u2", "|i1"][usize::from(shape % 4)];
    let expected = Header {
        descr: descr.to_owned(),
        fortran_order: false,
        shape: vec![rows as u64, dim as u64],
        data: ROWS,
    };
    assert_eq!(said, expected);
    let first = &file[ROWS..ROWS + rows * dim * dtype.size()];
    assert_eq!(widened(dtype, first), written.iter().flatten().copied().collect::<Vec<f32>>());

    let before = file[..ROWS].to_vec();
    if how % 2 == 0 {
        let len = rest.len().min(ROWS);
        file[..len].copy_from_slice(&rest[..len]);
    } else {
        for [high, low, byte] in rest.as_chunks::<3>().0 {
            file[usize::from(u16::from_be_bytes([*high, *low])) % ROWS] = *byte;
        }
    }
    let is_changed = file[..ROWS] != before;
    // In one of eight cases, the checksum tells that the header was changed.
    if how / 2 % 8 != 0 {
        *file = fix_segment(file);
    }
    let total: usize = files.values().map(Vec::len).sum();
    bounded(total, "a header", || check(&files, dtype, &written, is_changed));
    // NumPy may read a changed header to the same effect (it ignores blanks), so only a panic is a failure
    // here.
    let _ = header(&files[SEGMENT]);
}

/// A store with one batch: its segment, and MANIFEST from before the append. Also the appended rows.
fn store(dtype: DType, rows: usize, dim: usize) -> (Files, Vec<Vec<f32>>) {
    let fs = SimFs::new();
    let store = options(&fs).create(STORE, StoreConfig::new(dim).dtype(dtype)).expect("nothing fails");
    let manifest = fs.read(&Path::new(STORE).join("MANIFEST"), u64::MAX).expect("it was made");
    // Whole numbers of at most 127, if each row has 127 as its largest, are the same in every element type.
    let written: Vec<Vec<f32>> = (0..rows)
        .map(|row| (0..dim).map(|at| if at == 0 { 127.0 } else { ((row * 7 + at) % 127) as f32 }).collect())
        .collect();
    let mut batch = store.batch();
    batch.entry("nothing").payload(b"payload").push_empty().expect("a good entry");
    for (number, row) in written.iter().enumerate() {
        batch.push_converted(format!("row {number}"), row).expect("a good entry");
    }
    store.append(&mut batch, OnDuplicate::Error).expect("nothing fails");
    let segment = fs.read(&Path::new(STORE).join(SEGMENT), u64::MAX).expect("it was appended");
    (Files::from([("MANIFEST".to_owned(), manifest), (SEGMENT.to_owned(), segment)]), written)
}

/// Values of elements as they lie in the file, as f32.
fn widened(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let pairs = bytes.as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        DType::F16 => pairs.map(half).collect(),
        DType::BF16 => pairs.map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        _ => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
    }
}

/// A binary16 number of IEEE 754 that is zero, or finite and not subnormal: these stores have no others.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    if exponent == 0 { 0.0 } else { (1.0 + fraction / 1024.0) * f32::powi(2.0, exponent - 15) }
}

/// Compares what the store says with the rows that were written to it.
fn check(files: &Files, dtype: DType, written: &[Vec<f32>], is_changed: bool) {
    let fs = disk(files);
    let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).expect("it is a store");
    assert_eq!(report.is_whole(), !is_changed, "{:?}", report.faults);
    if is_changed {
        let says = |section: &str| report.faults.iter().any(|fault| fault.to_string().contains(section));
        assert!(says("HEAD"), "the fault is not placed: {:?}", report.faults);
    }
    // Readers take shape and place from the footer, never from this header.
    read(&fs, dtype, written);
    let fs = disk(files);
    vecstore::repair_on(&fs, Path::new(STORE), RepairOptions::new()).expect("it can be repaired");
    let report = vecstore::verify_on(&fs, Path::new(STORE), &Progress::new()).expect("it is a store");
    assert!(report.is_whole(), "after a repair: {:?}", report.faults);
    read(&fs, dtype, written);
    let segments = fs.names("/d/s/segments");
    let [name] = &segments[..] else { panic!("{segments:?}") };
    let mended = fs.read(&Path::new("/d/s/segments").join(name), u64::MAX).expect("it is there");
    let said = header(&mended).expect("NumPy reads what was mended");
    assert_eq!((said.data, said.shape.first()), (ROWS, Some(&(written.len() as u64))));
}

/// Asserts that all written rows are there.
fn read(fs: &SimFs, dtype: DType, written: &[Vec<f32>]) {
    let store = options(fs).for_reading().open(STORE).expect("it opens");
    let snapshot = store.snapshot();
    assert_eq!((snapshot.dtype(), snapshot.iter().count()), (dtype, written.len() + 1));
    for (number, row) in written.iter().enumerate() {
        let entry = snapshot.get(format!("row {number}")).expect("it can be read").expect("it is there");
        assert_eq!(&entry.to_f32().expect("it has a row"), row);
    }
}
