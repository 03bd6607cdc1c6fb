//! The built-in model: a description of a picture that needs no learnt weights.
//!
//! It is plain Rust, so a first run downloads nothing and needs no engine. It sees what a picture *looks*
//! like, not what it shows: the same photograph resized, recompressed, slightly cropped, brightened or made
//! grey is found; another photograph of the same dog is not, and a mirror image is not.
//!
//! The input is one picture of 224 x 224 pixels as three planes of `f32`, RGB, 0 to 1. The output has 512
//! numbers and length 1. It is made of four blocks, each brought to length 1, compressed, brought to length 1
//! again and weighted:
//!
//! | values | block | weight |
//! |---|---|---|
//! | 200 | layout of light: the lowest coefficients of the cosine transform of the 32 x 32 luma, without the mean, each multiplied by its frequency, because in pictures they fall off like its inverse | 1 |
//! | 128 | edges: energy of the gradient in 8 directions in 4 x 4 cells, of the luma at 112 x 112 | 1 |
//! | 128 | edges at 56 x 56 | 1 |
//! | 56 | layout of colour: the 28 lowest coefficients of each chroma channel at 32 x 32, mean included, times frequency to the power 0.7 | 0.6 |
//!
//! The compression is `x / sqrt(|x| + 0.02)`: a square root that keeps the sign, and is straight near zero.
//!
//! Bringing to length 1 would blow up rounding noise where there is nothing else: on a blank page,
//! differently on each machine. So what is far below one level of one pixel counts as zero, and a hundredth
//! is added to the first value at the end: a picture that is one even grey gives the unit vector along it,
//! like any other blank page.
//!
//! The same computation is kept as an ONNX graph in `tests/descriptor/`, next to its generator. It is the
//! reference: the tests hold this code to it, and the model's fingerprint is that of the graph.

use std::f64::consts::PI;

/// The model's name. The number goes up when the vectors change.
pub const NAME: &str = "descriptor-1";

/// BLAKE3 of the reference graph, which is what the model's fingerprint is made from.
pub(crate) const REFERENCE: [u8; 32] = [
    0x26, 0x1b, 0x7f, 0xb7, 0x3a, 0xb5, 0x0e, 0x73, 0x45, 0x2a, 0x96, 0xc5, 0xe4, 0xdc, 0xdf, 0xfa, 0x4e,
    0xc1, 0x14, 0x45, 0xa3, 0x98, 0xba, 0xef, 0xf0, 0x9a, 0x52, 0xf3, 0x42, 0xb9, 0x1c, 0xb4,
];

/// Side of the input.
const SIDE: usize = 224;

/// Numbers in the input.
pub(crate) const PIXELS: usize = 3 * SIDE * SIDE;

/// Numbers in a vector.
pub(crate) const DIM: usize = 512;

/// Side of the small picture that the cosine transforms see.
const THUMB: usize = 32;

/// Added to a squared length before the root, so that a block of zeros stays one.
const TINY: f32 = 1e-6;

/// Cosine coefficients this near to zero are rounding: measured at up to 1.2e-6 on even greys, while in
/// photographs half of them are above 0.1. All are brought that much nearer to zero, so that none jumps.
const COEFFICIENT_NOISE: f32 = 2e-5;

/// The same for slopes: rounding 5e-8, one level in one pixel 6e-5, photographs around 0.01.
const SLOPE_NOISE: f32 = 1e-6;

/// What the first value has where there is nothing: see the head of this module.
const BLANK: f32 = 1e-2;

/// Luma and chroma from RGB, as JPEG (ITU-R BT.601) has them, chroma around zero.
const YCC: [[f32; 3]; 3] =
    [[0.299, 0.587, 0.114], [-0.168_736, -0.331_264, 0.5], [0.5, -0.418_688, -0.081_312]];

/// Cells of the gradient, per side.
const CELLS: usize = 4;

/// Directions of the gradient. The second half is opposite to the first.
const DIRECTIONS: usize = 8;

/// Values of an edge block.
const EDGES: usize = DIRECTIONS * CELLS * CELLS;

/// Pixels to each side of the middle of the gradient's filters.
const REACH: usize = 3;

/// Sides of these filters.
const WINDOW: usize = 2 * REACH + 1;

/// Standard deviation of the Gaussian of the gradient's filters, in pixels.
const BLUR: f64 = 1.4;

