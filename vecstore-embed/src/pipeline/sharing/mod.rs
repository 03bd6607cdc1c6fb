//! How runs at the same store share its inputs: by chunks, each of which one of them claims.

mod chunk;
mod claim;

pub(crate) use self::chunk::Group;
pub(crate) use self::claim::{ChunkClaim, Claims};
