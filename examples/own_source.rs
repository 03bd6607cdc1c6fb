//! `own_source [STORE]`: embeds lines of text by its own source, task and encoder, and searches them. The
//! source names rows of a table in memory, the task makes an item of each line, and the encoder counts
//! groups of three letters: no files, no pictures, no ONNX model. The run is the one that embeds pictures.

use std::io::{self, Read};

use vecstore::{Field, Reader, Value};
use vecstore_embed::backend::{Batch, Output, Signature};
use vecstore_embed::source::{Content, Found, Input, Walk};
use vecstore_embed::task::{Bucket, Halt, Items, Loaded};
use vecstore_embed::tensor::{Element, TensorSpec};
use vecstore_embed::{Embedder, Encoder, Rejected, RejectionClass, Result, Run, Source, Task};

/// Letters of a line that count, and numbers of a vector.
const LETTERS: usize = 80;
const DIM: usize = 64;

/// Documents by their id.
struct Table([(u32, &'static str); 3]);

impl Source for Table {
    fn walk(&self) -> Result<Walk<'_>> {
        Ok(Box::new(self.0.iter().map(|(id, _)| Found::Input(Input::new(id.to_string())))))
    }

    fn open(&self, input: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        let row = self.0.iter().find(|(id, _)| id.to_string().as_bytes() == input.key());
        Ok(Box::new(row.ok_or(io::ErrorKind::NotFound)?.1.as_bytes()))
    }
}

/// Each line that is not empty is an item: the codes of its letters.
struct Lines;

impl Task for Lines {
    fn buckets(&self, _: &Signature) -> Result<Vec<Bucket>> {
        Ok(vec![Bucket { shapes: vec![vec![LETTERS]], items: None }])
    }

    fn load<'a>(&'a self, content: Content<'a>) -> Result<Box<dyn Loaded + 'a>, Rejected> {
        let bad = |_| Rejected::new(RejectionClass::Decode, "not UTF-8");
        Ok(Box::new(Document(std::str::from_utf8(content.bytes()?).map_err(bad)?)))
    }

    fn canonical(&self) -> String {
        format!("lines in lower case, {LETTERS} letters of each")
    }
}

struct Document<'a>(&'a str);

impl Loaded for Document<'_> {
    fn items(self: Box<Self>, items: &mut dyn Items) -> Result<(), Halt> {
        for (line, number) in self.0.lines().zip(1u32..).filter(|(line, _)| !line.is_empty()) {
            let row = items.add(0, &mut |slot| {
                let letters = slot.numbers::<i32>(0)?;
                letters.fill(0);
                let codes = format!(" {line} ").to_lowercase();
                letters.iter_mut().zip(codes.chars()).for_each(|(to, letter)| *to = letter as i32);
                Ok(())
            })?;
            items.about().row_field(row, *b"numb", number.to_string());
            items.about().row_field(row, *b"line", line);
        }
        items.about().attribute("lines", self.0.lines().count() as i64);
        Ok(())
    }
}

/// Counts each group of three letters at a place that its hash gives.
struct Trigrams(Signature);

impl Encoder for Trigrams {
    fn name(&self) -> &str {
        "trigrams 1"
    }

    fn signature(&self) -> &Signature {
        &self.0
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        let mut numbers = vec![0.0; batch.items * DIM];
        let letters = batch.inputs[0].numbers.as_slice::<i32>().unwrap_or_default();
        let hash = |sum: u32, code: &i32| (sum ^ *code as u32).wrapping_mul(0x9E37_79B1);
        for (line, vector) in letters.chunks(LETTERS).zip(numbers.chunks_mut(DIM)) {
            for group in line.windows(3).take_while(|group| group[2] != 0) {
                vector[group.iter().fold(0, hash) as usize % DIM] += 1.0;
            }
        }
        Ok(vec![Output { name: String::from("counts"), shape: vec![batch.items, DIM], numbers }])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = std::env::args().nth(1).unwrap_or_else(|| String::from("lines.vecs"));
    let table = Table([
        (101, "Ducks swim on ponds.\nIn winter the ponds freeze.\n"),
        (102, "Trains run on rails.\n\nThe rails are made of steel.\nSteel rusts in rain.\n"),
        (205, ""),
    ]);
    let inputs = vec![TensorSpec::new("letters", Element::I32, &[LETTERS])];
    let signature = Signature { inputs, outputs: vec![TensorSpec::new("counts", Element::F32, &[DIM])] };
    let embedder = Embedder::custom("trigrams", "1", Lines, vec![Box::new(Trigrams(signature))])?.build();
    let run = Run::new(table, &store);
    for name in ["first", "second"] {
        let done = run.run(&embedder)?;
        println!("{name} run: {} embedded, {} already there", done.embedded, done.already);
    }

    let snapshot = Reader::open(&store)?.snapshot();
    let query = embedder.embed("what are rails made of?")?;
    for hit in snapshot.search(&query, 1)? {
        let entry = snapshot.get(&hit.key)?.ok_or("a hit has an entry")?;
        let Some(Value::I64(lines)) = entry.attribute("lines")? else { continue };
        let fields = Field::decode(entry.payload()).unwrap_or_default();
        let text = |tag| {
            let field = fields.iter().find(|field| field.tag == tag && field.row == Some(hit.row));
            String::from_utf8_lossy(field.map_or(b"", |field| field.value))
        };
        let (id, number, line) = (String::from_utf8_lossy(&hit.key), text(*b"numb"), text(*b"line"));
        println!("document {id}, line {number} of {lines}, score {:.3}: {line}", hit.score);
    }
    Ok(())
}
