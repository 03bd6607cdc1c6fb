//! The store that workloads with failing calls begin with.

use std::collections::BTreeSet;

use super::SimFs;
use super::crash::{History, Rng};
use super::run::{Do, Run};
use super::world::{World, nothing, right_worlds};

/// A disk with a small store, as after a reboot, and the right worlds for it.
pub struct Start {
    pub history: History,
    pub right: BTreeSet<World>,
}

impl Start {
    pub fn new() -> Self {
        let mut run = Run::new(SimFs::new());
        for action in [Do::Create(0), Do::Append(0), Do::Replace(0), Do::Close(0)] {
            run.act(action);
        }
        assert!(run.errors.is_empty());
        Start { right: right_worlds(&nothing(), &run.steps, usize::MAX), history: run.fs.history() }
    }

    pub fn disk(&self) -> SimFs {
        let history = &self.history;
        SimFs::from_image(history.image(history.log.len(), &Default::default(), &mut Rng(1)))
    }
}
