//! Shared by the example programs: an argument reader ([`args`]), a random generator that is completely
//! defined here ([`random`]), the batches of the crash test ([`crash`]) and the pictures ([`painting`],
//! [`photos`]).
//!
//! `quickstart` and `resume` are meant to be copied from, and use none of it.

pub mod args;
pub mod crash;
pub mod painting;
pub mod photos;
pub mod random;

/// Compiles and runs the Rust of the project's front page, so that it cannot go stale.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct ReadmeDoctests;

/// The same for the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guide.md")]
struct GuideDoctests;
