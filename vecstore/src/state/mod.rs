//! The state of a store at one moment (its manifest, the segments it lists and those after it, their
//! superseded entries), and how the files of that state are made and removed.

pub(crate) mod checkpoint;
pub(crate) mod create;
pub(crate) mod derived;
pub(crate) mod load;
pub(crate) mod lookup;
pub(crate) mod manifest;
pub(crate) mod publish;
pub(crate) mod quarantine;
pub(crate) mod temporaries;
pub(crate) mod tiling;
pub(crate) mod versions;
pub(crate) mod view;

pub(crate) use checkpoint::Bitmaps;
pub(crate) use create::{flush_name, sweep};
pub(crate) use derived::{Checked, DERIVED, Dead, DerivedName, DerivedRecord};
pub(crate) use load::SEGMENTS;
pub(crate) use lookup::Asked;
pub(crate) use manifest::{Body, EpochRecord, FingerprintRecord, MANIFEST, Manifest, SegmentRecord};
pub(crate) use publish::{Target, Verify};
pub(crate) use quarantine::{Move, QUARANTINE, quarantine_folder, same_bytes};
pub(crate) use temporaries::{
    TMP_PREFIX, if_there, make_folder, remove_own, remove_temporaries, write_named, write_new,
};
pub(crate) use versions::{PIN_PREFIX, VERSIONS};
pub use view::Totals;
pub(crate) use view::{LiveSegment, View, is_of_other_model, kill_of};