/// The tables of the descriptor, and room for what it computes on the way.
pub(crate) struct Descriptor {
    /// Rows of the orthonormal cosine transform, by frequency.
    cosines: [[f32; THUMB]; Light::SIDE],
    light: Vec<Kept>,
    chroma: Vec<Kept>,
    filters: Filters,
    luma: Vec<f32>,
    fine: Vec<f32>,
    coarse: Vec<f32>,
    slopes: Slopes,
}

/// The block of luma coefficients.
struct Light;

impl Light {
    /// Frequencies per axis.
    const SIDE: usize = 16;
    const COUNT: usize = 200;
}

/// The block of chroma coefficients, for each channel.
struct Chroma;

impl Chroma {
    const SIDE: usize = 8;
    const COUNT: usize = 28;
}

/// A coefficient that is part of a block.
struct Kept {
    down: usize,
    across: usize,
    weight: f32,
}

/// The `count` coefficients nearest to frequency zero of `side` x `side`, each weighted by its frequency to
/// `power`. The mean, if it is one of them, counts as frequency one half.
fn kept(side: usize, count: usize, mean: bool, power: f64) -> Vec<Kept> {
    let mut order: Vec<(usize, usize, usize)> = (0..side)
        .flat_map(|down| (0..side).map(move |across| (down * down + across * across, down, across)))
        .filter(|(square, _, _)| mean || *square > 0)
        .collect();
    order.sort_unstable();
    order.truncate(count);
    let weight = |square: usize| (square as f64).sqrt().max(0.5).powf(power) as f32;
    order.into_iter().map(|(square, down, across)| Kept { down, across, weight: weight(square) }).collect()
}

fn cosines() -> [[f32; THUMB]; Light::SIDE] {
    let length = THUMB as f64;
    let cosine = |frequency: usize, at: usize| {
        let wave = (PI * (at as f64 + 0.5) * frequency as f64 / length).cos() * (2.0 / length).sqrt();
        (if frequency == 0 { wave / 2f64.sqrt() } else { wave }) as f32
    };
    std::array::from_fn(|frequency| std::array::from_fn(|at| cosine(frequency, at)))
}

/// The slope in a direction, of what a Gaussian has smoothed:
/// `-(cos x + sin y) exp(-(x^2 + y^2) / 2 BLUR^2)`, scaled so that the absolute values add up to 1.
/// Both parts are products of a function of x and one of y.
struct Filters {
    /// The Gaussian at 0 to [`REACH`].
    smooth: [f32; REACH + 1],
    /// The Gaussian times its distance, at 1 to [`REACH`].
    slope: [f32; REACH],
    /// What the slopes along x and along y count in each of the first four directions.
    turned: [(f32, f32); DIRECTIONS / 2],
}

impl Filters {
    fn new() -> Self {
        let gauss = |at: i32| (-f64::from(at * at) / (2.0 * BLUR * BLUR)).exp();
        let reach = REACH as i32;
        let turned = |turn: usize| {
            let (sin, cos) = (turn as f64 * PI / 4.0).sin_cos();
            let weight =
                |y: i32, x: i32| ((cos * f64::from(x) + sin * f64::from(y)) * gauss(x) * gauss(y)).abs();
            let total: f64 = (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| weight(y, x))).sum();
            ((-cos / total) as f32, (-sin / total) as f32)
        };
        Filters {
            smooth: std::array::from_fn(|at| gauss(at as i32) as f32),
            slope: std::array::from_fn(|at| ((at + 1) as f64 * gauss(at as i32 + 1)) as f32),
            turned: std::array::from_fn(turned),
        }
    }
}

/// Room for the slopes of one luma.
#[derive(Default)]
struct Slopes {
    /// Per row: the slope along x, and the luma smoothed along x.
    along: Vec<f32>,
    smooth: Vec<f32>,
    /// Of one row of the result: the slopes along x and along y.
    slope_x: Vec<f32>,
    slope_y: Vec<f32>,
    /// The energy in each direction, summed over the rows of a cell, by columns.
    energy: Vec<f32>,
}

impl Descriptor {
    pub(crate) fn new() -> Self {
        Descriptor {
            cosines: cosines(),
            light: kept(Light::SIDE, Light::COUNT, false, 1.0),
            chroma: kept(Chroma::SIDE, Chroma::COUNT, true, 0.7),
            filters: Filters::new(),
            luma: vec![0.0; SIDE * SIDE],
            fine: vec![0.0; SIDE / 2 * (SIDE / 2)],
            coarse: vec![0.0; SIDE / 4 * (SIDE / 4)],
            slopes: Slopes::default(),
        }
    }

