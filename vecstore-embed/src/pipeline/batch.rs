//! Where items become batches: between the threads that prepare them and those that own a model.
//!
//! A worker claims a slot only when its item is ready to be written, so a batch holds whatever became ready
//! first, and a large input never holds one up. Items of one shape share batches (a bucket); pictures have
//! one. There is a fixed number of tensors, which go round: when the models are the limit, workers wait here
//! for a slot.

use std::collections::VecDeque;
use std::time::Duration;
use std::vec;

use parking_lot::{Condvar, Mutex};

use super::entry::Item;
use crate::base::{Error, Result};
use crate::tensor::{Element, Parts, Slot, Tensor, split};

/// How long an unfinished batch waits for more when nothing comes.
const IDLE: Duration = Duration::from_millis(100);

/// Input tensors of a batch, each with the numbers of one item.
pub(crate) type Tensors = Vec<(Tensor, usize)>;

/// Items for one inference.
pub(crate) struct Ready {
    pub(crate) bucket: usize,
    /// The input of the n-th is the n-th part of each tensor.
    pub(crate) items: Vec<Item>,
    /// The tensors, which have to come back by [`Assembly::give_back`].
    pub(crate) tensors: Tensors,
}

/// The shape of a bucket's batches.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Items in a batch.
    pub(crate) items: usize,
    /// Numbers of one item in each input tensor.
    pub(crate) lengths: Vec<usize>,
}

/// Gathers items into batches.
pub(crate) struct Assembly {
    buckets: Vec<Shape>,
    /// What each input tensor is made of.
    elements: Vec<Element>,
    state: Mutex<State>,
    /// There may be a slot, or there will never be one.
    claimable: Condvar,
    /// There may be a batch, or there will never be one.
    takeable: Condvar,
}

struct State {
    idle: Vec<Vec<Tensor>>,
    /// Sets of tensors that may still be allocated.
    unmade: usize,
    /// Sets that a lane has.
    out: usize,
    /// For each bucket, the batch whose slots are claimed.
    open: Vec<Option<Open>>,
    /// Batches some of whose slots are not written yet.
    filling: VecDeque<Filling>,
    next: u64,
    claimed: u64,
    ready: VecDeque<Ready>,
    workers: usize,
    abandoned: bool,
}

/// A batch whose slots are claimed; at least one of them is.
struct Open {
    batch: u64,
    /// Slots that nothing has claimed, with their places.
    free: vec::IntoIter<(Slot, usize)>,
}

struct Filling {
    number: u64,
    bucket: usize,
    parts: Parts,
    /// By place in the batch: what is written. `None` where it is not, or where nothing came of it.
    items: Vec<Option<Item>>,
    /// Slots that are not settled yet, the unclaimed ones among them.
    unsettled: usize,
}

/// A slot that a worker may write to. Dropped without [`fill`](Self::fill), it stays empty.
pub(crate) struct SlotGuard<'a> {
    assembly: &'a Assembly,
    slot: Option<Slot>,
    batch: u64,
    at: usize,
}

/// A worker that may still bring something. When the last is dropped, what is there makes the last batches.
pub(crate) struct Bringing<'a>(&'a Assembly);

impl Assembly {
    /// For `workers` threads; `tensors` sets of input tensors at most, whose numbers are `elements`.
    pub(crate) fn new(buckets: Vec<Shape>, elements: Vec<Element>, workers: usize, tensors: usize) -> Self {
        let state = State {
            idle: Vec::new(),
            unmade: tensors.max(1),
            out: 0,
            open: buckets.iter().map(|_| None).collect(),
            filling: VecDeque::new(),
            next: 0,
            claimed: 0,
            ready: VecDeque::new(),
            workers,
            abandoned: false,
        };
        Assembly {
            buckets,
            elements,
            state: Mutex::new(state),
            claimable: Condvar::new(),
            takeable: Condvar::new(),
        }
    }

    /// Numbers in each input tensor: room for a batch of any bucket.
    pub(crate) fn lengths(&self) -> Vec<(Element, usize)> {
        let most = |input: usize| {
            let lengths = self.buckets.iter().filter_map(|bucket| {
                bucket.lengths.get(input).map(|length| length.saturating_mul(bucket.items))
            });
            lengths.max().unwrap_or(0)
        };
        self.elements.iter().enumerate().map(|(input, element)| (*element, most(input))).collect()
    }

