//! What every room uses: errors, verdicts, short lists, the flag that stops a run.

mod class;
mod error;
mod first_few;
mod names;
mod stop;

pub use self::class::{Rejected, RejectionClass};
pub use self::error::{Error, Result};
pub use self::first_few::{FirstFew, Listed};
pub use self::stop::StopFlag;

pub(crate) use self::names::names;
