//! The pictures that an examination works on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{Rgb, RgbImage};

use crate::base::{Error, Result};
use crate::image::{DecodeLimits, sniff};
use crate::model::Model;
use crate::source::HEAD;
use crate::tensor::{Tensor, split};

/// Files that are opened before the search for pictures is given up.
const MOST_LOOKED_AT: usize = 10_000;
/// Larger files are left out, as a run rejects them.
const MOST_BYTES: u64 = 512 << 20;

/// Pictures as they lie on a disk, in memory.
#[derive(Clone, Debug)]
pub struct Pictures {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Pictures {
    /// JPEGs of 1024 x 768, all different, of which a decoder makes about as much work as of photographs.
    pub fn made(count: usize) -> Self {
        let made = |seed: usize| {
            let mut noise = seed as u64 + 1;
            let picture = RgbImage::from_fn(1024, 768, |x, y| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let grain = (noise >> 60) as f32 - 8.0;
                let wave = |scale: usize| {
                    let turn = (x as f32 / (40 + seed * 7) as f32 + y as f32 / (20 * scale + 9) as f32).sin();
                    (128.0 + 90.0 * turn + grain).clamp(0.0, 255.0) as u8
                };
                Rgb([wave(1), wave(2 + seed % 3), wave(5)])
            });
            let mut bytes = Vec::new();
            // Writing to memory does not fail, and what had no bytes would be refused by the decoder.
            let _ = JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture);
            (PathBuf::from(format!("made-{seed}.jpg")), bytes)
        };
        Pictures { files: (0..count.max(1)).map(made).collect() }
    }

    /// The first pictures in a folder and the folders in it, at most `count`.
    ///
    /// # Errors
    /// The folder cannot be read, or holds none.
    pub fn of_folder(folder: &Path, count: usize) -> Result<Self> {
        let mut files = Vec::new();
        let (mut folders, mut looked_at) = (vec![folder.to_owned()], 0);
        while let Some(next) = folders.pop()
            && files.len() < count.max(1)
            && looked_at < MOST_LOOKED_AT
        {
            let mut entries: Vec<PathBuf> = match next.read_dir() {
                Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
                Err(error) if next == folder => {
                    let remedy = "check its permissions and its drive";
                    return Err(Error::io(folder, "read the folder", remedy)(error));
                }
                Err(_) => continue,
            };
            entries.sort();
            for path in entries {
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if looked_at < MOST_LOOKED_AT && files.len() < count.max(1) && path.is_file() {
                    looked_at += 1;
                    if let Some(bytes) = read_picture(&path) {
                        files.push((path, bytes));
                    }
                }
            }
        }
        if !files.is_empty() {
            return Ok(Pictures { files });
        }
        Err(Error::NoPictures { path: folder.to_owned(), looked_at })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Without those that cannot be decoded; an error if that leaves none.
    pub(super) fn good(&self, model: &Model, limits: &DecodeLimits) -> Result<Vec<(&[u8], RgbImage)>> {
        let mut first_bad = None;
        let mut good = Vec::new();
        for (path, bytes) in &self.files {
            match model.preprocess().decode(bytes, limits) {
                Ok(picture) => good.push((&bytes[..], picture)),
                Err(rejected) => {
                    let reason = rejected.to_string();
                    first_bad.get_or_insert(Error::BadPicture { path: path.clone(), reason });
                }
            }
        }
        match (good.is_empty(), first_bad) {
            (true, Some(bad)) => Err(bad),
            _ => Ok(good),
        }
    }

    /// A batch of them, prepared; over again from the first where there are fewer.
    pub(super) fn tensor(&self, model: &Model, limits: &DecodeLimits, batch: usize) -> Result<Tensor> {
        let (length, good) = (model.preprocess().tensor_len(), self.good(model, limits)?);
        let tensor = Tensor::plain(model.input().element, batch.saturating_mul(length));
        let (parts, slots) = split(vec![(tensor, length)], batch);
        for (mut slot, (_, picture)) in slots.into_iter().zip(good.iter().cycle()) {
            model.preprocess().apply_to(picture, slot.input(0))?;
        }
        let whole = parts.join().ok().and_then(|mut tensors| tensors.pop());
        Ok(whole.map_or_else(|| Tensor::plain(model.input().element, 0), |(tensor, _)| tensor))
    }
}

/// A file's bytes, if it begins as a picture does. Others may be of any size, and are not read any further.
fn read_picture(path: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut bytes).ok()?;
    sniff(&bytes)?;
    if file.metadata().ok()?.len() > MOST_BYTES {
        return None;
    }
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pictures_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let made = Pictures::made(3);
        let bytes: Vec<&[u8]> = made.files.iter().map(|(_, bytes)| &bytes[..]).collect();
        assert!(bytes[0] != bytes[1] && bytes[1] != bytes[2] && bytes[0].len() > 50_000);
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for (name, bytes) in ["1.jpg", "a/2.jpg", "a/b/3.jpg"].iter().zip(&bytes) {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        fs::create_dir(dir.path().join("a/none")).unwrap();
        for name in ["a/text.jpg", "a/none/text.jpg"] {
            fs::write(dir.path().join(name), "Dear diary").unwrap();
        }
        // Neither a sparse file of a terabyte nor one that begins as a picture does is read.
        for (name, head) in [("0-disk.img", 0), ("0.jpg", 64)] {
            let large = File::create(dir.path().join(name)).unwrap();
            large.set_len(1 << 40).unwrap();
            if head > 0 {
                std::os::unix::fs::FileExt::write_all_at(&large, &bytes[0][..head], 0).unwrap();
            }
        }
        assert_eq!(Pictures::of_folder(dir.path(), 9).unwrap().len(), 3);
        assert_eq!(Pictures::of_folder(dir.path(), 2).unwrap().len(), 2);
        let none = Pictures::of_folder(&dir.path().join("nowhere"), 2).unwrap_err();
        assert!(matches!(none, Error::Io { .. }), "{none}");
        let none = Pictures::of_folder(&dir.path().join("a/none"), 2).unwrap_err().to_string();
        assert!(none.ends_with("found none among its 1 file(s); name a folder that has some"), "{none}");

        let (model, limits) = (Model::builtin().unwrap(), DecodeLimits::default());
        let length = model.preprocess().tensor_len();
        let tensor = made.tensor(&model, &limits, 4).unwrap();
        let numbers = tensor.view().to_f32();
        let pictures: Vec<&[f32]> = numbers.chunks(length).collect();
        assert!(pictures[0] == pictures[3] && pictures[0] != pictures[1]);
        fs::write(dir.path().join("1.jpg"), &bytes[0][..1000]).unwrap();
        let cut = Pictures::of_folder(dir.path(), 1).unwrap();
        assert!(cut.tensor(&model, &limits, 1).unwrap_err().to_string().contains("truncated"));
    }
}
