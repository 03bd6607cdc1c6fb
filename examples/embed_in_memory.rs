//! `embed_in_memory`: embeds two pictures in memory, with the built-in model, and prints their cosine.

use image::imageops::thumbnail;
use image::{Rgb, RgbImage};
use vecstore_embed::{Embedder, Model, Result};

fn main() -> Result<()> {
    let embedder = Embedder::builder(&Model::builtin()?).build();
    let picture = RgbImage::from_fn(320, 240, |x, y| Rgb([(x * 3 / 4) as u8, y as u8, (x * y / 99) as u8]));
    let copy = thumbnail(&picture, 60, 45);
    let (one, other) = (embedder.embed(&picture)?, embedder.embed(&copy)?);
    // Vectors of this model have length 1, so the sum of products is the cosine.
    let cosine: f32 = one.iter().zip(&other).map(|(a, b)| a * b).sum();
    println!("cosine of a picture and a smaller copy of it: {cosine:.4}");
    Ok(())
}