    /// Tensors made elsewhere, to be used before any are allocated. No more than there may be.
    pub(crate) fn with(self, sets: Vec<Vec<Tensor>>) -> Self {
        {
            let wanted = self.lengths();
            let mut state = self.state.lock();
            let most = state.unmade;
            let fits = |set: &Vec<Tensor>| {
                set.iter().map(|one| (one.element(), one.len())).eq(wanted.iter().copied())
            };
            state.idle.extend(sets.into_iter().filter(fits).take(most));
            state.unmade -= state.idle.len();
        }
        self
    }

    /// What a worker holds while it works. Called once for each of them.
    pub(crate) fn bringing(&self) -> Bringing<'_> {
        Bringing(self)
    }

    /// Waits for a slot in a batch of this bucket. `None` when nothing will take it any more.
    ///
    /// # Errors
    /// There is no such bucket, or no memory for a batch.
    pub(crate) fn claim(&self, bucket: usize) -> Result<Option<SlotGuard<'_>>> {
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return Ok(None);
            }
            let Some(open) = state.open.get_mut(bucket) else {
                let expected = "one of the buckets that the task has named";
                return Err(Error::bad_value("bucket of an item", expected, bucket.to_string()));
            };
            if let Some(Open { batch, free }) = open
                && let Some((slot, at)) = free.next()
            {
                let guard = SlotGuard { assembly: self, slot: Some(slot), batch: *batch, at };
                state.claimed += 1;
                return Ok(Some(guard));
            }
            *open = None;
            if !self.open(&mut state, bucket)? {
                // Those are missing here that lie in open batches of other buckets, unless some come back.
                if state.is_stuck() {
                    self.close_another(&mut state, bucket);
                }
                self.claimable.wait(&mut state);
            }
        }
    }

    /// Opens the next batch of a bucket, if there are tensors for it.
    fn open(&self, state: &mut State, bucket: usize) -> Result<bool> {
        let Some(shape) = self.buckets.get(bucket) else { return Ok(false) };
        let tensors = match state.idle.pop() {
            Some(tensors) => tensors,
            None if state.unmade > 0 => {
                let lengths = self.lengths();
                let bytes = lengths.iter().map(|(element, length)| element.size().saturating_mul(*length));
                let bytes = bytes.fold(0, usize::saturating_add);
                let made = lengths.into_iter().map(|(element, length)| Tensor::try_plain(element, length));
                let made = made.collect::<Option<_>>().ok_or_else(|| {
                    let (expected, found) = (format!("{bytes} bytes of memory for it"), "not as much");
                    Error::unfit("a batch", expected, found, "make smaller batches")
                })?;
                state.unmade -= 1;
                made
            }
            None => return Ok(false),
        };
        let tensors = tensors.into_iter().zip(shape.lengths.iter().copied()).collect();
        let (parts, slots) = split(tensors, shape.items);
        let items = slots.iter().map(|_| None).collect();
        let numbered: Vec<(Slot, usize)> = slots.into_iter().zip(0..).collect();
        let number = state.next;
        state.filling.push_back(Filling { number, bucket, parts, items, unsettled: numbered.len() });
        state.next += 1;
        if let Some(open) = state.open.get_mut(bucket) {
            *open = Some(Open { batch: number, free: numbered.into_iter() });
        }
        // One more slot may be there than the one that is about to be claimed.
        self.claimable.notify_all();
        Ok(true)
    }

    /// Waits for a batch. `None` when there will be none any more. While `waiting` says so, one that nothing
    /// was added to for a moment need not be full.
    pub(crate) fn take(&self, waiting: &dyn Fn() -> bool) -> Option<Ready> {
        let mut state = self.state.lock();
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(ready) = state.ready.pop_front() {
                state.out += 1;
                return Some(ready);
            }
            if state.workers == 0 && state.filling.is_empty() {
                return None;
            }
            let claimed = state.claimed;
            let waited = self.takeable.wait_for(&mut state, IDLE);
            if waited.timed_out() && claimed == state.claimed && waiting() {
                (0..self.buckets.len()).for_each(|bucket| self.close(&mut state, bucket));
            }
        }
    }

    /// Closes the fullest open batch of the other buckets.
    fn close_another(&self, state: &mut State, bucket: usize) {
        let others = state.open.iter().enumerate().filter(|(other, _)| *other != bucket);
        let begun = others.filter_map(|(other, open)| Some((open.as_ref()?.free.len(), other)));
        if let Some((_, fullest)) = begun.min() {
            self.close(state, fullest);
        }
    }

    /// Lets the open batch of a bucket go as it is, once what was claimed of it is written.
    fn close(&self, state: &mut State, bucket: usize) {
        if let Some(Open { batch, free }) = state.open.get_mut(bucket).and_then(Option::take) {
            let unclaimed = free.len();
            // The slots go first: a batch is whole only when all of its slots are back.
            drop(free);
            self.settle(state, batch, unclaimed, None);
        }
    }

    /// Gives back the tensors of a batch.
    pub(crate) fn give_back(&self, tensors: Tensors) {
        let mut state = self.state.lock();
        state.out = state.out.saturating_sub(1);
        state.idle.push(tensors.into_iter().map(|(tensor, _)| tensor).collect());
        self.claimable.notify_all();
    }

    /// Nothing takes batches any more: workers that wait for a slot are told so.
    pub(crate) fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.claimable.notify_all();
        self.takeable.notify_all();
    }

    /// `slots` of the batch with this number are settled, one of them by `item` at its place.
    fn settle(&self, state: &mut State, number: u64, slots: usize, item: Option<(usize, Item)>) {
        let Some(place) = state.filling.iter().position(|filling| filling.number == number) else { return };
        let Some(filling) = state.filling.get_mut(place) else { return };
        if let Some((at, item)) = item
            && let Some(free) = filling.items.get_mut(at)
        {
            *free = Some(item);
        }
        filling.unsettled = filling.unsettled.saturating_sub(slots);
        if filling.unsettled > 0 {
            return;
        }
        let Some(filling) = state.filling.remove(place) else { return };
        let Some(ready) = ready(filling) else { return };
        match ready.items.is_empty() {
            true => state.idle.push(ready.tensors.into_iter().map(|(tensor, _)| tensor).collect()),
            false => state.ready.push_back(ready),
        }
        self.takeable.notify_all();
        self.claimable.notify_all();
    }
}