    /// The vector of one picture, which has [`PIXELS`] numbers.
    ///
    /// # Panics
    /// If there are fewer.
    pub(crate) fn describe(&mut self, pixels: &[f32]) -> [f32; DIM] {
        debug_assert_eq!(pixels.len(), PIXELS);
        let (red, rest) = pixels.split_at(SIDE * SIDE);
        let (green, blue) = rest.split_at(SIDE * SIDE);
        let [r, g, b] = YCC[0];
        for (luma, ((red, green), blue)) in self.luma.iter_mut().zip(red.iter().zip(green).zip(blue)) {
            *luma = r * red + g * green + b * blue;
        }
        halve(&self.luma, SIDE, &mut self.fine);
        halve(&self.fine, SIDE / 2, &mut self.coarse);
        let thumbs = [red, green, blue].map(thumb);

        let mut vector = [0.0; DIM];
        let (light, rest) = vector.split_at_mut(Light::COUNT);
        let (fine, rest) = rest.split_at_mut(EDGES);
        let (coarse, colour) = rest.split_at_mut(EDGES);
        self.coefficients(&mixed(&thumbs, YCC[0]), Light::SIDE, &self.light, light);
        self.slopes.edges(&self.filters, &self.fine, SIDE / 2, fine);
        self.slopes.edges(&self.filters, &self.coarse, SIDE / 4, coarse);
        let (towards_blue, towards_red) = colour.split_at_mut(Chroma::COUNT);
        self.coefficients(&mixed(&thumbs, YCC[1]), Chroma::SIDE, &self.chroma, towards_blue);
        self.coefficients(&mixed(&thumbs, YCC[2]), Chroma::SIDE, &self.chroma, towards_red);
        for (block, weight) in [(light, 1.0), (fine, 1.0), (coarse, 1.0), (colour, 0.6)] {
            compress(block, weight);
        }
        vector[0] += BLANK;
        unit(&mut vector);
        vector
    }

    /// The weighted coefficients that `kept` names of the cosine transform of `thumb`.
    fn coefficients(&self, thumb: &Thumb, side: usize, kept: &[Kept], into: &mut [f32]) {
        let dot = |a: &[f32; THUMB], b: &[f32; THUMB]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        // By frequency along x, for each row.
        let rows: Vec<[f32; THUMB]> =
            self.cosines.iter().take(side).map(|wave| thumb.each_ref().map(|row| dot(row, wave))).collect();
        for (value, Kept { down, across, weight }) in into.iter_mut().zip(kept) {
            let coefficient = dot(&self.cosines[*down], &rows[*across]);
            *value = (coefficient - coefficient.clamp(-COEFFICIENT_NOISE, COEFFICIENT_NOISE)) * weight;
        }
    }
}

/// A plane at [`THUMB`] x [`THUMB`], by rows.
type Thumb = [[f32; THUMB]; THUMB];

/// Means of squares of 7 pixels.
fn thumb(plane: &[f32]) -> Thumb {
    const STEP: usize = SIDE / THUMB;
    let mut thumb = [[0.0; THUMB]; THUMB];
    for (row, lines) in thumb.iter_mut().zip(plane.chunks_exact(SIDE * STEP)) {
        for line in lines.chunks_exact(SIDE) {
            for (sum, pixels) in row.iter_mut().zip(line.chunks_exact(STEP)) {
                *sum += pixels.iter().sum::<f32>();
            }
        }
        row.iter_mut().for_each(|sum| *sum /= (STEP * STEP) as f32);
    }
    thumb
}

/// One channel of the colours that three planes have.
fn mixed([red, green, blue]: &[Thumb; 3], [r, g, b]: [f32; 3]) -> Thumb {
    let mut channel = [[0.0; THUMB]; THUMB];
    let planes = red.iter().zip(green).zip(blue);
    for (row, ((red, green), blue)) in channel.iter_mut().zip(planes) {
        for (value, ((red, green), blue)) in row.iter_mut().zip(red.iter().zip(green).zip(blue)) {
            *value = r * red + g * green + b * blue;
        }
    }
    channel
}

/// Means of squares of 2 pixels of a plane of `side` x `side`.
fn halve(plane: &[f32], side: usize, into: &mut [f32]) {
    for (row, lines) in into.chunks_exact_mut(side / 2).zip(plane.chunks_exact(side * 2)) {
        let (upper, lower) = lines.split_at(side);
        let pairs = upper.chunks_exact(2).zip(lower.chunks_exact(2));
        for (mean, (upper, lower)) in row.iter_mut().zip(pairs) {
            *mean = (upper.iter().sum::<f32>() + lower.iter().sum::<f32>()) * 0.25;
        }
    }
}

