//! What runs a model, as the pipeline sees it: named tensors in, named tensors out.

use super::Placement;
use crate::base::{Error, Result};
use crate::tensor::{Element, Tensor, TensorSpec, View};

/// A model that is loaded and ready. Owned and called by one thread at a time; open several for several.
///
/// An engine of the program's own implements this, and needs no ONNX file:
///
/// ```
/// use vecstore_embed::backend::{Batch, Encoder, Output, Signature};
/// use vecstore_embed::tensor::{Element, TensorSpec};
///
/// /// Gives the mean of each colour.
/// struct Means(Signature);
///
/// impl Encoder for Means {
///     fn name(&self) -> &str {
///         "means"
///     }
///
///     fn signature(&self) -> &Signature {
///         &self.0
///     }
///
///     fn run(&mut self, batch: &Batch<'_>) -> vecstore_embed::Result<Vec<Output>> {
///         let planes = batch.inputs[0].numbers.to_f32();
///         let mean = |plane: &[f32]| plane.iter().sum::<f32>() / 1024.0;
///         let means = planes.chunks_exact(32 * 32).map(mean).collect();
///         Ok(vec![Output { name: "means".to_owned(), shape: vec![batch.items, 3], numbers: means }])
///     }
/// }
///
/// let signature = Signature {
///     inputs: vec![TensorSpec::new("pixels", Element::F32, &[3, 32, 32])],
///     outputs: vec![TensorSpec::new("means", Element::F32, &[3])],
/// };
/// assert_eq!(Means(signature).signature().dim(), 3);
/// ```
pub trait Encoder: Send {
    /// Name and version, and the library file where there is one.
    fn name(&self) -> &str;

    /// The tensors it takes and gives.
    fn signature(&self) -> &Signature;

    /// Runs the model on a batch of any size. The output has one part per item, as the model makes it.
    ///
    /// # Errors
    /// [`Error::Inference`] with the engine's words; the encoder stays usable. The batch is run again in
    /// halves; an item that fails alone is rejected, if the encoder takes zeros in its place.
    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>>;

    /// Memory for so many numbers, from which items reach the device sooner than from ordinary memory. `None`
    /// where there is none such.
    fn memory(&self, _element: Element, _length: usize) -> Option<Tensor> {
        None
    }

    /// Where the operators of the model run, if that was [asked for](super::BackendOptions::profile) and can
    /// be told.
    fn placement(&self) -> Option<&Placement> {
        None
    }
}

/// The tensors that an encoder takes and gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Its inputs, in the order in which a batch has them.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs. The vectors come from the first unless a task says otherwise.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// Numbers per vector: the last length of the first output; 0 where that is open.
    pub fn dim(&self) -> usize {
        self.outputs.first().and_then(|output| output.shape.last().copied().flatten()).unwrap_or(0)
    }
}

/// Items that are encoded together.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    /// How many there are.
    pub items: usize,
    /// One tensor for each input of the encoder, in its order.
    pub inputs: Vec<BatchInput<'a>>,
}

/// One input tensor of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchInput<'a> {
    /// Name of the input.
    pub name: &'a str,
    /// Lengths of the dimensions of one item.
    pub shape: &'a [usize],
    /// The numbers of all items, one item behind the other.
    pub numbers: View<'a>,
}

impl<'a> Batch<'a> {
    /// Some of the items.
    pub(crate) fn part(&self, from: usize, to: usize) -> Batch<'a> {
        let part = |input: &BatchInput<'a>| {
            let length: usize = input.shape.iter().product();
            BatchInput { numbers: input.numbers.part(from * length..to * length), ..*input }
        };
        Batch { items: to - from, inputs: self.inputs.iter().map(part).collect() }
    }

    /// Checks that the tensors are those of the signature, and as long as the items need.
    pub(crate) fn check(&self, signature: &Signature) -> Result<()> {
        let fits = |(input, spec): (&BatchInput<'_>, &TensorSpec)| {
            let length: usize = input.shape.iter().product();
            let same = |(length, spec): (&usize, &Option<usize>)| spec.is_none_or(|spec| spec == *length);
            input.numbers.element() == spec.element
                && self.items.checked_mul(length) == Some(input.numbers.len())
                && input.shape.len() == spec.shape.len()
                && input.shape.iter().zip(&spec.shape).all(same)
        };
        let same_inputs = self.inputs.len() == signature.inputs.len();
        if same_inputs && self.inputs.iter().zip(&signature.inputs).all(fits) {
            return Ok(());
        }
        let expected = "a tensor for each input of the encoder, of its type, with items of its shape";
        let found = format!("{} items in {:?}, for {signature:?}", self.items, self.shapes());
        Err(Error::bad_value("batch to encode", expected, found))
    }

    fn shapes(&self) -> Vec<(Element, &[usize], usize)> {
        self.inputs.iter().map(|input| (input.numbers.element(), input.shape, input.numbers.len())).collect()
    }
}

/// One output tensor of a batch, in f32 whatever the engine computes in.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Name of the output.
    pub name: String,
    /// Lengths of its dimensions; the first is the number of items.
    pub shape: Vec<usize>,
    /// Its numbers.
    pub numbers: Vec<f32>,
}
