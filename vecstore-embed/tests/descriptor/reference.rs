//! The descriptor next to its reference graph, run by an engine.

use std::path::Path;

use image::{Rgb, RgbImage};
use vecstore_embed::image::{DecodeLimits, decode};
use vecstore_embed::{BackendChoice, BackendOptions, Embedder, Model};

use super::{cosine, embed, reference_model, scene};

/// The lowest cosine between the two that passes.
const LEAST: f32 = 0.999_99;

/// The photographs that the repository has, in every format.
fn photographs() -> Vec<(String, RgbImage)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/photos")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(picture) = decode(&std::fs::read(&path).unwrap(), &DecodeLimits::default()) {
                found.push((path.file_name().unwrap().to_string_lossy().into_owned(), picture));
            }
        }
    }
    assert!(found.len() >= 20, "{} photographs", found.len());
    found
}

/// Levels that have nothing to do with each other.
fn noise(width: u32, height: u32, most: u8) -> RgbImage {
    let mut state = u64::from(width) << 32 | u64::from(height);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let levels = (0..width * height * 3).map(|_| next() % most).collect();
    RgbImage::from_vec(width, height, levels).unwrap()
}

fn with_dot(level: u8, dot: u8) -> RgbImage {
    let mut page = RgbImage::from_pixel(224, 224, Rgb([level; 3]));
    page.put_pixel(100, 120, Rgb([dot; 3]));
    page
}

/// What photographs are not: flat, tiny, noisy, large, long, and the faintest there is.
fn extremes() -> Vec<(String, RgbImage)> {
    let flat = |levels: [u8; 3]| RgbImage::from_pixel(64, 48, Rgb(levels));
    let mut found: Vec<(&str, RgbImage)> = vec![
        ("one pixel", RgbImage::from_pixel(1, 1, Rgb([17, 200, 90]))),
        ("two by three", noise(2, 3, 255)),
        ("three by two, faint", noise(3, 2, 2)),
        ("noise", noise(300, 200, 255)),
        ("noise at its own size", noise(224, 224, 255)),
        ("faint noise", noise(224, 224, 3)),
        ("the faintest noise", noise(224, 224, 2)),
        ("large and noisy", noise(2600, 1900, 255)),
        ("large", scene(3, 1500, 1100)),
        ("a long strip", noise(2000, 3, 255)),
        ("a high strip", noise(1, 900, 255)),
        ("a dot on white", with_dot(255, 0)),
        ("the faintest dot", with_dot(128, 129)),
        ("stripes", RgbImage::from_fn(224, 224, |x, _| Rgb([(x % 2) as u8 * 255; 3]))),
        ("an edge", RgbImage::from_fn(224, 224, |x, y| Rgb([if x > y { 255 } else { 0 }; 3]))),
        ("a ramp", RgbImage::from_fn(256, 256, |x, y| Rgb([x as u8, y as u8, 128]))),
    ];
    for levels in [[0; 3], [1; 3], [85; 3], [128; 3], [255; 3], [255, 0, 0], [0, 1, 0], [12, 34, 250]] {
        found.push(("flat", flat(levels)));
    }
    found.into_iter().map(|(name, picture)| (name.to_owned(), picture)).collect()
}

#[test]
fn the_vectors_are_those_of_the_graph() {
    let tract = BackendOptions { choice: BackendChoice::Tract, threads: 2, ..BackendOptions::default() };
    compare(&tract);
}

/// The same by ONNX Runtime, from `ORT_DYLIB_PATH`; without it the test says that it was left out.
#[test]
fn the_vectors_are_those_of_the_graph_by_another_engine() {
    let Some(library) = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()) else {
        return eprintln!("ORT_DYLIB_PATH is not set, ONNX Runtime is left out");
    };
    compare(&BackendOptions {
        choice: BackendChoice::OnnxRuntime,
        ort_lib: Some(library.into()),
        ..BackendOptions::default()
    });
}

fn compare(engine: &BackendOptions) {
    let (builtin, graph) = (Model::builtin().unwrap(), reference_model());
    let one = Embedder::builder(&builtin).build();
    let other = Embedder::builder(&graph).backend(engine.clone()).build();
    let ((plain, dim), (name, other_dim)) = (one.describe().unwrap(), other.describe().unwrap());
    assert_ne!(plain, name);
    assert_eq!((dim, other_dim), (512, 512));
    let (names, pictures): (Vec<_>, Vec<_>) = photographs().into_iter().chain(extremes()).unzip();
    let found = embed(&one, &pictures);
    let wanted = embed(&other, &pictures);
    let mut lowest = 1.0f32;
    for (picture, (found, wanted)) in names.iter().zip(found.iter().zip(&wanted)) {
        let (alike, length) = (cosine(found, wanted), cosine(found, found).sqrt());
        let off = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{picture}: cosine {alike:.8}, largest difference {off:.1e}");
        assert!(alike >= LEAST && off < 1e-3, "{picture}: cosine {alike}, largest difference {off}");
        assert!((length - 1.0).abs() < 1e-5, "{picture}: length {length}");
        lowest = lowest.min(alike);
    }
    println!("lowest cosine of {} pictures next to {}: {lowest:.8}", names.len(), name);
}
