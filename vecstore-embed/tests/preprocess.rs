//! What reaches a model, against what Pillow would have sent it.

use std::path::Path;

use image::{Rgb, RgbImage};
use vecstore_embed::Error;
use vecstore_embed::image::preprocess::{Preprocess, PreprocessOverrides};

/// The picture of `pillow-levels.py`.
fn picture(width: u32, height: u32) -> RgbImage {
    let level = |n: u32| u8::try_from(n).unwrap();
    RgbImage::from_fn(width, height, |x, y| {
        let red = if (x / 3 + y / 2).is_multiple_of(2) { 255 } else { 0 };
        let ramp = if x * height > y * width { x * 255 / width } else { 255 - y * 255 / height };
        Rgb([red, level((x * 37 + y * 11) % 256), level(ramp)])
    })
}

/// Mean and deviation that leave levels as they are.
fn levels(size: &str, crop: &str, filter: &str) -> PreprocessOverrides {
    PreprocessOverrides {
        size: Some(size.parse().unwrap()),
        crop: Some(crop.parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0 / 255.0; 3]),
        filter: Some(filter.parse().unwrap()),
        ..PreprocessOverrides::default()
    }
}

/// One of Pillow's weights for a bicubic filter.
fn bicubic(at: f64) -> f64 {
    match at.abs() {
        at if at < 1.0 => (1.5 * at - 2.5) * at * at + 1.0,
        at if at < 2.0 => ((-0.5 * at + 2.5) * at - 4.0) * at + 2.0,
        _ => 0.0,
    }
}

/// A pass over levels that lie `step` apart, with all digits, rounded as Pillow rounds.
fn resized(levels: &[u8], step: usize, to: usize) -> Vec<u8> {
    let line: Vec<f64> = levels.iter().step_by(step).map(|level| f64::from(*level)).collect();
    let scale = line.len() as f64 / to as f64;
    let wide = scale.max(1.0);
    let pixel = |at: usize| {
        let centre = (at as f64 + 0.5) * scale;
        let first = (centre - 2.0 * wide + 0.5).max(0.0) as usize;
        let end = ((centre + 2.0 * wide + 0.5) as usize).min(line.len());
        let weights: Vec<f64> =
            (first..end).map(|pixel| bicubic((pixel as f64 + 0.5 - centre) / wide)).collect();
        let sum: f64 = line[first..end].iter().zip(&weights).map(|(level, weight)| level * weight).sum();
        (sum / weights.iter().sum::<f64>() + 0.5) as u8
    };
    (0..to).map(pixel).collect()
}

/// Where little is reduced, a few rows have all the weight, and each that is rounded wrongly counts.
#[test]
fn sums_are_rounded_as_exact_ones_are_where_little_is_reduced() {
    let (width, height, to) = (307_u32, 251_u32, 200_usize);
    let mut random = 1_u32;
    let grey = RgbImage::from_fn(width, height, |_, _| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Rgb([(random >> 24) as u8; 3])
    });
    let preprocess = Preprocess::from_overrides(&levels("200x200", "200", "bicubic")).unwrap().unwrap();
    let mut ours = vec![0.0; preprocess.tensor_len()];
    preprocess.apply(&grey, &mut ours).unwrap();

    let one: Vec<u8> = grey.as_raw().iter().step_by(3).copied().collect();
    let rows: Vec<u8> = one.chunks(width as usize).flat_map(|row| resized(row, 1, to)).collect();
    let columns: Vec<Vec<u8>> = (0..to).map(|column| resized(&rows[column..], to, to)).collect();
    let exact = (0..to * to).map(|at| f32::from(columns[at % to][at / to]));
    let off = ours.iter().zip(exact).filter(|(ours, exact)| (**ours - exact).abs() > 0.1).count();
    assert!(off <= 4, "{off} of {} levels differ", to * to);
}

#[test]
fn levels_are_pillows_to_within_one() {
    let mut compared = 0;
    for line in include_str!("pillow-levels.txt").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [source, size, crop, filter, wanted @ ..] = &words[..] else { panic!("{line}") };
        let (width, height) = source.split_once('x').unwrap();
        let picture = picture(width.parse().unwrap(), height.parse().unwrap());
        let preprocess = Preprocess::from_overrides(&levels(size, crop, filter)).unwrap().unwrap();
        let mut found = vec![0.0; preprocess.tensor_len()];
        preprocess.apply(&picture, &mut found).unwrap();
        assert_eq!(found.len(), wanted.len(), "{source} {size} {crop} {filter}");

        let off: Vec<f32> =
            found.iter().zip(wanted).map(|(a, b)| (a - b.parse::<f32>().unwrap()).abs()).collect();
        let worst = off.iter().fold(0f32, |worst, off| worst.max(*off));
        let unequal = off.iter().filter(|off| **off > 0.01).count();
        let allowed = if *filter == "nearest" { 0.01 } else { 1.01 };
        assert!(worst < allowed, "{source} to {size} {crop} {filter}: off by {worst}");
        assert!(
            unequal * 5 <= off.len(),
            "{source} to {size} {crop} {filter}: {unequal} of {} differ",
            off.len()
        );
        compared += wanted.len();
    }
    assert!(compared > 4000, "{compared} levels compared");
}