impl Slopes {
    /// The energies of the gradient of a luma of `side` x `side`: by direction, then by cell. The frame of
    /// the picture, which would be an edge like any other, is left out.
    fn edges(&mut self, filters: &Filters, luma: &[f32], side: usize, into: &mut [f32]) {
        let width = side - 2 * REACH;
        let cell = width / CELLS;
        self.along_rows(filters, luma, side);
        let used = CELLS * cell;
        self.energy.resize(DIRECTIONS * used, 0.0);
        self.slope_x.resize(used, 0.0);
        self.slope_y.resize(used, 0.0);
        for row_of_cells in 0..CELLS {
            self.energy.fill(0.0);
            for y in row_of_cells * cell..(row_of_cells + 1) * cell {
                self.add_row(filters, y, width, used);
            }
            for (direction, energy) in self.energy.chunks_exact(used).enumerate() {
                let first = (direction * CELLS + row_of_cells) * CELLS;
                for (value, part) in into[first..].iter_mut().zip(energy.chunks_exact(cell)) {
                    *value = part.iter().sum::<f32>() / (cell * cell) as f32;
                }
            }
        }
    }

    fn along_rows(&mut self, filters: &Filters, luma: &[f32], side: usize) {
        let width = side - 2 * REACH;
        self.along.resize(side * width, 0.0);
        self.smooth.resize(side * width, 0.0);
        let [s0, s1, s2, s3] = filters.smooth;
        let [d1, d2, d3] = filters.slope;
        let rows = self.along.chunks_exact_mut(width).zip(self.smooth.chunks_exact_mut(width));
        for ((along, smooth), line) in rows.zip(luma.chunks_exact(side)) {
            let values = along.iter_mut().zip(smooth).zip(line.windows(WINDOW));
            for ((along, smooth), window) in values {
                let &[a, b, c, d, e, f, g] = window else { continue };
                *along = d1 * (e - c) + d2 * (f - b) + d3 * (g - a);
                *smooth = s0 * d + s1 * (c + e) + s2 * (b + f) + s3 * (a + g);
            }
        }
    }

    /// Adds what of the slopes in row `y` of the result is above the noise, for each of its first `used`
    /// columns.
    fn add_row(&mut self, filters: &Filters, y: usize, width: usize, used: usize) {
        let [s0, s1, s2, s3] = filters.smooth;
        let [d1, d2, d3] = filters.slope;
        let along = lines(&self.along, y, width, used);
        let smooth = lines(&self.smooth, y, width, used);
        for ((x, y), at) in self.slope_x.iter_mut().zip(&mut self.slope_y).zip(0..used) {
            let [a, b, c, d, e, f, g] = along.map(|line| line[at]);
            *x = s0 * d + s1 * (c + e) + s2 * (b + f) + s3 * (a + g);
            let [a, b, c, _, e, f, g] = smooth.map(|line| line[at]);
            *y = d1 * (e - c) + d2 * (f - b) + d3 * (g - a);
        }
        let (forth, back) = self.energy.split_at_mut(DIRECTIONS / 2 * used);
        let both = forth.chunks_exact_mut(used).zip(back.chunks_exact_mut(used));
        for ((forth, back), (by_x, by_y)) in both.zip(filters.turned) {
            let slopes = self.slope_x.iter().zip(&self.slope_y);
            for ((forth, back), (x, y)) in forth.iter_mut().zip(back).zip(slopes) {
                let slope = by_x * x + by_y * y;
                *forth += (slope - SLOPE_NOISE).max(0.0);
                *back += (-slope - SLOPE_NOISE).max(0.0);
            }
        }
    }
}

/// The first `used` values of as many rows as the filters are high, from row `first` on.
fn lines(plane: &[f32], first: usize, width: usize, used: usize) -> [&[f32]; WINDOW] {
    std::array::from_fn(|line| &plane[(first + line) * width..][..used])
}

/// Length 1, compressed, length 1 again, weighted.
fn compress(block: &mut [f32], weight: f32) {
    unit(block);
    block.iter_mut().for_each(|value| *value /= (value.abs() + 0.02).sqrt());
    unit(block);
    block.iter_mut().for_each(|value| *value *= weight);
}

/// Divides by the length.
fn unit(values: &mut [f32]) {
    let length = (values.iter().map(|value| value * value).sum::<f32>() + TINY).sqrt();
    values.iter_mut().for_each(|value| *value /= length);
}
