//! The pictures in `examples/photos`: groups of near-duplicates, so that a search has something to find, in
//! every supported format; and one file cut off in the middle, so that a run has something to reject.

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, colorops, crop_imm, resize, rotate270};
use image::{ImageEncoder, ImageFormat, ImageResult, Rgb, RgbImage};

use crate::painting::{Scene, Subject};

/// The picture whose file ends too early.
pub const TRUNCATED: &str = "city/towers-cut-off.jpg";

/// Every picture: its path within the folder, with `/`, and the bytes of its file.
///
/// The part of a file's name before the first `-` or `.` names its group: pictures that show the same scene.
///
/// # Errors
/// An encoder's error; no encoder has a reason to fail on these pictures.
pub fn photos() -> ImageResult<Vec<(&'static str, Vec<u8>)>> {
    let ridge = Scene::new(Subject::Mountains, 11).paint(320, 240);
    let lake = Scene::new(Subject::Mountains, 29).paint(320, 240);
    let poppies = Scene::new(Subject::Meadow, 4).paint(320, 240);
    let towers = Scene::new(Subject::City, 5).paint(320, 240);
    let sails = Scene::new(Subject::Sea, 8).paint(320, 240);
    let mut cut_off = jpeg(&towers, 80)?;
    cut_off.truncate(cut_off.len() / 2);
    Ok(vec![
        ("city/towers.jpg", jpeg(&towers, 90)?),
        ("city/towers-brighter.png", encode(&brighter(&towers), ImageFormat::Png)?),
        ("city/towers-cropped.webp", encode(&cropped(&towers), ImageFormat::WebP)?),
        (TRUNCATED, cut_off),
        ("city/towers-quality-20.jpg", jpeg(&towers, 20)?),
        ("city/towers-small.bmp", encode(&half(&towers), ImageFormat::Bmp)?),
        ("garden/poppies.png", encode(&poppies, ImageFormat::Png)?),
        ("garden/poppies-256-colours.gif", encode(&half(&poppies), ImageFormat::Gif)?),
        ("garden/poppies-brighter.jpg", jpeg(&brighter(&poppies), 85)?),
        ("garden/poppies-cropped.jpg", jpeg(&cropped(&poppies), 85)?),
        ("garden/poppies-really-a-png.jpg", encode(&half(&poppies), ImageFormat::Png)?),
        ("travel/lake.webp", encode(&lake, ImageFormat::WebP)?),
        ("travel/lake-quality-20.jpg", jpeg(&lake, 20)?),
        ("travel/lake-small.png", encode(&half(&lake), ImageFormat::Png)?),
        ("travel/ridge.jpg", jpeg(&ridge, 90)?),
        ("travel/ridge-brighter.jpg", jpeg(&brighter(&ridge), 85)?),
        ("travel/ridge-cropped.png", encode(&cropped(&ridge), ImageFormat::Png)?),
        ("travel/ridge-held-upright.jpg", jpeg_held_upright(&ridge)?),
        ("travel/sails.jpg", jpeg(&sails, 90)?),
        ("travel/sails-grey.jpg", jpeg(&grey(&sails), 85)?),
        ("travel/sails-small.tiff", encode(&half(&sails), ImageFormat::Tiff)?),
    ])
}

/// The picture as a JPEG file.
///
/// # Errors
/// The encoder's error.
pub fn jpeg(picture: &RgbImage, quality: u8) -> ImageResult<Vec<u8>> {
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, quality).encode_image(picture)?;
    Ok(file)
}

/// Stored turned by a quarter, with the EXIF orientation (6: turn by 90 degrees clockwise to view) that
/// undoes it.
fn jpeg_held_upright(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    // A little-endian TIFF header, one directory with one entry: tag 0x0112, type short, count 1, value 6.
    const ORIENTATION_6: [u8; 26] = *b"II\x2A\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut file = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut file, 85);
    encoder.set_exif_metadata(ORIENTATION_6.to_vec()).map_err(image::ImageError::Unsupported)?;
    encoder.encode_image(&rotate270(picture))?;
    Ok(file)
}

fn encode(picture: &RgbImage, format: ImageFormat) -> ImageResult<Vec<u8>> {
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, format)?;
    Ok(file.into_inner())
}

fn half(picture: &RgbImage) -> RgbImage {
    // The triangle filter needs no sine, so that the bytes are the same on every machine.
    resize(picture, picture.width() / 2, picture.height() / 2, FilterType::Triangle)
}

fn brighter(picture: &RgbImage) -> RgbImage {
    colorops::brighten(picture, 25)
}

/// The picture without a twentieth on the left and at the top.
fn cropped(picture: &RgbImage) -> RgbImage {
    let (x, y) = (picture.width() / 20, picture.height() / 20);
    crop_imm(picture, x, y, picture.width() - x, picture.height() - y).to_image()
}

fn grey(picture: &RgbImage) -> RgbImage {
    let mut grey = picture.clone();
    for pixel in grey.pixels_mut() {
        let [red, green, blue] = pixel.0.map(u32::from);
        *pixel = Rgb([((red * 3 + green * 6 + blue) / 10) as u8; 3]);
    }
    grey
}
