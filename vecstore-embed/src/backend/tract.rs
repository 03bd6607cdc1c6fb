//! tract, the engine that is part of the program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::format_err;
use tract_onnx::tract_core::plan::SimpleState;

use super::{Batch, Encoder, Output, Signature, at_once, panic_text, vector_length};
use crate::base::{Error, Result};
use crate::model::{BatchShape, Model};
use crate::tensor::{Element, TensorSpec, View};

const NAME: &str = "tract 0.23";

type State = SimpleState<TypedFact, Box<dyn TypedOp>>;

struct Tract {
    model: Model,
    signature: Signature,
    /// One per thread; they share the optimised graph and its weights.
    states: Vec<State>,
}

pub(super) fn open(model: &Model, file: &Path, threads: usize) -> Result<Box<dyn Encoder>> {
    // The reader of graphs indexes by names that it takes from the file.
    let plan = catch_unwind(AssertUnwindSafe(|| load(model, file).map_err(|e| format!("{e:#}"))))
        .unwrap_or_else(|panic| Err(panic_text(&*panic)));
    let cannot = |found: String| {
        let remedy = "install ONNX Runtime, which knows every operator (pip install onnxruntime), and name \
                      its library";
        model.unusable(format!("a model that {NAME} can run"), found, remedy)
    };
    let plan = plan.map_err(cannot)?;
    let states: TractResult<Vec<State>> = (0..threads.max(1)).map(|_| plan.spawn()).collect();
    let mut states = states.map_err(|e| cannot(format!("{e:#}")))?;

    // One run tells the length of the vectors, and whether it runs at all.
    let (input, count) = (model.input(), pictures(model));
    let blank = super::blank(std::slice::from_ref(&input), count);
    let state = states.first_mut().ok_or_else(|| cannot("no thread".to_owned()))?;
    let blank =
        blank.first().map(|(_, tensor)| tensor.view()).ok_or_else(|| cannot("no input".to_owned()))?;
    let (shape, _) = run(state, model, blank).map_err(cannot)?;
    let outputs =
        vec![TensorSpec::new(model.output(), Element::F32, &[vector_length(model, count, &shape)?])];
    Ok(Box::new(Tract {
        model: model.clone(),
        signature: Signature { inputs: vec![input], outputs },
        states,
    }))
}

/// Pictures in one call: one, unless the graph takes no other number.
fn pictures(model: &Model) -> usize {
    match model.batch() {
        BatchShape::Any => 1,
        BatchShape::Fixed(_) => at_once(model, 1),
    }
}

/// Reads the graph, fixes its shape to one picture and optimises it. Convolutions over a free or larger batch
/// are slower picture by picture, up to 18 times.
fn load(model: &Model, file: &Path) -> TractResult<Arc<TypedRunnableModel>> {
    if model.input().element == Element::Bf16 {
        return Err(format_err!("bf16, which is not among the types it knows"));
    }
    // Exporters write shapes of intermediate values for the batch they exported with; they contradict any
    // other.
    let reader = tract_onnx::onnx().with_ignore_value_info(true);
    let mut graph = reader.model_for_path(file)?;
    // Several outputs: the others need not be computed.
    let outputs = graph.output_outlets()?.to_vec();
    let wanted = outputs.iter().find(|outlet| graph.outlet_label(**outlet) == Some(model.output()));
    let wanted = *wanted.ok_or_else(|| format_err!("no output {}", model.output()))?;
    graph.select_output_outlets(&[wanted])?;
    let fact = match model.input().element {
        Element::F16 => f16::fact(shape(model)),
        _ => f32::fact(shape(model)),
    };
    graph.with_input_fact(0, fact.into())?.into_optimized()?.into_runnable()
}

fn shape(model: &Model) -> [usize; 4] {
    let preprocess = model.preprocess();
    [pictures(model), 3, preprocess.input_height() as usize, preprocess.input_width() as usize]
}

/// As many pictures as it takes at once; gives the shape and the numbers of the output.
fn run(
    state: &mut State,
    model: &Model,
    pixels: View<'_>,
) -> std::result::Result<(Vec<usize>, Vec<f32>), String> {
    let mut run = || -> TractResult<_> {
        let shape = shape(model);
        let input = match pixels.as_slice::<f16>() {
            Some(pixels) => Tensor::from_shape(&shape, pixels)?,
            None => Tensor::from_shape(&shape, &pixels.to_f32())?,
        };
        let outputs = state.run(tvec!(input.into_tvalue()))?;
        let output = outputs.first().ok_or_else(|| format_err!("the model gave nothing"))?;
        let output = output.cast_to::<f32>()?;
        Ok((output.shape().to_vec(), output.try_as_plain_ram()?.as_slice::<f32>()?.to_vec()))
    };
    // Taken with its causes: the plain text is only the outermost of them.
    catch_unwind(AssertUnwindSafe(|| run().map_err(|e| format!("{e:#}"))))
        .unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

impl Encoder for Tract {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<Vec<Output>> {
        batch.check(&self.signature)?;
        let (dim, model) = (self.signature.dim(), &self.model);
        let mut vectors = vec![0.0; batch.items * dim];
        let Some(input) = batch.inputs.first().filter(|_| batch.items > 0) else { return Ok(Vec::new()) };
        let (picture, at_once) = (input.shape.iter().product::<usize>(), pictures(model));
        let share = batch.items.div_ceil(self.states.len()).next_multiple_of(at_once);
        let work = |state: &mut State, first: usize, vectors: &mut [f32]| {
            let starts = (first..).step_by(at_once).map(|at| at * picture);
            for (start, vectors) in starts.zip(vectors.chunks_mut(at_once * dim)) {
                let (part, mut room) =
                    (input.numbers.part(start..start + vectors.len() / dim * picture), None);
                let (shape, numbers) = run(state, model, part.padded(at_once * picture, &mut room))?;
                match numbers.get(..vectors.len()).filter(|_| numbers.len() == at_once * dim) {
                    Some(numbers) => vectors.copy_from_slice(numbers),
                    None => return Err(format!("the output became {shape:?}")),
                }
            }
            Ok(())
        };
        let done: std::result::Result<(), String> = thread::scope(|scope| {
            let parts = (0..batch.items).step_by(share).zip(vectors.chunks_mut(share * dim));
            let threads: Vec<_> = self
                .states
                .iter_mut()
                .zip(parts)
                .map(|(state, (first, vectors))| scope.spawn(move || work(state, first, vectors)))
                .collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| Err(panic_text(&*panic)))
            };
            // All are waited for, also after one has failed.
            let results: Vec<_> = threads.into_iter().map(join).collect();
            results.into_iter().find(|result| result.is_err()).unwrap_or(Ok(()))
        });
        done.map_err(|found| Error::Inference {
            backend: NAME.to_owned(),
            model: self.model.name().to_owned(),
            found,
        })?;
        Ok(vec![Output { name: model.output().to_owned(), shape: vec![batch.items, dim], numbers: vectors }])
    }
}
