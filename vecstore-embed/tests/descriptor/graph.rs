//! The generator of the reference graph `descriptor.onnx`: what `vecstore_embed::descriptor` computes, as
//! plain ONNX operators that any engine runs. It shares no code and no table with what it is compared with.
//!
//! Input `pixels` `[N, 3, 224, 224]`, RGB, 0 to 1. Output `embedding` `[N, 512]`, of length 1.

use std::f64::consts::PI;

use crate::onnx_writer::{Attribute, Dim, Graph};

/// The graph, as it is kept.
pub const FILE: &[u8] = include_bytes!("descriptor.onnx");

/// The name in the graph. The number goes up when the graph changes.
const NAME: &str = "descriptor-1";

/// Side of the input.
const SIDE: usize = 224;

/// Side of the small picture that the cosine transforms see.
const THUMB: usize = 32;

/// Added to a squared length before the root, so that a block of zeros stays one.
const TINY: f32 = 1e-6;

/// Cosine coefficients this near to zero are rounding: measured at up to 1.2e-6 on even greys, while in
/// photographs half of them are above 0.1. All are brought that much nearer to zero, so that none jumps.
const COEFFICIENT_NOISE: f32 = 2e-5;

/// The same for slopes: rounding 5e-8, one level in one pixel 6e-5, photographs around 0.01.
const SLOPE_NOISE: f32 = 1e-6;

/// What the first value has where there is nothing: see the head of `vecstore_embed::descriptor`.
const BLANK: f32 = 1e-2;

/// Luma and chroma from RGB, as JPEG (ITU-R BT.601) has them, chroma around zero.
const YCC: [f32; 9] = [0.299, 0.587, 0.114, -0.168_736, -0.331_264, 0.5, 0.5, -0.418_688, -0.081_312];

/// Computes the graph. [`FILE`] is what this gives; it is kept so that it is the same bytes on every machine,
/// whatever its cosine rounds to.
pub fn generate() -> Vec<u8> {
    let mut graph = Builder::default();
    let pixels = "pixels";
    let matrix = graph.0.floats("ycc/matrix", &[3, 3, 1, 1], &YCC);
    let ycc = graph.0.node("Conv", &[pixels, &matrix], "ycc", &[Attribute::Ints("kernel_shape", &[1, 1])]);
    let thumb = graph.pool(&ycc, SIDE / THUMB, "thumb");

    let luma = graph.channel(&thumb, 0, "thumb/y");
    let luma = graph.cosines(&luma, &Cosines { side: 16, count: 200, mean: false, power: 1.0 }, "light");
    let light = graph.block(&luma, 1.0, "light");

    let luma = graph.channel(&ycc, 0, "y");
    let fine = graph.edges(&luma, 2, "fine");
    let coarse = graph.edges(&luma, 4, "coarse");

    let chroma = Cosines { side: 8, count: 28, mean: true, power: 0.7 };
    let blue = graph.channel(&thumb, 1, "thumb/cb");
    let blue = graph.cosines(&blue, &chroma, "blue");
    let red = graph.channel(&thumb, 2, "thumb/cr");
    let red = graph.cosines(&red, &chroma, "red");
    let colour = graph.0.node("Concat", &[&blue, &red], "colour", &[Attribute::Int("axis", 1)]);
    let colour = graph.block(&colour, 0.6, "colour");

    let blocks = [light.as_str(), &fine, &coarse, &colour];
    let all = graph.0.node("Concat", &blocks, "all", &[Attribute::Int("axis", 1)]);
    let mut blank = [0.0; 512];
    blank[0] = BLANK;
    let blank = graph.0.floats("blank", &[512], &blank);
    let all = graph.0.node("Add", &[&all, &blank], "all/blank", &[]);
    graph.unit(&all, "all", "embedding");
    let side = SIDE as u64;
    graph.0.model(
        NAME,
        (pixels, &[Dim::Free("N"), Dim::Fixed(3), Dim::Fixed(side), Dim::Fixed(side)]),
        ("embedding", &[Dim::Free("N"), Dim::Fixed(512)]),
    )
}

