//! The built-in model: that it computes what its reference graph says, and finds what it claims to find.

mod graph;
mod onnx_writer;
#[cfg(feature = "tract")]
mod reference;

use image::imageops::{FilterType, crop_imm, resize};
use image::{Rgb, RgbImage};
use vecstore_embed::{BackendOptions, Embedder, Model, PreprocessOverrides};

/// Where the reference graph is.
fn reference() -> std::path::PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/descriptor/descriptor.onnx").into()
}

/// The reference graph as a model like any other, with the preparation of pictures that the descriptor wants.
fn reference_model() -> Model {
    let overrides = PreprocessOverrides {
        size: Some("224x224".parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0; 3]),
        filter: Some("bilinear".parse().unwrap()),
        ..PreprocessOverrides::default()
    };
    Model::from_file(&reference(), &overrides, None).unwrap()
}

#[test]
fn the_graph_is_what_its_generator_makes() {
    let generated = graph::generate();
    if std::env::var_os("WRITE_DESCRIPTOR").is_some() {
        std::fs::write(reference(), &generated).unwrap();
    }
    assert!(
        generated == graph::FILE,
        "descriptor.onnx is not what graph.rs makes. If the vectors were meant to change, raise the number \
         in both names, run this test with WRITE_DESCRIPTOR=1, and put the new hash into src/descriptor.rs"
    );
    assert!(generated.len() < 20_000, "{} bytes", generated.len());
}

/// A scene: a sky, hills, and a few things in it, different for each seed.
fn scene(seed: u32, width: u32, height: u32) -> RgbImage {
    let random = |n: u32| {
        let mut state = (seed * 97 + n).wrapping_mul(0x9e37_79b9) ^ 0x85eb_ca6b;
        state = (state ^ state >> 15).wrapping_mul(0x2c1b_3c6d);
        f64::from((state ^ state >> 13) % 1000) / 1000.0
    };
    let things: Vec<[f64; 6]> = (0..7).map(|i| [0, 1, 2, 3, 4, 5].map(|j| random(i * 6 + j + 10))).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
        let hill = 0.3 + 0.4 * random(1) + 0.15 * (x * (3.0 + 9.0 * random(2)) + random(3) * 6.0).sin();
        let ground = [random(4), random(5), random(6)].map(|c| c * (1.2 - y));
        let sky = [0.4 + 0.4 * random(7), 0.7, 1.0].map(|c| c * (0.6 + 0.4 * y));
        let mut colour = if y > hill { ground } else { sky };
        for [cx, cy, size, r, g, b] in &things {
            if (x - cx).abs() < 0.03 + size * 0.1 && (y - cy).abs() < 0.02 + size * 0.15 {
                colour = [*r, *g, *b];
            }
        }
        Rgb(colour.map(|c| (c.clamp(0.0, 1.0) * 255.0) as u8))
    })
}

fn embedder(model: &Model) -> Embedder {
    Embedder::builder(model).backend(BackendOptions { threads: 2, ..BackendOptions::default() }).build()
}

fn embed(embedder: &Embedder, pictures: &[RgbImage]) -> Vec<Vec<f32>> {
    let embedded = embedder.embed_all(pictures).unwrap();
    embedded.into_iter().map(|embedded| embedded.unwrap().into_vector().unwrap()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// How the same picture comes back: smaller, cropped a little, brighter, grey, saved badly.
fn changed(picture: &RgbImage) -> Vec<(&'static str, RgbImage)> {
    let (width, height) = picture.dimensions();
    let mut bright = picture.clone();
    bright.iter_mut().for_each(|level| *level = (f32::from(*level) * 1.25).min(255.0) as u8);
    let mut jpeg = std::io::Cursor::new(Vec::new());
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 10).encode_image(picture).unwrap();
    let jpeg = image::load_from_memory(&jpeg.into_inner()).unwrap().into_rgb8();
    let grey = image::DynamicImage::from(image::DynamicImage::from(picture.clone()).into_luma8()).into_rgb8();
    vec![
        ("half as large", resize(picture, width / 2, height / 2, FilterType::Triangle)),
        ("cropped", crop_imm(picture, width / 40, height / 40, width * 19 / 20, height * 19 / 20).to_image()),
        ("brighter", bright),
        ("saved badly", jpeg),
        ("grey", grey),
    ]
}

#[test]
fn near_duplicates_are_nearest() {
    let embedder = embedder(&Model::builtin().unwrap());
    assert_eq!(embedder.describe().unwrap().1, 512);
    let originals: Vec<RgbImage> = (0..8).map(|seed| scene(seed, 160, 120)).collect();
    let vectors = embed(&embedder, &originals);
    for vector in &vectors {
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5, "length {}", cosine(vector, vector).sqrt());
    }
    for (seed, original) in originals.iter().enumerate() {
        for (how, picture) in changed(original) {
            let vector = embed(&embedder, &[picture]).remove(0);
            let near = cosine(&vector, &vectors[seed]);
            for (other, far) in vectors.iter().enumerate().filter(|(other, _)| *other != seed) {
                let far = cosine(&vector, far);
                assert!(near > far + 0.05, "scene {seed} {how}: {near} to itself, {far} to scene {other}");
            }
        }
    }
}

#[test]
fn blank_pages_are_alike_and_noise_is_not_blown_up() {
    let embedder = embedder(&Model::builtin().unwrap());
    let pages: Vec<RgbImage> =
        [0, 7, 128, 254, 255].iter().map(|level| RgbImage::from_pixel(50, 70, Rgb([*level; 3]))).collect();
    let vectors = embed(&embedder, &pages);
    for vector in &vectors {
        assert!(cosine(vector, &vectors[0]) > 0.999_999);
    }
    // A single dark pixel in the middle is something, a coloured page something else.
    let mut dot = RgbImage::from_pixel(224, 224, Rgb([255; 3]));
    dot.put_pixel(112, 112, Rgb([0; 3]));
    let red = RgbImage::from_pixel(50, 70, Rgb([200, 30, 30]));
    for vector in embed(&embedder, &[dot, red]) {
        assert!(cosine(&vector, &vectors[0]) < 0.5);
    }
}

#[test]
fn a_picture_gives_the_same_bits_wherever_it_is_in_a_batch() {
    let embedder = embedder(&Model::builtin().unwrap());
    let pictures: Vec<RgbImage> = (0..5).map(|seed| scene(seed, 90, 70)).collect();
    let together = embed(&embedder, &pictures);
    for (picture, wanted) in pictures.iter().zip(&together) {
        assert_eq!(&embed(&embedder, std::slice::from_ref(picture))[0], wanted);
    }
}

#[test]
fn the_fingerprint_is_that_of_the_graph() {
    let (builtin, graph) = (Model::builtin().unwrap(), reference_model());
    assert_eq!(builtin.fingerprint().id(), graph.fingerprint().id());
}

#[test]
fn the_fingerprint_is_what_it_was() {
    // Vectors of stores that exist depend on it: it may change only together with the vectors.
    let model = Model::builtin().unwrap();
    let id: String = model.fingerprint().id().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(id, "d521553b7d3878a4");
    assert_eq!(
        model.fingerprint().description(),
        "descriptor-1 261b7fb7, output embedding; decode 1: upright, first frame, over white; resize 224x224 \
         bilinear; rgb x 0.00392156862745098; mean 0 0 0; std 1 1 1"
    );
}
