//! An input under way, from the moment it is loaded until all its items are back: the gathering of an entry.
//!
//! Items of one input may lie in several batches, and batches come back in any order. The entry is complete
//! when the last item is back. If an item is lost (the run stops before its batch), the whole input stays
//! missing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::lookup::Job;
use crate::base::Rejected;
use crate::task::About;

/// What became of an input.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It has vectors, or is known to have none.
    Embedded(Embedded),
    /// Its content is bad.
    Rejected(Rejected),
    /// It could not be read. It is not stored, so that a later run tries it again.
    Unread(io::Error),
}

/// The vectors of one input, in the order of its items, and what its task says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embedded {
    rows: Vec<Vec<f32>>,
    about: About,
}

impl Embedded {
    /// The vectors, one for each item; none where the input has no items.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    /// What is stored beside them.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The only vector; `None` unless there is exactly one.
    pub fn into_vector(self) -> Option<Vec<f32>> {
        let [row] = <[Vec<f32>; 1]>::try_from(self.rows).ok()?;
        Some(row)
    }
}

/// An input that is settled, on its way into the store.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) job: Job,
    /// `None` for content that the store was given before, of which only the stamp is new.
    pub(crate) outcome: Option<Outcome>,
}

impl Done {
    /// How many vectors it has.
    pub(crate) fn rows(&self) -> usize {
        match &self.outcome {
            Some(Outcome::Embedded(embedded)) => embedded.rows.len(),
            _ => 0,
        }
    }
}

/// An input whose items are out.
#[derive(Debug)]
struct InFlight {
    state: Mutex<State>,
    /// Counts inputs that are dropped before they are settled.
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
struct State {
    /// Taken when the input is settled.
    job: Option<Job>,
    about: About,
    rows: Vec<Option<Vec<f32>>>,
    /// Items that are out, and one for as long as more may come.
    open: usize,
    /// Why there is no entry, and the item that is to blame.
    rejected: Option<(Option<usize>, Rejected)>,
}

/// An input whose items are being made.
#[derive(Debug)]
pub(crate) struct Draft {
    input: Arc<InFlight>,
    about: About,
}

/// One item of an input: the place of its vector.
#[derive(Debug)]
pub(crate) struct Item {
    input: Arc<InFlight>,
    row: usize,
}

impl Draft {
    /// Begins the entry of an input. `left_out` counts it if it is never settled.
    pub(crate) fn new(job: Job, left_out: &Arc<AtomicU64>) -> Self {
        let state =
            State { job: Some(job), about: About::default(), rows: Vec::new(), open: 1, rejected: None };
        let input = InFlight { state: Mutex::new(state), left_out: Arc::clone(left_out) };
        Draft { input: Arc::new(input), about: About::default() }
    }

    /// What is stored beside the rows.
    pub(crate) fn about(&mut self) -> &mut About {
        &mut self.about
    }

    /// The next item, and the number of its row.
    pub(crate) fn item(&self) -> (Item, u32) {
        let mut state = self.input.state.lock();
        let row = state.rows.len();
        state.rows.push(None);
        state.open += 1;
        (Item { input: Arc::clone(&self.input), row }, u32::try_from(row).unwrap_or(u32::MAX))
    }