/// Which coefficients of a two-dimensional cosine transform are kept.
struct Cosines {
    /// Frequencies per axis that are computed.
    side: usize,
    /// Coefficients kept, in the order of their distance from frequency zero.
    count: usize,
    /// Whether the mean (frequency zero on both axes) is one of them.
    mean: bool,
    /// The power of its frequency that a coefficient is multiplied by.
    power: f64,
}

impl Cosines {
    /// Places in the flattened `side x side` coefficients, and what each is multiplied by.
    fn kept(&self) -> (Vec<i64>, Vec<f32>) {
        let mut order: Vec<(usize, usize, usize)> = (0..self.side)
            .flat_map(|u| (0..self.side).map(move |v| (u * u + v * v, u, v)))
            .filter(|(square, _, _)| self.mean || *square > 0)
            .collect();
        order.sort_unstable();
        order.truncate(self.count);
        let places = order.iter().map(|(_, u, v)| (u * self.side + v) as i64).collect();
        // The mean has frequency zero; it counts as half.
        let weights =
            order.iter().map(|(square, _, _)| (*square as f64).sqrt().max(0.5).powf(self.power) as f32);
        (places, weights.collect())
    }

    /// The transform along one axis: `side` rows of `THUMB` cosines, orthonormal.
    fn matrix(&self) -> Vec<Vec<f32>> {
        let length = THUMB as f64;
        let cosine = |frequency: usize, at: usize| {
            let wave = (PI * (at as f64 + 0.5) * frequency as f64 / length).cos() * (2.0 / length).sqrt();
            (if frequency == 0 { wave / 2f64.sqrt() } else { wave }) as f32
        };
        (0..self.side).map(|frequency| (0..THUMB).map(|at| cosine(frequency, at)).collect()).collect()
    }
}

/// 8 filters of 7 x 7: the slope in 8 directions of what a Gaussian of 1.4 pixels has smoothed. The absolute
/// values of each add up to 1.
fn gradient_filters() -> Vec<f32> {
    let direction = |turn: u32| {
        let angle = f64::from(turn) * PI / 4.0;
        let at = |y: i32, x: i32| {
            let (y, x) = (f64::from(y), f64::from(x));
            -(angle.cos() * x + angle.sin() * y) * (-(x * x + y * y) / (2.0 * 1.4 * 1.4)).exp()
        };
        let filter: Vec<f64> = (-3..=3).flat_map(|y| (-3..=3).map(move |x| at(y, x))).collect();
        let total: f64 = filter.iter().map(|value| value.abs()).sum();
        filter.into_iter().map(move |value| (value / total) as f32)
    };
    (0..8).flat_map(direction).collect()
}

/// The steps that the blocks are made of. `name` begins the names of all that a step adds to the graph.
#[derive(Default)]
struct Builder(Graph);

impl Builder {
    /// Means of squares of `side` pixels.
    fn pool(&mut self, input: &str, side: usize, name: &str) -> String {
        let square = [side as u64; 2];
        let attributes = [Attribute::Ints("kernel_shape", &square), Attribute::Ints("strides", &square)];
        self.0.node("AveragePool", &[input], name, &attributes)
    }

    /// One channel of several, as `[N, 1, h, w]`.
    fn channel(&mut self, input: &str, channel: i64, name: &str) -> String {
        let begin = self.0.ints(&format!("{name}/begin"), &[channel]);
        let end = self.0.ints(&format!("{name}/end"), &[channel + 1]);
        let axis = self.0.ints(&format!("{name}/axis"), &[1]);
        self.0.node("Slice", &[input, &begin, &end, &axis], name, &[])
    }

