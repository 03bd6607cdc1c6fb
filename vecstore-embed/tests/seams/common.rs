//! Texts whose lines are items, a table that holds them, and an encoder that looks at letters.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};

use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::keys::Stamp;
use vecstore_embed::source::{Accepts, Content, Found, Input, Walk};
use vecstore_embed::task::{Bucket, Halt, Items, Loaded};
use vecstore_embed::tensor::{Element, TensorSpec};
use vecstore_embed::{Embedder, EmbedderBuilder, Encoder, Rejected, RejectionClass, Result, Source, Task};

/// Letters of a line that are seen, by bucket.
pub const WIDTHS: [usize; 2] = [4, 16];

/// Every line of a text is an item: the codes of its letters. A text without lines has none; one with a tab is bad.
pub struct Lines;

impl Task for Lines {
    fn accepts(&self) -> Accepts {
        Accepts { extensions: &["txt"], content: |_| false }
    }

    fn buckets(&self, signature: &Signature) -> Result<Vec<Bucket>> {
        assert_eq!(signature.inputs.len(), 2, "letters and how many of them count");
        Ok(WIDTHS.map(|width| Bucket { shapes: vec![vec![width], vec![1]], items: Some(3) }).into())
    }

    fn load<'a>(&'a self, content: Content<'a>) -> std::result::Result<Box<dyn Loaded + 'a>, Rejected> {
        let bad = |_| Rejected::new(RejectionClass::Decode, "not UTF-8");
        Ok(Box::new(Text(std::str::from_utf8(content.bytes()?).map_err(bad)?)))
    }

    fn canonical(&self) -> String {
        "lines".to_owned()
    }
}

struct Text<'a>(&'a str);

impl Loaded for Text<'_> {
    fn items(self: Box<Self>, items: &mut dyn Items) -> std::result::Result<(), Halt> {
        for line in self.0.lines() {
            if line.contains('\t') {
                return Err(Rejected::new(RejectionClass::Decode, "a tab").into());
            }
            assert!(!line.contains("panic"), "the task gives up");
            let bucket = WIDTHS.iter().position(|width| line.len() <= *width).unwrap_or(WIDTHS.len() - 1);
            let row = items.add(bucket, &mut |slot| {
                let letters = slot.input(0).into_slice::<f32>().unwrap();
                letters.fill(0.0);
                letters.iter_mut().zip(line.bytes()).for_each(|(to, byte)| *to = f32::from(byte));
                slot.input(1).into_slice::<i64>().unwrap()[0] = line.len() as i64;
                Ok(())
            })?;
            items.about().row_field(row, *b"line", line.as_bytes());
        }
        let about = items.about();
        about.field(*b"leng", self.0.len().to_string());
        about.attribute("lines", self.0.lines().count() as i64);
        about.attribute("title", self.0.lines().next().unwrap_or("nothing"));
        Ok(())
    }
}

/// Called before each batch with its number and the first letter of each item.
pub type Before = Box<dyn FnMut(usize, &[f32]) -> Result<()> + Send>;

/// Three numbers per line: its first letter, the sum of all, and their number; scaled by what makes towers differ.
pub struct Letters {
    signature: Signature,
    before: Before,
    batches: usize,
    scale: f32,
}

impl Letters {
    pub fn boxed(before: impl FnMut(usize, &[f32]) -> Result<()> + Send + 'static) -> Box<dyn Encoder> {
        Letters::scaled(1.0, before)
    }

    pub fn scaled(
        scale: f32,
        before: impl FnMut(usize, &[f32]) -> Result<()> + Send + 'static,
    ) -> Box<dyn Encoder> {
        let letters = TensorSpec { name: "letters".to_owned(), element: Element::F32, shape: vec![None] };
        let signature = Signature {
            inputs: vec![letters, TensorSpec::new("length", Element::I64, &[1])],
            outputs: vec![TensorSpec::new("sums", Element::F32, &[3])],
        };
        Box::new(Letters { signature, before: Box::new(before), batches: 0, scale })
    }
}

impl Encoder for Letters {
    fn name(&self) -> &str {
        "letters"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        assert!(batch.items <= 3 && WIDTHS.contains(&batch.inputs[0].shape[0]), "{batch:?}");
        let letters = batch.inputs[0].numbers.as_slice::<f32>().unwrap();
        let lines: Vec<&[f32]> = letters.chunks(batch.inputs[0].shape[0]).collect();
        let lengths = batch.inputs[1].numbers.as_slice::<i64>().unwrap();
        assert_eq!((lines.len(), lengths.len()), (batch.items, batch.items));
        let first: Vec<f32> = lines.iter().map(|line| line[0]).collect();
        (self.before)(self.batches, &first)?;
        self.batches += 1;
        let one = |(line, length): (&&[f32], &i64)| {
            [line[0], line.iter().sum(), *length as f32].map(|number: f32| number * self.scale)
        };
        let numbers = lines.iter().zip(lengths).flat_map(one).collect();
        Ok(vec![Output { name: "sums".to_owned(), shape: vec![batch.items, 3], numbers }])
    }
}

/// What the encoder makes of a line.
pub fn vector(line: &str) -> Vec<f32> {
    let seen: Vec<f32> = line.bytes().take(WIDTHS[1]).map(f32::from).collect();
    vec![seen.first().copied().unwrap_or(0.0), seen.iter().sum(), line.len() as f32]
}

pub fn embedder(encoder: Box<dyn Encoder>) -> EmbedderBuilder {
    Embedder::custom("letters", "1", Lines, vec![encoder]).unwrap().workers(2)
}

/// Rows of a table: a text and a version for each key. `None` for a row that cannot be read at the moment.
#[derive(Clone, Default)]
pub struct Table(pub Arc<Mutex<BTreeMap<Vec<u8>, Row>>>);

type Row = Option<(String, i64)>;

impl Table {
    pub fn of(rows: &[(&str, &str)]) -> Self {
        let table = Table::default();
        rows.iter().for_each(|(key, text)| table.set(key, text, 1));
        table
    }

    pub fn set(&self, key: &str, text: &str, version: i64) {
        self.0.lock().unwrap().insert(key.into(), Some((text.to_owned(), version)));
    }
}

impl Source for Table {
    fn walk(&self) -> Result<Walk<'_>> {
        let keys: Vec<Vec<u8>> = self.0.lock().unwrap().keys().cloned().collect();
        Ok(Box::new(keys.into_iter().map(|key| Found::Input(Input::new(key)))))
    }

    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        match self.0.lock().unwrap().get(input.key()) {
            Some(Some((text, _))) => Ok(Box::new(Cursor::new(text.clone().into_bytes()))),
            _ => Err(io::Error::other("the database is away")),
        }
    }

    fn stamp(&self, input: &Input) -> Option<Stamp> {
        let rows = self.0.lock().unwrap();
        let (text, version) = rows.get(input.key())?.as_ref()?;
        Some(Stamp { length: text.len() as u64, changed: (*version, 0) })
    }

    fn name(&self) -> String {
        "a table".to_owned()
    }
}
