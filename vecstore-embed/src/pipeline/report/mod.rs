//! What a run tells while it works, and before.

mod clock;
mod forecast;
mod pace;
mod progress;
mod stages;

pub use self::forecast::{Forecast, free_space};
pub use self::pace::Pace;
pub use self::progress::{Observer, Plan, Progress};
pub use self::stages::{Stage, StageTimes, Stages};

pub(crate) use self::clock::{Clock, Clocks, Doing};
pub(crate) use self::pace::Meter;