    /// Weighted coefficients `[N, count]` of `[N, 1, THUMB, THUMB]`.
    fn cosines(&mut self, input: &str, cosines: &Cosines, name: &str) -> String {
        let (side, thumb) = (cosines.side as u64, THUMB as u64);
        let matrix = cosines.matrix();
        let transposed: Vec<f32> = (0..THUMB).flat_map(|at| matrix.iter().map(move |row| row[at])).collect();
        let down = self.0.floats(&format!("{name}/down"), &[side, thumb], &matrix.concat());
        let across = self.0.floats(&format!("{name}/across"), &[thumb, side], &transposed);
        let rows = self.0.node("MatMul", &[input, &across], &format!("{name}/rows"), &[]);
        let square = self.0.node("MatMul", &[&down, &rows], &format!("{name}/square"), &[]);
        let flat = self.flatten(&square, cosines.side * cosines.side, name);
        let (places, weights) = cosines.kept();
        let places = self.0.ints(&format!("{name}/places"), &places);
        let axis = [Attribute::Int("axis", 1)];
        let kept = self.0.node("Gather", &[&flat, &places], &format!("{name}/kept"), &axis);
        let low = self.0.floats(&format!("{name}/low"), &[], &[-COEFFICIENT_NOISE]);
        let high = self.0.floats(&format!("{name}/high"), &[], &[COEFFICIENT_NOISE]);
        let noise = self.0.node("Clip", &[&kept, &low, &high], &format!("{name}/noise"), &[]);
        let kept = self.0.node("Sub", &[&kept, &noise], &format!("{name}/clean"), &[]);
        let weights = self.0.floats(&format!("{name}/weights"), &[cosines.count as u64], &weights);
        self.0.node("Mul", &[&kept, &weights], &format!("{name}/weighted"), &[])
    }

    /// The block `[N, 128]` of gradient energies of a luma reduced by `reduction`.
    fn edges(&mut self, luma: &str, reduction: usize, name: &str) -> String {
        let small = self.pool(luma, reduction, &format!("{name}/small"));
        let filters = self.0.floats(&format!("{name}/filters"), &[8, 1, 7, 7], &gradient_filters());
        let noise = self.0.floats(&format!("{name}/noise"), &[8], &[-SLOPE_NOISE; 8]);
        let kernel = [Attribute::Ints("kernel_shape", &[7, 7])];
        // Not padded: the frame of the picture would be an edge like any other.
        let slopes = self.0.node("Conv", &[&small, &filters, &noise], &format!("{name}/slopes"), &kernel);
        let rising = self.0.node("Relu", &[&slopes], &format!("{name}/rising"), &[]);
        let cell = (SIDE / reduction - 6) / 4;
        let cells = self.pool(&rising, cell, &format!("{name}/cells"));
        let flat = self.flatten(&cells, 128, name);
        self.block(&flat, 1.0, name)
    }

    fn flatten(&mut self, input: &str, length: usize, name: &str) -> String {
        let shape = self.0.ints(&format!("{name}/shape"), &[0, length as i64]);
        self.0.node("Reshape", &[input, &shape], &format!("{name}/flat"), &[])
    }

    /// Length 1, compressed, length 1 again, weighted.
    fn block(&mut self, input: &str, weight: f32, name: &str) -> String {
        let unit = self.unit(input, &format!("{name}/1"), &format!("{name}/1/unit"));
        let size = self.0.node("Abs", &[&unit], &format!("{name}/size"), &[]);
        let bend = self.0.floats(&format!("{name}/bend"), &[], &[0.02]);
        let size = self.0.node("Add", &[&size, &bend], &format!("{name}/bent"), &[]);
        let root = self.0.node("Sqrt", &[&size], &format!("{name}/root"), &[]);
        let compressed = self.0.node("Div", &[&unit, &root], &format!("{name}/compressed"), &[]);
        let unit = self.unit(&compressed, &format!("{name}/2"), &format!("{name}/2/unit"));
        let weight = self.0.floats(&format!("{name}/weight"), &[], &[weight]);
        self.0.node("Mul", &[&unit, &weight], &format!("{name}/block"), &[])
    }

    /// Each row divided by its length.
    fn unit(&mut self, input: &str, name: &str, output: &str) -> String {
        let squares = self.0.node("Mul", &[input, input], &format!("{name}/squares"), &[]);
        let axis = self.0.ints(&format!("{name}/axis"), &[1]);
        let keep = [Attribute::Int("keepdims", 1)];
        let sum = self.0.node("ReduceSum", &[&squares, &axis], &format!("{name}/sum"), &keep);
        let tiny = self.0.floats(&format!("{name}/tiny"), &[], &[TINY]);
        let sum = self.0.node("Add", &[&sum, &tiny], &format!("{name}/positive"), &[]);
        let length = self.0.node("Sqrt", &[&sum], &format!("{name}/length"), &[]);
        self.0.node("Div", &[input, &length], output, &[])
    }
}
