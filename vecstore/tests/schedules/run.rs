//! Runs a scenario under many schedules.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Schedules of each scenario by default.
const SCHEDULES: usize = 400;
/// Preemptions of a PCT schedule: most faults need one or two at the right places.
const DEPTH: usize = 3;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, found \"{text}\"")))
}

fn config() -> Config {
    let mut config = Config::new();
    // The library is not written for small stacks.
    config.stack_size = 1 << 20;
    config.max_steps = MaxSteps::FailAfter(200_000);
    // Failures that a scenario expects need no warning each.
    config.silence_warnings = true;
    config
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    Runner::new(scheduler, config()).run(scenario)
}

/// Runs a scenario under the wanted number of schedules, half of them random.
pub fn explore(name: &str, scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let again = || {
        let scenario = Arc::clone(&scenario);
        move || scenario()
    };
    if let Ok(schedule) = std::env::var("VECSTORE_REPLAY") {
        run(ReplayScheduler::new_from_encoded(&schedule), again());
        return;
    }
    let wanted = number("VECSTORE_SCHEDULES").map_or(SCHEDULES, |wanted| wanted as usize).max(2);
    let seed = number("VECSTORE_SEED").unwrap_or(1);
    let began = Instant::now();
    let random = run(RandomScheduler::new_from_seed(seed, wanted / 2), again());
    let pct = run(PctScheduler::new_from_seed(seed, DEPTH, wanted - wanted / 2), again());
    println!("schedules: {} in {:.1} s: {name}", random + pct, began.elapsed().as_secs_f64());
}

/// Runs `work` once on the scheduler: in this build a store works nowhere else.
pub fn once<T: Send + 'static>(work: impl Fn() -> T + Send + Sync + 'static) -> T {
    let made = Arc::new(Mutex::new(None));
    let inner = Arc::clone(&made);
    run(RandomScheduler::new_from_seed(1, 1), move || {
        let value = work();
        *inner.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    });
    made.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it ran")
}
