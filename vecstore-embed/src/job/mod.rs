//! A run: an embedder, a source and a store, from the first look at the store to the summary.

mod options;
mod prune;
mod run;
mod store;
mod summary;
mod survey;

pub use self::options::Run;
pub use self::prune::Gone;
pub use self::summary::{Ended, Summary};
