//! What a run tells while it works, and before.

mod clock;
mod forecast;
mod pace;
mod progress;

pub use self::forecast::{Forecast, free_space};
pub use self::pace::{Pace, Stage};
pub use self::progress::{Observer, Plan, Progress, StageTimes, Stages};

pub(crate) use self::clock::{Clock, Clocks, Doing};
pub(crate) use self::pace::Meter;
