//! Pictures and vectors compared, not timed.

use std::io::Write;
use std::path::PathBuf;

use vecstore_embed::image::decode;
use vecstore_embed::image::preprocess::{JpegScale, Preprocess, Resample, Resize, Sides, parse_triple};
use vecstore_embed::{DecodeLimits, Embedder, Model, PreprocessOverrides};

use crate::{Outcome, clip};

#[derive(clap::Args)]
pub struct Levels {
    /// 224 for the shortest edge, or HEIGHTxWIDTH
    #[arg(long)]
    size: Resize,
    #[arg(long)]
    crop: Option<Sides>,
    #[arg(long)]
    filter: Resample,
    pictures: Vec<PathBuf>,
}

/// Writes the levels of every picture, planes of red, green and blue, one behind the other.
pub fn levels(args: &Levels) -> Outcome<()> {
    let options = PreprocessOverrides {
        size: Some(args.size),
        crop: args.crop,
        filter: Some(args.filter),
        mean: Some([0.0; 3]),
        std: Some([1.0 / 255.0; 3]),
        ..PreprocessOverrides::default()
    };
    let preprocess = Preprocess::from_overrides(&options)?.ok_or("size, mean and std are given")?;
    let mut out = std::io::stdout().lock();
    let mut tensor = vec![0.0; preprocess.tensor_len()];
    for path in &args.pictures {
        let picture = decode(&std::fs::read(path)?, &DecodeLimits::default())?;
        preprocess.apply(&picture, &mut tensor)?;
        let levels: Vec<u8> = tensor.iter().map(|level| level.round() as u8).collect();
        out.write_all(&levels)?;
    }
    Ok(())
}

#[derive(clap::Args)]
pub struct Drift {
    /// A model with weights that mean something tells more than one without
    #[arg(long)]
    model: PathBuf,
    /// Name of the output that holds the vectors, where there are several
    #[arg(long)]
    output: Option<String>,
    /// Subtracted from each channel, and what it is divided by then; those of CLIP unless given
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple, requires = "std")]
    mean: Option<[f32; 3]>,
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple, requires = "mean")]
    std: Option<[f32; 3]>,
    pictures: Vec<PathBuf>,
}

/// Prints the cosine between the vectors of each picture, decoded exactly and decoded smaller.
pub fn drift(args: &Drift) -> Outcome<()> {
    let embedder = |jpeg| -> Outcome<Embedder> {
        let clip = clip(jpeg);
        let (mean, std) = (args.mean.or(clip.mean), args.std.or(clip.std));
        let overrides = PreprocessOverrides { mean, std, ..clip };
        Ok(Embedder::builder(&Model::from_file(&args.model, &overrides, args.output.as_deref())?).build())
    };
    let (exact, scaled) = (embedder(JpegScale::Exact)?, embedder(JpegScale::Scaled)?);
    let cosine =
        |one: &[f32], other: &[f32]| -> f64 { one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum() };
    let (mut cosines, mut vectors) = (Vec::new(), Vec::new());
    for path in &args.pictures {
        let (exact, scaled) = (exact.embed_file(path)?, scaled.embed_file(path)?);
        let same = cosine(&exact, &scaled);
        println!("{same:.6}  {}", path.display());
        cosines.push(same);
        vectors.push(exact);
    }
    let worst = cosines.iter().copied().fold(f64::INFINITY, f64::min);
    println!("median {:.6}, worst {worst:.6}", crate::runs::median(&cosines));
    let pairs = vectors
        .iter()
        .enumerate()
        .flat_map(|(at, one)| vectors.iter().take(at).map(|other| cosine(one, other)));
    let pairs: Vec<f64> = pairs.collect();
    if !pairs.is_empty() {
        let most = pairs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        println!(
            "for comparison, two different pictures: median {:.6}, most {most:.6}",
            crate::runs::median(&pairs)
        );
    }
    Ok(())
}