    /// There are no more items. The input, if all are back already.
    pub(crate) fn finish(self, rejected: Option<Rejected>) -> Option<Done> {
        let mut state = self.input.state.lock();
        state.about = self.about;
        state.rejected = state.rejected.take().or(rejected.map(|rejected| (None, rejected)));
        state.close()
    }
}

impl Item {
    /// The item is back, with its vector or the reason why there is none. The input, if this was the last
    /// item.
    pub(crate) fn settle(self, vector: Result<Vec<f32>, Rejected>) -> Option<Done> {
        let mut state = self.input.state.lock();
        match vector {
            Ok(vector) => {
                if let Some(row) = state.rows.get_mut(self.row) {
                    *row = Some(vector);
                }
            }
            Err(rejected) => drop(state.rejected.get_or_insert((Some(self.row), rejected))),
        }
        state.close()
    }
}

impl State {
    fn close(&mut self) -> Option<Done> {
        self.open = self.open.saturating_sub(1);
        if self.open > 0 {
            return None;
        }
        let job = self.job.take()?;
        let count = self.rows.len();
        let (rows, about) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.about));
        let outcome = match (self.rejected.take(), rows.into_iter().collect::<Option<Vec<_>>>()) {
            (Some((Some(row), rejected)), _) if count > 1 => {
                let reason = format!("item {} of {count}: {}", row + 1, rejected.reason);
                Outcome::Rejected(Rejected { reason, ..rejected })
            }
            (Some((_, rejected)), _) => Outcome::Rejected(rejected),
            (None, rows) => Outcome::Embedded(Embedded { rows: rows?, about }),
        };
        Some(Done { job, outcome: Some(outcome) })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.state.lock().job.is_some() {
            self.left_out.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
impl Item {
    /// An item of the input with this key, which is never settled.
    pub(crate) fn of_test(key: u8) -> Self {
        let job = Job { input: crate::source::Input::new([key]), ..Job::default() };
        Draft::new(job, &Arc::default()).item().0
    }

    pub(crate) fn key_of_test(&self) -> u8 {
        self.input.state.lock().job.as_ref().map_or(0, |job| job.input.key[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RejectionClass;

    fn draft(left_out: &Arc<AtomicU64>) -> Draft {
        Draft::new(Job::default(), left_out)
    }

    fn rows(done: Option<Done>) -> Vec<Vec<f32>> {
        match done.unwrap().outcome {
            Some(Outcome::Embedded(embedded)) => embedded.rows,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_is_complete_when_its_last_item_is_back_whichever_that_is() {
        let left_out = Arc::default();
        assert!(rows(draft(&left_out).finish(None)).is_empty(), "an input without items is settled at once");
        let mut one = draft(&left_out);
        one.about().attribute("lines", 3);
        let items = [0, 1, 2].map(|_| one.item().0);
        let [first, second, third] = items;
        assert!(third.settle(Ok(vec![2.0])).is_none() && first.settle(Ok(vec![0.0])).is_none());
        assert!(one.finish(None).is_none());
        assert_eq!(rows(second.settle(Ok(vec![1.0]))), [[0.0], [1.0], [2.0]]);
        // All items back before the last one is made.
        let quick = draft(&left_out);
        assert!(quick.item().0.settle(Ok(vec![7.0])).is_none());
        assert_eq!(rows(quick.finish(None)), [[7.0]]);
        assert_eq!(left_out.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn one_item_that_fails_rejects_its_input() {
        let bad = || Rejected::new(RejectionClass::Model, "too bright");
        let reason = |done: Option<Done>| match done.unwrap().outcome {
            Some(Outcome::Rejected(rejected)) => rejected.reason,
            other => panic!("{other:?}"),
        };
        let left_out = Arc::default();
        let draft_of_two = draft(&left_out);
        let (first, second) = (draft_of_two.item().0, draft_of_two.item().0);
        assert!(draft_of_two.finish(None).is_none() && second.settle(Err(bad())).is_none());
        assert_eq!(reason(first.settle(Ok(vec![1.0]))), "item 2 of 2: too bright");
        let halted = draft(&left_out);
        let item = halted.item().0;
        assert!(halted.finish(Some(bad())).is_none());
        assert_eq!(reason(item.settle(Ok(vec![1.0]))), "too bright");
    }

    #[test]
    fn an_item_that_is_lost_leaves_its_input_out() {
        let left_out = Arc::default();
        let lost = draft(&left_out);
        let (first, second) = (lost.item().0, lost.item().0);
        assert!(lost.finish(None).is_none());
        drop(second);
        assert!(first.settle(Ok(vec![1.0])).is_none());
        assert_eq!(left_out.load(Ordering::SeqCst), 1);
    }
}
