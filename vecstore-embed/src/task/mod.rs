//! What an input becomes: items for an encoder, and from their vectors an entry of a store.
//!
//! A picture is one item. A task of a program's own may make any number of items of an input, also none:
//! chunks of a document, frames of a film. What it says [`About`] them is stored beside their vectors.

mod about;
mod pictures;

pub use self::about::{About, Attribute};
pub use self::pictures::Pictures;

use crate::backend::{Batch, Output, Signature};
use crate::base::{Error, Rejected, Result};
use crate::source::{Accepts, Content};
use crate::tensor::Slot;

/// Makes items of inputs, and vectors of what an encoder makes of the items.
///
/// ```
/// use vecstore_embed::backend::Signature;
/// use vecstore_embed::source::Content;
/// use vecstore_embed::task::{Bucket, Halt, Items, Loaded, Task};
/// use vecstore_embed::{Rejected, RejectionClass};
///
/// /// Every line of a text is an item: the codes of its first eight letters.
/// struct Lines;
///
/// impl Task for Lines {
///     fn buckets(&self, _: &Signature) -> vecstore_embed::Result<Vec<Bucket>> {
///         Ok(vec![Bucket { shapes: vec![vec![8]], items: None }])
///     }
///
///     fn load<'a>(&'a self, content: Content<'a>) -> Result<Box<dyn Loaded + 'a>, Rejected> {
///         let bad = |_| Rejected::new(RejectionClass::Decode, "not UTF-8");
///         let text = std::str::from_utf8(content.bytes()?).map_err(bad)?;
///         Ok(Box::new(Text(text)))
///     }
///
///     fn canonical(&self) -> String {
///         "lines of eight letters".to_owned()
///     }
/// }
///
/// struct Text<'a>(&'a str);
///
/// impl Loaded for Text<'_> {
///     fn items(self: Box<Self>, items: &mut dyn Items) -> Result<(), Halt> {
///         for line in self.0.lines() {
///             let row = items.add(0, &mut |slot| {
///                 let letters = slot.numbers::<f32>(0)?;
///                 letters.fill(0.0);
///                 letters.iter_mut().zip(line.bytes()).for_each(|(to, byte)| *to = f32::from(byte));
///                 Ok(())
///             })?;
///             items.about().row_field(row, *b"line", line.as_bytes());
///         }
///         items.about().attribute("lines", self.0.lines().count() as i64);
///         Ok(())
///     }
/// }
/// # assert_eq!(Lines.canonical().len(), 22);
/// ```
pub trait Task: Send + Sync {
    /// Which files are inputs, where the source is [`Files`](crate::Files): none unless a task says so.
    fn accepts(&self) -> Accepts {
        Accepts { extensions: &[], content: |_| false }
    }

    /// The shapes in which items come, for an encoder of this signature: one bucket or more, each with a
    /// shape for every input.
    ///
    /// # Errors
    /// The encoder takes other inputs than this task makes.
    fn buckets(&self, signature: &Signature) -> Result<Vec<Bucket>>;

    /// Bytes of memory that [`load`](Self::load) and what it gives will take, besides the content. Called
    /// before it, so it looks at no more than a header.
    fn cost(&self, content: &[u8]) -> u64 {
        content.len() as u64
    }

    /// Makes sense of the content of an input.
    ///
    /// # Errors
    /// The content is bad. The verdict is stored, and the input is not tried again.
    fn load<'a>(&'a self, content: Content<'a>) -> Result<Box<dyn Loaded + 'a>, Rejected>;

    /// The vectors of a batch, [`Signature::dim`] numbers for each item: the first output as it is, unless a
    /// task does more.
    ///
    /// # Errors
    /// The outputs are not one vector for each item.
    fn vectors(&self, batch: &Batch<'_>, outputs: Vec<Output>) -> Result<Vec<f32>> {
        let _ = batch;
        Ok(outputs.into_iter().next().map(|output| output.numbers).unwrap_or_default())
    }

    /// One line that is equal exactly when the items of every content are: part of the fingerprint.
    fn canonical(&self) -> String;
}

/// Content that a task has made sense of.
pub trait Loaded {
    /// Hands its items over, one after the other.
    ///
    /// # Errors
    /// The content turns out to be bad, or the items are not wanted any more.
    fn items(self: Box<Self>, items: &mut dyn Items) -> Result<(), Halt>;
}

/// Takes the items of one input.
pub trait Items {
    /// Writes one item into its place in a batch of that bucket, and gives the number of its row in the
    /// entry. Waits while there is no room. The place holds what was there before: `write` sets every number.
    ///
    /// # Errors
    /// What `write` refuses, or that no items are wanted any more. The input is not stored then, whatever the
    /// task makes of it.
    fn add(
        &mut self,
        bucket: usize,
        write: &mut dyn FnMut(&mut Slot) -> Result<(), Rejected>,
    ) -> Result<u32, Halt>;

    /// What is stored beside the rows.
    fn about(&mut self) -> &mut About;
}

/// Why no more items come of an input.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Halt {
    /// Its content is bad.
    Rejected(Rejected),
    /// Nothing takes items any more.
    Stopped,
}

impl From<Rejected> for Halt {
    fn from(rejected: Rejected) -> Self {
        Halt::Rejected(rejected)
    }
}

/// Items of one shape, which can be encoded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// For each input of the encoder, the lengths of the dimensions of one item.
    pub shapes: Vec<Vec<usize>>,
    /// Items in a batch, where that is less than the batch size of the embedder.
    pub items: Option<usize>,
}

/// An error about an encoder that does not take what a task makes.
pub(crate) fn misfit(expected: &'static str, signature: &Signature) -> Error {
    Error::bad_value("encoder", expected, format!("{:?}", signature.inputs))
}
