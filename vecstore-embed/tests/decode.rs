//! What becomes of the bytes of a file: right pixels, or a reason.

use std::io::Cursor;
use std::path::Path;
use std::sync::LazyLock;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vecstore_embed::image::{BadImage, DecodeLimits, Fault, Format, decode, sniff};

/// The picture that all files here show, as in `pictures/make.py`.
fn picture() -> RgbImage {
    let level = |n: u32| u8::try_from(n).unwrap();
    RgbImage::from_fn(48, 32, |x, y| Rgb([level(x * 5), level(y * 7), level(255 - x * 2 - y * 3)]))
}

fn open(bytes: &[u8]) -> Result<RgbImage, BadImage> {
    decode(bytes, &DecodeLimits::default())
}

fn encode(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A name, the bytes, and the most that a level may be off.
type Sample = (String, Vec<u8>, u8);

/// Files made by others.
fn files() -> Vec<Sample> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let read = |(name, off): (&str, u8)| (name.to_owned(), std::fs::read(folder.join(name)).unwrap(), off);
    [
        ("progressive.jpg", 12),
        ("restart.jpg", 40), // colour at half the resolution
        ("cmyk.jpg", 12),
        ("lossy.webp", 40),
        ("animated.webp", 0),
        ("animated.gif", 40), // 64 colours
        ("tiff_lzw.tif", 0),
        ("tiff_adobe_deflate.tif", 0),
        ("packbits.tif", 0),
        ("two-pages.tif", 0),
    ]
    .map(read)
    .into()
}

/// Files made here.
fn encoded() -> Vec<Sample> {
    [
        (ImageFormat::Jpeg, 40),
        (ImageFormat::Png, 0),
        (ImageFormat::WebP, 0),
        (ImageFormat::Gif, 40),
        (ImageFormat::Bmp, 0),
        (ImageFormat::Tiff, 0),
    ]
    .map(|(format, off)| (format!("{format:?}"), encode(picture(), format), off))
    .into()
}

/// A bitmap with run lengths, where a decoder reads as far as it comes: each row one run of one grey.
fn runs() -> (RgbImage, Vec<u8>) {
    let rows: Vec<u8> = (0..32u8).rev().flat_map(|row| [48, row * 8, 0, 0]).chain([0, 1]).collect();
    let word = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let start = 54 + 1024;
    let header = [
        word(40),
        word(48),
        word(32),
        [1, 0, 8, 0],
        word(1),
        word(rows.len()),
        [0; 4],
        [0; 4],
        [0; 4],
        [0; 4],
    ];
    let palette = (0..=255u8).flat_map(|grey| [grey, grey, grey, 0]);
    let mut bytes = b"BM".to_vec();
    bytes.extend([word(start + rows.len()), [0; 4], word(start)].concat());
    bytes.extend(header.concat());
    bytes.extend(palette);
    bytes.extend(rows);
    (RgbImage::from_fn(48, 32, |_, y| Rgb([u8::try_from(y * 8).unwrap(); 3])), bytes)
}

static ALL: LazyLock<Vec<Sample>> = LazyLock::new(|| [files(), encoded()].concat());