/// Closes the gaps that items left of which nothing came.
fn ready(filling: Filling) -> Option<Ready> {
    // All slots are settled, and settling takes them away, so nothing else has a part of the tensors.
    let mut tensors = filling.parts.join().ok()?;
    let mut items = Vec::with_capacity(filling.items.len());
    for (at, item) in filling.items.into_iter().enumerate() {
        let Some(item) = item else { continue };
        if at != items.len() {
            for (tensor, length) in &mut tensors {
                tensor.copy_within(at * *length, items.len() * *length, *length);
            }
        }
        items.push(item);
    }
    Some(Ready { bucket: filling.bucket, items, tensors })
}

impl State {
    /// True when no tensors will come back as things are: all lie in open batches.
    fn is_stuck(&self) -> bool {
        let open = self.open.iter().flatten().filter(|open| open.free.len() > 0).count();
        self.out == 0 && self.ready.is_empty() && self.filling.len() == open
    }
}

impl SlotGuard<'_> {
    /// Where the item goes.
    pub(crate) fn slot(&mut self) -> Option<&mut Slot> {
        self.slot.as_mut()
    }

    /// The item is written.
    pub(crate) fn fill(mut self, item: Item) {
        self.settle(Some(item));
    }

    fn settle(&mut self, item: Option<Item>) {
        // The slot goes first: a batch is whole only when all of its slots are back.
        if self.slot.take().is_some() {
            let mut state = self.assembly.state.lock();
            self.assembly.settle(&mut state, self.batch, 1, item.map(|item| (self.at, item)));
        }
    }
}

