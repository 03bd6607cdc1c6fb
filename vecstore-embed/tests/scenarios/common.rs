//! What the scenarios share: pictures, a backend that is quick, and what a store holds.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use image::{Rgb, RgbImage};
use vecstore::{Kind, Reader};
use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::tensor::{Element, TensorSpec};
use vecstore_embed::{
    Embedder, EmbedderBuilder, Encoder, Files, Model, Normalise, OutputOptions, PreprocessOverrides, Result,
    Run, Summary,
};

fn is_tier(names: &[&str]) -> bool {
    env::var("VECSTORE_TESTS").is_ok_and(|tier| names.contains(&&*tier))
}

/// The sizes that are tried: with `VECSTORE_TESTS=full` or `random` the second, otherwise the first, which is quick. `variable`
/// overrides both.
pub fn size(variable: &str, quick: u32, full: u32) -> u32 {
    let all = is_tier(&["full", "random"]);
    env::var(variable).map_or(if all { full } else { quick }, |value| value.parse().unwrap())
}

/// The same numbers every time, so that a failure can be repeated; with `VECSTORE_TESTS=random` other ones each time.
pub fn seed() -> u64 {
    let usual = if is_tier(&["random"]) { 0 } else { 1 };
    match size("VECSTORE_EMBED_SEED", usual, usual) {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64,
        seed => seed.into(),
    }
}

/// The next of a row of numbers below `below`, without a pattern (splitmix64).
pub fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % below
}

/// A folder that goes away at the end of the test, and where it is.
pub struct Place {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        Place { _dir: dir, path }
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A folder in it that holds pictures `0.png` ... in `a` and `b`.
    pub fn photos(&self, count: u32) -> PathBuf {
        let photos = self.join("photos");
        for at in 0..count {
            write_picture(&photos.join(format!("{}/{at:03}.png", if at % 2 == 0 { "a" } else { "b" })), at);
        }
        photos
    }
}

/// A picture of soft blobs that is unlike the ones of other seeds.
pub fn picture(seed: u32) -> RgbImage {
    let wave = |x: u32, scale: u32| {
        let phase = f64::from(seed.wrapping_mul(scale).wrapping_mul(2_654_435_761) % 1000) / 150.0;
        ((f64::from(x) / f64::from(3 + (seed * scale) % 11) + phase).sin() * 100.0 + 128.0) as u8
    };
    RgbImage::from_fn(48, 40, |x, y| {
        Rgb([wave(x + y / 2, 1), wave(y, 3) / 2 + wave(x, 5) / 2, wave(x.abs_diff(y), 7)])
    })
}

/// Writes one, in the format its name says, and its folder.
pub fn write_picture(path: &Path, seed: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture(seed).save(path).unwrap();
}

const PLAIN: &str = concat!("--model=", env!("CARGO_MANIFEST_DIR"), "/tests/models/plain.onnx");

/// A model whose pictures are prepared in no time, and that takes none: for what is about everything else. The built-in
/// one where the program has no engine for it.
pub const TINY: &[&str] =
    if cfg!(feature = "tract") { &[PLAIN, "--size=8x8", "--mean=0", "--std=1"] } else { &[] };

/// The same model, for backends that stand for it.
pub fn tiny() -> Model {
    tiny_with(Normalise::L2)
}

pub fn tiny_with(normalise: Normalise) -> Model {
    let sides = PreprocessOverrides {
        size: Some("8x8".parse().unwrap()),
        mean: Some([0.0; 3]),
        std: Some([1.0; 3]),
        ..PreprocessOverrides::default()
    };
    let output = OutputOptions { normalise, ..OutputOptions::default() };
    Model::from_file_with(Path::new(&PLAIN["--model=".len()..]), &sides, &output).unwrap()
}

/// What a store accounts for a key with.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    Vector(Vec<f32>),
    Rejected(String),
}