#[track_caller]
fn assert_close(name: &str, found: &RgbImage, wanted: &RgbImage, off: u8) {
    assert_eq!(found.dimensions(), wanted.dimensions(), "{name}");
    let worst = found.iter().zip(wanted.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= off, "{name}: off by {worst}");
    // Colours in another order would be far off everywhere, not in single pixels.
    let total: u64 = found.iter().zip(wanted.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(total <= 8 * wanted.len() as u64, "{name}: off by {total} in all");
}

#[test]
fn every_format_gives_the_picture() {
    for (name, bytes, off) in ALL.iter() {
        assert_close(name, &open(bytes).unwrap_or_else(|e| panic!("{name}: {e}")), &picture(), *off);
    }
}

#[test]
fn every_cut_of_every_file_is_refused() {
    for (name, bytes, _) in ALL.iter() {
        // This one ends in padding that belongs to nothing.
        let end = bytes.len() - if name == "two-pages.tif" { 4 } else { 0 };
        for cut in 0..end {
            let result = open(&bytes[..cut]).map(|picture| picture.dimensions());
            let refused = result.expect_err(&format!("{name} cut at {cut} of {}", bytes.len()));
            match (cut, sniff(&bytes[..cut])) {
                (0, _) => assert_eq!(refused.fault, Fault::Empty),
                (_, None) => assert_eq!(refused.fault, Fault::NotAPicture, "{name} cut at {cut}"),
                (_, Some(_)) => {
                    assert_eq!(refused.fault, Fault::Truncated, "{name} cut at {cut}: {refused}")
                }
            }
            assert!(cut < 32 || refused.fault == Fault::Truncated, "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_bitmap_of_runs_is_whole_or_refused() {
    let (wanted, bytes) = runs();
    assert_close("runs", &open(&bytes).unwrap(), &wanted, 0);
    for cut in 18..bytes.len() {
        let refused = open(&bytes[..cut]).map(|picture| picture.dimensions()).unwrap_err();
        assert_eq!(refused.fault, Fault::Truncated, "cut at {cut}: {refused}");
    }
}

#[test]
fn a_file_whose_end_was_never_written_is_refused() {
    // What a power cut leaves on many file systems: the right length, and zeros at the end. The formats with
    // an end mark show it; to the others zeros are pixels like any others.
    let marked = |format| matches!(format, Some(Format::Jpeg | Format::Png | Format::Gif));
    let mut seen = 0;
    for (name, bytes, _) in ALL.iter().filter(|(_, bytes, _)| marked(sniff(bytes))) {
        let mut bytes = bytes.clone();
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        match open(&bytes) {
            Err(_) => seen += 1,
            // Its first frame, the one that counts, ends before the middle.
            Ok(found) => assert!(name == "animated.gif" && found.dimensions() == (48, 32), "{name}"),
        }
    }
    assert_eq!(seen, 6);
}

#[test]
fn a_jpeg_that_contradicts_itself_is_refused_not_painted_grey() {
    let (_, mut bytes, _) = encoded().swap_remove(0);
    let scan = bytes.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
    let (first, last) = (scan + 14, bytes.len() - 2);
    // No Huffman table has a code of ones alone; a zero after each 0xff makes it data and not a marker.
    bytes.splice(first..last, [0xff, 0].repeat(60));
    assert_eq!(open(&bytes).unwrap_err().fault, Fault::Damaged);
}

#[test]
fn stray_bytes_between_jpeg_segments_do_no_harm() {
    let (_, mut bytes, off) = encoded().swap_remove(0);
    bytes.splice(20..20, *b"\0\0\0\0\0\0\0\0"); // after the first segment
    assert_close("stray", &open(&bytes).unwrap(), &picture(), off);
}

#[test]
fn what_is_no_picture_says_so() {
    let text = |bytes: &[u8]| open(bytes).unwrap_err().to_string();
    assert_eq!(text(b""), "empty file");
    assert_eq!(text(b"Dear diary,\ntoday nothing happened."), "not a picture: begins like a text file");
    assert!(text(&[0x7f, 1, 2, 3]).starts_with("not a picture: begins with 7f 01 02 03"));
    assert!(text(b"\0\0\0\x1cftypavif\0\0\0\0").starts_with("unsupported: AVIF"));
}

#[test]
fn the_smallest_pictures_are_pictures() {
    for format in
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Tiff]
    {
        let one = RgbImage::from_pixel(1, 1, Rgb([250, 250, 250]));
        let found = open(&encode(one, format)).unwrap();
        assert_eq!(found.dimensions(), (1, 1), "{format:?}");
        assert!(found.get_pixel(0, 0).0.iter().all(|level| level.abs_diff(250) <= 3), "{format:?}");
    }
}

/// The checksum that PNG chunks end with.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn a_huge_claim_is_refused_before_memory_is_taken() {
    let mut png = encode(RgbImage::new(1, 1), ImageFormat::Png);
    png[16..20].copy_from_slice(&20_000u32.to_be_bytes());
    png[20..24].copy_from_slice(&20_000u32.to_be_bytes());
    let sum = crc(&png[12..29]);
    png[29..33].copy_from_slice(&sum.to_be_bytes());
    let refused = open(&png).unwrap_err();
    assert_eq!(refused.fault, Fault::TooLarge);
    assert!(refused.reason.contains("20000x20000 is 400000000 pixels, the limit is 200000000"), "{refused}");
    // With a limit that allows the size, the same file fails later, at its missing pixels.
    assert_ne!(decode(&png, &DecodeLimits::new(400_000_000)).unwrap_err().fault, Fault::TooLarge);

    let mut jpeg = encode(picture(), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    assert_eq!(open(&jpeg).unwrap_err().fault, Fault::TooLarge);

    let mut bmp = encode(picture(), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0x20, 0x4e, 0, 0, 0x20, 0x4e, 0, 0]);
    assert_eq!(open(&bmp).unwrap_err().fault, Fault::TooLarge);

    let mut gif = encode(picture(), ImageFormat::Gif);
    gif[6..10].copy_from_slice(&[0xff; 4]);
    assert_eq!(open(&gif).unwrap_err().fault, Fault::TooLarge);
}

#[test]
fn pictures_are_turned_upright() {
    let turned = |value: u8| {
        let mut bytes = encode(picture(), ImageFormat::Jpeg);
        let mut exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
        exif.extend([value, 0, 0, 0, 0, 0, 0]);
        assert_eq!(exif.len(), 0x24);
        bytes.splice(2..2, exif);
        open(&bytes).unwrap()
    };
    let upright = DynamicImage::from(picture());
    let wanted = [
        upright.clone(),
        upright.fliph(),
        upright.rotate180(),
        upright.flipv(),
        upright.rotate90().fliph(),
        upright.rotate90(),
        upright.rotate270().fliph(),
        upright.rotate270(),
    ];
    for (value, wanted) in (1..).zip(wanted) {
        assert_close(&format!("orientation {value}"), &turned(value), &wanted.into_rgb8(), 40);
    }
    assert_eq!(turned(9).dimensions(), (48, 32), "an orientation that does not exist");
}

#[test]
fn other_kinds_of_pixels_become_rgb() {
    let upright = DynamicImage::from(picture());
    let grey = DynamicImage::from(upright.to_luma8()).into_rgb8();
    let png = |picture: DynamicImage| open(&encode(picture, ImageFormat::Png)).unwrap();
    assert_close("grey", &png(upright.to_luma8().into()), &grey, 0);
    assert_close("16-bit", &png(upright.to_rgb16().into()), &picture(), 0);
    assert_close("16-bit grey", &png(upright.to_luma16().into()), &grey, 1);

    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/grey.jpg")).unwrap();
    let found = open(&bytes).unwrap();
    assert!(found.pixels().all(|pixel| pixel.0[0] == pixel.0[1] && pixel.0[1] == pixel.0[2]));

    let mut glass = upright.to_rgba8();
    for (x, _, pixel) in glass.enumerate_pixels_mut() {
        pixel.0[3] = if x < 24 { 0 } else { 255 };
    }
    let mut wanted = picture();
    for (x, _, pixel) in wanted.enumerate_pixels_mut() {
        if x < 24 {
            pixel.0 = [255; 3];
        }
    }
    assert_close("transparent", &png(glass.clone().into()), &wanted, 0);
    assert_close("webp", &open(&encode(glass, ImageFormat::WebP)).unwrap(), &wanted, 0);
}

#[test]
fn formats_are_told_by_content() {
    let wanted =
        [Format::Jpeg, Format::Png, Format::WebP, Format::Gif, Format::Bmp, Format::Tiff].map(Some).to_vec();
    let found: Vec<_> = encoded().iter().map(|(_, bytes, _)| sniff(&bytes[..32])).collect();
    assert_eq!(found, wanted);
}

proptest! {
    // The same cases each time: others are for `VECSTORE_TESTS=random`.
    #![proptest_config(ProptestConfig {
        cases: 300,
        rng_seed: match std::env::var("VECSTORE_TESTS") {
            Ok(tier) if tier == "random" => RngSeed::Random,
            _ => RngSeed::Fixed(1),
        },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is written over a file, it is a picture of a size that was allowed, or a reason on one line.
    #[test]
    fn damage_never_ends_the_program(
        which in 0usize..16,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = ALL[which].1.clone();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        match decode(&bytes, &DecodeLimits::new(1 << 20)) {
            Ok(picture) => prop_assert!(!picture.is_empty() && picture.len() <= 3 << 20),
            Err(reason) => prop_assert!(!reason.to_string().contains('\n'), "{reason}"),
        }
    }

    #[test]
    fn noise_after_a_signature_never_ends_the_program(
        which in 0usize..16,
        noise in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = &ALL[which].1;
        let forged = [&bytes[..bytes.len().min(24)], &noise].concat();
        match decode(&forged, &DecodeLimits::new(1 << 20)) {
            Ok(picture) => prop_assert!(!picture.is_empty() && picture.len() <= 3 << 20),
            Err(reason) => prop_assert!(!reason.to_string().contains('\n'), "{reason}"),
        }
    }
}
