//! Pictures and vectors compared, not timed.

use std::io::Write;
use std::path::PathBuf;

use vecstore_embed::preprocess::{JpegScale, Preprocess, parse_triple};
use vecstore_embed::{BackendOptions, DecodeLimits, Model, PreprocessOverrides, open_backend, picture};

use crate::{Outcome, clip};

#[derive(clap::Args)]
pub struct Levels {
    /// 224 for the shortest edge, or HEIGHTxWIDTH
    #[arg(long)]
    size: vecstore_embed::preprocess::Resize,
    #[arg(long)]
    crop: Option<vecstore_embed::preprocess::Sides>,
    #[arg(long)]
    filter: vecstore_embed::preprocess::Filter,
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
        let picture = picture::decode(&std::fs::read(path)?, &DecodeLimits::default())?;
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
    let model = |jpeg| -> Outcome<Model> {
        let clip = clip(jpeg);
        let (mean, std) = (args.mean.or(clip.mean), args.std.or(clip.std));
        Ok(Model::from_file(&args.model, &PreprocessOverrides { mean, std, ..clip }, args.output.as_deref())?)
    };
    let (exact, scaled) = (model(JpegScale::Exact)?, model(JpegScale::Scaled)?);
    let mut backend = open_backend(&exact, &BackendOptions::default())?;
    let cosine =
        |one: &[f32], other: &[f32]| -> f64 { one.iter().zip(other).map(|(a, b)| f64::from(a * b)).sum() };
    let (mut cosines, mut vectors) = (Vec::new(), Vec::new());
    for path in &args.pictures {
        let bytes = std::fs::read(path)?;
        let mut vector = |model: &vecstore_embed::Model| -> Outcome<Vec<f32>> {
            let picture = model.preprocess().decode(&bytes, &DecodeLimits::default())?;
            let mut tensor = vec![0.0; model.preprocess().tensor_len()];
            model.preprocess().apply(&picture, &mut tensor)?;
            Ok(backend.embed(1, &tensor)?)
        };
        let (exact, scaled) = (vector(&exact)?, vector(&scaled)?);
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