/// Everything in a store. Fails when a key is there twice.
pub fn contents(store: &Path) -> BTreeMap<String, Stored> {
    let snapshot = Reader::open(store).unwrap().snapshot();
    let mut contents = BTreeMap::new();
    for entry in snapshot.iter() {
        let entry = entry.unwrap();
        let stored = match entry.kind() {
            Kind::Rows => Stored::Vector(entry.to_f32().unwrap()),
            Kind::Rejected => Stored::Rejected(entry.reason().unwrap().to_owned()),
            other => panic!("{other:?}"),
        };
        let key = String::from_utf8_lossy(entry.key()).into_owned();
        assert_eq!(contents.insert(key.clone(), stored), None, "{key} is there twice");
    }
    let totals = snapshot.totals();
    assert_eq!(totals.entries, contents.len() as u64);
    assert_eq!(totals.tombstones, 0);
    contents
}

pub fn keys(store: &Path) -> Vec<String> {
    contents(store).into_keys().collect()
}

/// Asserts that two stores account for the same keys, with vectors that differ by 1e-6 at most.
pub fn assert_same(left: &BTreeMap<String, Stored>, right: &BTreeMap<String, Stored>) {
    assert!(left.keys().eq(right.keys()), "{} and {} keys", left.len(), right.len());
    for (key, stored) in left {
        match (stored, &right[key]) {
            (Stored::Vector(left), Stored::Vector(right)) => {
                assert_eq!(left.len(), right.len(), "{key}");
                let apart = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(apart <= 1e-6, "{key}: {apart}");
            }
            (left, right) => assert_eq!(left, right, "{key}"),
        }
    }
}

/// A run over the files of a folder.
pub fn flat(folder: impl Into<PathBuf>, store: impl Into<PathBuf>) -> Run {
    Run::new(Files::new(folder), store)
}

/// A run over the files of a folder and of those in it.
pub fn tree(folder: impl Into<PathBuf>, store: impl Into<PathBuf>) -> Run {
    Run::new(Files::new(folder).with_recursive(true), store)
}

/// Batches of four on an encoder of the test.
pub fn on(model: &Model, encoder: Box<dyn Encoder>) -> EmbedderBuilder {
    Embedder::builder(model).batch(4).encoders(vec![encoder])
}

pub trait RunOn {
    fn run_on(&self, model: &Model, encoder: Box<dyn Encoder>) -> Result<Summary>;
}

impl RunOn for Run {
    fn run_on(&self, model: &Model, encoder: Box<dyn Encoder>) -> Result<Summary> {
        self.run(&on(model, encoder).build())
    }
}

/// A few numbers per picture, in no time: means of its strips. Eight unless told otherwise.
pub struct Strips {
    signature: Signature,
    /// Called with the number of the batch before it is encoded.
    before: Box<dyn FnMut(usize) -> Result<()> + Send>,
    batches: usize,
}

impl Strips {
    pub fn boxed() -> Box<dyn Encoder> {
        Strips::before(|_| Ok(()))
    }

    pub fn wide(dim: usize) -> Box<dyn Encoder> {
        Strips::make(dim, |_| Ok(()))
    }

    pub fn before(before: impl FnMut(usize) -> Result<()> + Send + 'static) -> Box<dyn Encoder> {
        Strips::make(8, before)
    }

    fn make(dim: usize, before: impl FnMut(usize) -> Result<()> + Send + 'static) -> Box<dyn Encoder> {
        let shape = vec![Some(3), None, None];
        let signature = Signature {
            inputs: vec![TensorSpec { name: "pixels".to_owned(), element: Element::F32, shape }],
            outputs: vec![TensorSpec::new("strips", Element::F32, &[dim])],
        };
        Box::new(Strips { signature, before: Box::new(before), batches: 0 })
    }
}

impl Encoder for Strips {
    fn name(&self) -> &str {
        "strips"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        (self.before)(self.batches)?;
        self.batches += 1;
        let (pixels, dim) = (batch.inputs[0].numbers.to_f32(), self.signature.dim());
        let mean = |strip: &[f32]| strip.iter().sum::<f32>() / strip.len() as f32;
        let picture = |pixels: &[f32]| pixels.chunks(pixels.len() / dim).map(mean).collect::<Vec<f32>>();
        let numbers = pixels.chunks(pixels.len() / batch.items).flat_map(picture).collect();
        Ok(vec![Output { name: "strips".to_owned(), shape: vec![batch.items, dim], numbers }])
    }
}