#[test]
fn a_published_description_is_followed_to_the_last_number() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    let clip = r#"{"crop_size": 4, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 4,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711]}"#;
    std::fs::write(&file, clip).unwrap();
    let preprocess = Preprocess::from_config_file(&file).unwrap();
    assert_eq!((preprocess.input_height(), preprocess.input_width(), preprocess.tensor_len()), (4, 4, 48));

    let even = RgbImage::from_pixel(30, 20, Rgb([255, 128, 0]));
    let mut found = vec![0.0; 48];
    preprocess.apply(&even, &mut found).unwrap();
    // (level / 255 - mean) / std, as published for black and white: 1.9303 and -1.7921 / -1.4802.
    let wanted = [1.930_336_2f32, 0.168_897_2, -1.480_219_7];
    for (plane, wanted) in found.chunks(16).zip(wanted) {
        assert!(plane.iter().all(|value| (value - wanted).abs() < 1e-5), "{plane:?} is not {wanted}");
    }

    // An option replaces one value and leaves the others.
    let bgr =
        PreprocessOverrides { channel_order: Some("bgr".parse().unwrap()), ..PreprocessOverrides::default() };
    let swapped = Preprocess::from_config_file_with(&file, &bgr).unwrap();
    swapped.apply(&even, &mut found).unwrap();
    assert!((found[0] - (0.0 - 0.481_454_66) / 0.268_629_54).abs() < 1e-6, "blue comes first: {}", found[0]);
    assert_ne!(swapped.canonical(), preprocess.canonical());
}

#[test]
fn a_missing_description_is_named() {
    let missing = Path::new("/nowhere/preprocessor_config.json");
    let error = Preprocess::from_config_file(missing).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path == missing), "{error}");
}

fn scaled() -> PreprocessOverrides {
    PreprocessOverrides { jpeg: Some("scaled".parse().unwrap()), ..levels("64", "64", "bicubic") }
}

#[cfg(not(feature = "turbojpeg"))]
#[test]
fn a_program_without_libjpeg_turbo_says_so() {
    let error = Preprocess::from_overrides(&scaled()).unwrap_err().to_string();
    assert!(error.contains("jpeg: scaled") && error.contains("the feature turbojpeg"), "{error}");
}

#[cfg(feature = "turbojpeg")]
#[test]
fn large_jpegs_may_be_decoded_smaller() {
    use vecstore_embed::DecodeLimits;

    let exact = Preprocess::from_overrides(&levels("64", "64", "bicubic")).unwrap().unwrap();
    let scaled = Preprocess::from_overrides(&scaled()).unwrap().unwrap();
    assert_ne!(scaled.canonical(), exact.canonical());
    let limits = DecodeLimits::default();
    let jpeg = |width, height| {
        let wave = |n: u32| ((f64::from(n) / 40.0).sin() * 100.0 + 128.0) as u8;
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([wave(x + y), wave(x * 2), wave(y * 3)]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    };
    // Each side stays twice as long as the 64 that the shorter one is resized to.
    for (sides, wanted) in [
        ((1000, 800), (250, 200)),
        ((1024, 1030), (128, 129)),
        ((1000, 500), (500, 250)),
        ((300, 254), (300, 254)),
    ] {
        let bytes = jpeg(sides.0, sides.1);
        let small = scaled.decode(&bytes, &limits).unwrap();
        assert_eq!(small.dimensions(), wanted, "{sides:?}");
        assert_eq!(exact.decode(&bytes, &limits).unwrap().dimensions(), sides);
        let prepared = |preprocess: &Preprocess, picture| {
            let mut levels = vec![0.0; preprocess.tensor_len()];
            preprocess.apply(picture, &mut levels).unwrap();
            levels
        };
        let whole = exact.decode(&bytes, &limits).unwrap();
        let (a, b) = (prepared(&scaled, &small), prepared(&exact, &whole));
        let mean = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32;
        assert!(mean < 2.5, "{sides:?}: {mean} levels off");
    }
    // What is wrong with a file is found all the same.
    let bytes = jpeg(1000, 800);
    let cut = scaled.decode(&bytes[..bytes.len() / 2], &limits).unwrap_err();
    assert_eq!(cut.fault, vecstore_embed::image::Fault::Truncated);
    let spoiled = [&bytes[..bytes.len() / 2], &[0; 4000], &bytes[bytes.len() - 2..]].concat();
    // Zeros can be read as pixels; both decoders do.
    assert_eq!(scaled.decode(&spoiled, &limits).is_ok(), exact.decode(&spoiled, &limits).is_ok());
    let small = DecodeLimits::new(799_999);
    assert_eq!(scaled.decode(&bytes, &small).unwrap_err().fault, vecstore_embed::image::Fault::TooLarge);
}
