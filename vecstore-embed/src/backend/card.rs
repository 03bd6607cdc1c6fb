//! Cards and their driver, as they are reported.

/// A card, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Card {
    /// What it is called.
    pub name: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Its compute capability, as in (9, 0).
    pub capability: (u32, u32),
}

/// A driver that works.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Driver {
    /// The newest CUDA it can run, as in (13, 0).
    pub cuda: (u32, u32),
    /// The cards it shows to this process. The variable `CUDA_VISIBLE_DEVICES` can hide some.
    pub cards: Vec<Card>,
}

/// What there is instead of a driver, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDriver {
    /// What was found.
    pub found: String,
    /// What to do.
    pub remedy: &'static str,
}
