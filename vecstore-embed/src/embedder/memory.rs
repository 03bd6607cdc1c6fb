//! Inputs that are in memory already.

use std::io::{self, Read};

use super::Embeddable;
use crate::base::Result;
use crate::source::{Content, Found, Input, Source, Walk};

/// Inputs whose keys are their numbers.
pub(super) struct InMemory<'a, T>(pub(super) &'a [T]);

/// The number of an input.
pub(super) fn number(input: &Input) -> Option<usize> {
    Some(usize::from_le_bytes(input.key().try_into().ok()?))
}

impl<T: Embeddable + Sync> Source for InMemory<'_, T> {
    fn walk(&self) -> Result<Walk<'_>> {
        Ok(Box::new((0..self.0.len()).map(|at| Found::Input(Input::new(at.to_le_bytes())))))
    }

    fn open(&self, _: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn content(&self, input: &Input) -> Option<Content<'_>> {
        number(input).and_then(|at| self.0.get(at)).map(Embeddable::content)
    }
}
