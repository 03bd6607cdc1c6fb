//! The three seams with parts of a program's own: a source, a task, an encoder, and no ONNX file anywhere.

mod common;
mod embedder;
mod entries;
mod killed;
mod misuse;
mod sources;
mod spaces;
