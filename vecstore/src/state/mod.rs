//! What a store consists of at one moment: the manifest, the segments it lists and those after it, what of them is superseded,
//! and how these files come to be and go.

pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod damaged;
pub(crate) mod live;
pub(crate) mod load;
pub(crate) mod manifest;
pub(crate) mod named;
pub(crate) mod publish;
pub(crate) mod quarantine;
pub(crate) mod recent;
pub(crate) mod temporaries;
pub(crate) mod tiling;
pub(crate) mod view;

pub use view::Totals;