impl Drop for SlotGuard<'_> {
    fn drop(&mut self) {
        self.settle(None);
    }
}

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.workers = state.workers.saturating_sub(1);
        if state.workers == 0 {
            (0..self.0.buckets.len()).for_each(|bucket| self.0.close(&mut state, bucket));
            self.0.takeable.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::View;
    use std::sync::mpsc;
    use std::thread;

    fn assembly(workers: usize, items: usize, length: usize, tensors: usize) -> Assembly {
        let shape = Shape { items, lengths: vec![length] };
        Assembly::new(vec![shape], vec![Element::F32], workers, tensors)
    }

    fn first(ready: &Ready) -> View<'_> {
        ready.tensors[0].0.view()
    }

    fn bring(assembly: &Assembly, at: u8) {
        bring_to(assembly, 0, at);
    }

    fn bring_to(assembly: &Assembly, bucket: usize, at: u8) {
        let mut claim = assembly.claim(bucket).unwrap().unwrap();
        claim.slot().unwrap().input(0).into_slice::<f32>().unwrap().fill(f32::from(at));
        claim.fill(Item::of_test(at));
    }

    fn keys(ready: &Ready) -> Vec<u8> {
        ready.items.iter().map(Item::key_of_test).collect()
    }

    #[test]
    fn full_batches_and_a_smaller_one_at_the_end() {
        let assembly = self::assembly(1, 3, 2, 4);
        let bringing = assembly.bringing();
        (0..7).for_each(|at| bring(&assembly, at));
        drop(bringing);
        let batches: Vec<Ready> = std::iter::from_fn(|| assembly.take(&|| false)).collect();
        assert_eq!(batches.iter().map(keys).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(first(&batches[1]), View::new(&[3f32, 3.0, 4.0, 4.0, 5.0, 5.0]));
        assert_eq!(first(&batches[2]).part(0..2), View::new(&[6f32, 6.0]));
    }

    #[test]
    fn tensors_from_elsewhere_are_used_and_count() {
        let given = |lengths: &[usize]| {
            lengths.iter().map(|length| vec![Tensor::plain(Element::F32, *length)]).collect()
        };
        let count = |assembly: &Assembly| {
            let state = assembly.state.lock();
            (state.idle.len(), state.unmade)
        };
        let assembly = self::assembly(1, 2, 3, 3).with(given(&[6, 5, 6]));
        assert_eq!(count(&assembly), (2, 1), "the one of another length is of no use");
        let bringing = assembly.bringing();
        (0..2).for_each(|at| bring(&assembly, at));
        drop(bringing);
        assert_eq!(count(&assembly), (1, 1));
        assert_eq!(first(&assembly.take(&|| false).unwrap()), View::new(&[0f32, 0.0, 0.0, 1.0, 1.0, 1.0]));
        assert_eq!(count(&self::assembly(1, 1, 1, 2).with(given(&[1, 1, 1]))), (2, 0));
    }

    #[test]
    fn items_of_one_shape_share_batches_and_no_shape_waits_for_another() {
        let shapes = vec![Shape { items: 4, lengths: vec![2] }, Shape { items: 2, lengths: vec![5] }];
        let assembly = Assembly::new(shapes, vec![Element::F32], 1, 1);
        assert_eq!(assembly.lengths(), [(Element::F32, 10)]);
        let bringing = assembly.bringing();
        bring_to(&assembly, 0, 1);
        bring_to(&assembly, 0, 2);
        thread::scope(|scope| {
            // The only tensor is in an open batch of the other bucket, which goes as it is.
            scope.spawn(|| bring_to(&assembly, 1, 3));
            let ready = assembly.take(&|| false).unwrap();
            assert_eq!((ready.bucket, keys(&ready)), (0, vec![1, 2]));
            assert_eq!(first(&ready).part(0..4), View::new(&[1f32, 1.0, 2.0, 2.0]));
            assembly.give_back(ready.tensors);
        });
        bring_to(&assembly, 1, 4);
        drop(bringing);
        let ready = assembly.take(&|| false).unwrap();
        assert_eq!((ready.bucket, keys(&ready)), (1, vec![3, 4]));
        assert_eq!(first(&ready), View::new(&[3f32, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0]));
    }

    #[test]
    fn slots_that_nothing_came_of_leave_no_gap() {
        let assembly = self::assembly(1, 4, 1, 2);
        let bringing = assembly.bringing();
        let given_up = assembly.claim(0).unwrap().unwrap();
        bring(&assembly, 1);
        let last = assembly.claim(0).unwrap().unwrap();
        bring(&assembly, 3);
        drop(last);
        drop(given_up);
        let ready = assembly.take(&|| false).unwrap();
        let numbers = first(&ready).part(0..2).to_f32();
        assert_eq!((keys(&ready), &numbers[..]), (vec![1, 3], &[1.0, 3.0][..]));
        // A batch of nothing but failures is none.
        (0..4).for_each(|_| drop(assembly.claim(0).unwrap().unwrap()));
        drop(bringing);
        assert!(assembly.take(&|| false).is_none());
    }

    #[test]
    fn a_batch_waits_for_its_slowest_slot_and_others_overtake_it() {
        let assembly = self::assembly(1, 2, 1, 3);
        let _bringing = assembly.bringing();
        let slow = assembly.claim(0).unwrap().unwrap();
        (1..4).for_each(|at| bring(&assembly, at));
        assert_eq!(keys(&assembly.take(&|| false).unwrap()), [2, 3]);
        slow.fill(Item::of_test(0));
        assert_eq!(keys(&assembly.take(&|| false).unwrap()), [0, 1]);
    }

    #[test]
    fn an_unfinished_batch_goes_when_others_wait_for_it_and_nothing_comes() {
        let assembly = self::assembly(1, 4, 1, 2);
        let _bringing = assembly.bringing();
        bring(&assembly, 1);
        let slow = assembly.claim(0).unwrap().unwrap();
        let (asked, asks) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = move || asked.send(()).is_ok();
            let taken = scope.spawn(|| {
                let waiting = waiting;
                assembly.take(&waiting).map(|ready| keys(&ready))
            });
            // Asked for the second time, the batch was closed the first time, and is not taken: one slot is
            // to come.
            asks.iter().take(2).for_each(drop);
            let closed = assembly.state.lock().open[0].is_none() && assembly.state.lock().ready.is_empty();
            if closed {
                slow.fill(Item::of_test(2));
            } else {
                assembly.abandon();
            }
            assert_eq!((closed, taken.join().unwrap()), (true, Some(vec![1, 2])));
        });
        (3..7).for_each(|at| bring(&assembly, at));
        assert_eq!(keys(&assembly.take(&|| true).unwrap()), [3, 4, 5, 6]);
    }

    #[test]
    fn workers_wait_for_tensors_and_go_on_when_one_comes_back() {
        let assembly = self::assembly(1, 1, 1, 2);
        let bringing = assembly.bringing();
        (0..2).for_each(|at| bring(&assembly, at));
        assert!(!assembly.open(&mut assembly.state.lock(), 0).unwrap(), "there are two tensors");
        thread::scope(|scope| {
            scope.spawn(|| {
                let _bringing = bringing;
                (2..5).for_each(|at| bring(&assembly, at));
            });
            let mut taken = Vec::new();
            while let Some(ready) = assembly.take(&|| false) {
                taken.extend(keys(&ready));
                assembly.give_back(ready.tensors);
            }
            assert_eq!(taken, [0, 1, 2, 3, 4]);
        });
    }

    #[test]
    fn a_batch_is_closed_for_another_bucket_only_when_no_tensors_will_come_back() {
        let shape = || Shape { items: 2, lengths: vec![1] };
        let assembly = Assembly::new(vec![shape(), shape()], vec![Element::F32], 1, 2);
        let is_stuck = || assembly.state.lock().is_stuck();
        let slow = assembly.claim(0).unwrap().unwrap();
        bring_to(&assembly, 1, 9);
        bring_to(&assembly, 0, 1);
        assert!(!is_stuck(), "a batch is being written");
        slow.fill(Item::of_test(0));
        assert!(!is_stuck(), "a batch can be taken");
        let ready = assembly.take(&|| false).unwrap();
        assert!(!is_stuck(), "a lane will give tensors back");
        assembly.give_back(ready.tensors);
        bring_to(&assembly, 0, 2);
        assert!(is_stuck(), "each bucket has a batch that has only begun");
        bring_to(&assembly, 1, 8);
        assert_eq!(keys(&assembly.take(&|| false).unwrap()), [9, 8]);
    }

    #[test]
    fn a_batch_without_memory_and_an_unknown_bucket_are_errors() {
        let assembly = self::assembly(1, 1, isize::MAX as usize / 4, 1);
        let error = |bucket| assembly.claim(bucket).map(|_| ()).unwrap_err().to_string();
        assert!(error(0).starts_with("a batch: expected 92233"), "{}", error(0));
        assert!(error(1).contains("one of the buckets that the task has named, found \"1\""), "{}", error(1));
    }

    #[test]
    fn a_worker_that_waits_for_a_slot_learns_that_none_is_wanted() {
        let assembly = self::assembly(1, 1, 1, 1);
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _bringing = assembly.bringing();
                bring(&assembly, 0);
                assembly.claim(0).unwrap().is_none()
            });
            let _kept = assembly.take(&|| false).unwrap();
            assembly.abandon();
            assert!(worker.join().unwrap());
        });
        assert!(assembly.take(&|| false).is_none());
    }
}
