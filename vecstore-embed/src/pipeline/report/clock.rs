//! How each thread of a run spends its time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{StageTimes, Stages};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Waiting for something to do: the stage before is slower.
    WaitingForInput,
    /// Its own work.
    Working,
    /// Waiting for room for what it has done: a stage after it is slower.
    WaitingForOutput,
    /// Nothing: not begun, or ended.
    Nothing,
}

/// The time of one thread. Switched by that thread, read by others.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<State>);

#[derive(Debug)]
struct State {
    doing: Doing,
    since: Instant,
    spent: StageTimes,
}

impl Default for Clock {
    fn default() -> Self {
        Clock(Mutex::new(State {
            doing: Doing::Nothing,
            since: Instant::now(),
            spent: StageTimes::default(),
        }))
    }
}

impl Clock {
    /// From now on the thread does this.
    pub(crate) fn switch(&self, doing: Doing) {
        self.0.lock().switch(doing, Instant::now());
    }

    /// Does this from now on, and something else once the guard is dropped.
    pub(crate) fn during(&self, doing: Doing, then: Doing) -> During<'_> {
        self.switch(doing);
        During { clock: self, then }
    }

    /// What was spent so far, up to this moment.
    fn spent(&self) -> StageTimes {
        self.0.lock().spent(Instant::now())
    }
}

impl State {
    fn switch(&mut self, doing: Doing, now: Instant) {
        self.settle(now);
        self.doing = doing;
    }

    fn spent(&mut self, now: Instant) -> StageTimes {
        self.settle(now);
        self.spent
    }

    fn settle(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        self.since = now;
        let spent: &mut Duration = match self.doing {
            Doing::WaitingForInput => &mut self.spent.waited_for_input,
            Doing::Working => &mut self.spent.working,
            Doing::WaitingForOutput => &mut self.spent.waited_for_output,
            Doing::Nothing => return,
        };
        *spent += passed;
    }
}

/// See [`Clock::during`].
#[derive(Debug)]
pub(crate) struct During<'a> {
    clock: &'a Clock,
    then: Doing,
}

impl Drop for During<'_> {
    fn drop(&mut self) {
        self.clock.switch(self.then);
    }
}

/// The clocks of all threads of a run.
#[derive(Debug)]
pub(crate) struct Clocks {
    pub(crate) scan: Clock,
    pub(crate) read: Vec<Clock>,
    pub(crate) prepare: Vec<Clock>,
    pub(crate) infer: Vec<Clock>,
    pub(crate) commit: Clock,
}

impl Clocks {
    pub(crate) fn new(readers: usize, workers: usize, lanes: usize) -> Self {
        let some = |count| (0..count).map(|_| Clock::default()).collect();
        Clocks {
            scan: Clock::default(),
            read: some(readers),
            prepare: some(workers),
            infer: some(lanes),
            commit: Clock::default(),
        }
    }

    /// What all of them have spent.
    pub(crate) fn stages(&self) -> Stages {
        let sum = |clocks: &[Clock]| clocks.iter().map(Clock::spent).sum();
        Stages {
            scan: self.scan.spent(),
            read: sum(&self.read),
            prepare: sum(&self.prepare),
            infer: sum(&self.infer),
            commit: self.commit.spent(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_to_what_was_done_also_while_it_is_being_done() {
        let ms = Duration::from_millis;
        let began = Instant::now();
        let mut state = State { doing: Doing::Nothing, since: began, spent: StageTimes::default() };
        state.switch(Doing::WaitingForInput, began + ms(2));
        state.switch(Doing::WaitingForOutput, began + ms(7));
        state.switch(Doing::Working, began + ms(14));
        let spent = state.spent(began + ms(17));
        let expected = StageTimes { waited_for_input: ms(5), working: ms(3), waited_for_output: ms(7) };
        assert_eq!(spent, expected, "still at it, and nothing does not count");
        assert_eq!(state.spent(began + ms(18)).working, ms(4));
        state.switch(Doing::Nothing, began + ms(18));
        assert_eq!(state.spent(began + ms(99)).total(), ms(16));
    }

    #[test]
    fn a_guard_says_what_is_done_until_it_goes_and_after() {
        let clock = Clock::default();
        {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
            assert_eq!(clock.0.lock().doing, Doing::WaitingForOutput);
        }
        assert_eq!(clock.0.lock().doing, Doing::Working);
    }
}
