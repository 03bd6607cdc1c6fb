//! Where pictures become batches: between the threads that prepare them and those that own a model.
//!
//! A worker claims its slot only when its picture is decoded, so a batch holds whatever became ready first, and a
//! large picture never holds one up. There is a fixed number of tensors, which go round: when the models are the
//! limit, workers wait here for a slot.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::vec;

use super::feed::Job;
use super::slab::{Slot, Whole, split};
use crate::backend::Tensor;
use crate::pixels::{PixelType, PixelsMut};

/// How long an unfinished batch waits for more when nothing comes.
const IDLE: Duration = Duration::from_millis(100);

/// Pictures for one inference.
pub(crate) struct Ready {
    /// The input of the n-th is the n-th part of the tensor.
    pub(crate) jobs: Vec<Job>,
    /// The tensor, which has to come back by [`Assembly::give_back`].
    pub(crate) tensor: Tensor,
}

/// Gathers pictures into batches.
pub(crate) struct Assembly {
    /// Numbers per picture.
    length: usize,
    /// Pictures per batch.
    pictures: usize,
    /// What they are made of.
    pixel_type: PixelType,
    state: Mutex<State>,
    /// There may be a slot, or there will never be one.
    claimable: Condvar,
    /// There may be a batch, or there will never be one.
    takeable: Condvar,
}

struct State {
    idle: Vec<Tensor>,
    /// Tensors that may still be allocated.
    unmade: usize,
    open: Option<vec::IntoIter<(Slot, usize)>>,
    /// Batches some of whose slots are not written yet; the open one is the last.
    filling: VecDeque<Filling>,
    next: u64,
    ready: VecDeque<Ready>,
    workers: usize,
    abandoned: bool,
}

impl State {
    /// How far claiming has come: changes with every claim.
    fn claimed(&self) -> (u64, usize) {
        (self.next, self.open.as_ref().map_or(0, ExactSizeIterator::len))
    }
}

struct Filling {
    number: u64,
    whole: Whole,
    /// By place in the batch: what is written. `None` where it is not, or where nothing came of it.
    jobs: Vec<Option<Job>>,
    /// Slots that are not settled yet, the unclaimed ones among them.
    unsettled: usize,
}

/// A slot that a worker may write to. Dropped without [`fill`](Self::fill), it stays empty.
pub(crate) struct Claim<'a> {
    assembly: &'a Assembly,
    slot: Option<Slot>,
    batch: u64,
    at: usize,
}

/// A worker that may still bring something. When the last is dropped, what is there makes the last batch.
pub(crate) struct Bringing<'a>(&'a Assembly);

impl Assembly {
    /// For `workers` threads, in batches of `pictures`, whose tensors have `length` numbers per picture; `tensors` of
    /// them at most.
    pub(crate) fn new(workers: usize, pictures: usize, length: usize, tensors: usize) -> Self {
        let state = State {
            idle: Vec::new(),
            unmade: tensors.max(1),
            open: None,
            filling: VecDeque::new(),
            next: 0,
            ready: VecDeque::new(),
            workers,
            abandoned: false,
        };
        Assembly {
            length,
            pictures: pictures.max(1),
            pixel_type: PixelType::F32,
            state: Mutex::new(state),
            claimable: Condvar::new(),
            takeable: Condvar::new(),
        }
    }

    /// For pictures that are made of something else than f32.
    pub(crate) fn of(self, pixel_type: PixelType) -> Self {
        Assembly { pixel_type, ..self }
    }

    /// Tensors that somebody else has made, to be used before any are allocated. No more than there may be.
    pub(crate) fn with(self, tensors: Vec<Tensor>) -> Self {
        {
            let mut state = self.lock();
            let most = state.unmade;
            let length = self.pictures.saturating_mul(self.length);
            let fitting = |tensor: &Tensor| tensor.len() == length && tensor.pixel_type() == self.pixel_type;
            state.idle.extend(tensors.into_iter().filter(fitting).take(most));
            state.unmade -= state.idle.len();
        }
        self
    }

    /// What a worker holds while it works. Called once for each of them.
    pub(crate) fn bringing(&self) -> Bringing<'_> {
        Bringing(self)
    }

    /// Waits for a slot. `None` when nobody will take it any more.
    pub(crate) fn claim(&self) -> Option<Claim<'_>> {
        let mut state = self.lock();
        loop {
            if state.abandoned {
                return None;
            }
            if let Some((slot, at)) = state.open.as_mut().and_then(Iterator::next) {
                let batch = state.next - 1;
                return Some(Claim { assembly: self, slot: Some(slot), batch, at });
            }
            state.open = None;
            if !self.open(&mut state) {
                state = self.claimable.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Opens the next batch, if there is a tensor for it.
    fn open(&self, state: &mut State) -> bool {
        let tensor = match state.idle.pop() {
            Some(tensor) => tensor,
            None if state.unmade > 0 => {
                state.unmade -= 1;
                Tensor::plain_of(self.pixel_type, self.pictures.saturating_mul(self.length))
            }
            None => return false,
        };
        let (whole, slots) = split(tensor, self.length);
        let numbered: Vec<(Slot, usize)> = slots.into_iter().zip(0..).collect();
        let jobs = numbered.iter().map(|_| None).collect();
        state.filling.push_back(Filling { number: state.next, whole, jobs, unsettled: numbered.len() });
        state.next += 1;
        state.open = Some(numbered.into_iter());
        // One more slot may be there than the one that is about to be claimed.
        self.claimable.notify_all();
        true
    }

    /// Waits for a batch. `None` when there will be none any more. While `waiting` says so, one that nothing was added to
    /// for a moment need not be full.
    pub(crate) fn take(&self, waiting: &dyn Fn() -> bool) -> Option<Ready> {
        let mut state = self.lock();
        loop {
            if state.abandoned {
                return None;
            }
            if let Some(ready) = state.ready.pop_front() {
                return Some(ready);
            }
            if state.workers == 0 && state.filling.is_empty() {
                return None;
            }
            let claimed = state.claimed();
            let (woken, timeout) =
                self.takeable.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() && claimed == state.claimed() && waiting() {
                self.close(&mut state);
            }
        }
    }

    /// Lets the open batch go as it is, once what was claimed of it is written. One that is empty stays open.
    fn close(&self, state: &mut State) {
        if state.open.as_ref().is_some_and(|open| open.len() < self.pictures)
            && let Some(open) = state.open.take()
        {
            let (number, unclaimed) = (state.next - 1, open.len());
            // The slots go first: a batch is whole only when all of its slots are back.
            drop(open);
            self.settle(state, number, unclaimed, None);
        }
    }

    /// Gives back the tensor of a batch.
    pub(crate) fn give_back(&self, tensor: Tensor) {
        self.lock().idle.push(tensor);
        self.claimable.notify_all();
    }

    /// Nobody will take batches any more: whoever waits for a slot is told so.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
        self.claimable.notify_all();
        self.takeable.notify_all();
    }

    /// `slots` of the batch with this number are settled, one of them by `job` at its place.
    fn settle(&self, state: &mut State, number: u64, slots: usize, job: Option<(usize, Job)>) {
        let Some(place) = state.filling.iter().position(|filling| filling.number == number) else { return };
        let Some(filling) = state.filling.get_mut(place) else { return };
        if let Some((at, job)) = job
            && let Some(free) = filling.jobs.get_mut(at)
        {
            *free = Some(job);
        }
        filling.unsettled = filling.unsettled.saturating_sub(slots);
        if filling.unsettled > 0 {
            return;
        }
        let Some(filling) = state.filling.remove(place) else { return };
        let Some(ready) = self.ready(filling) else { return };
        match ready.jobs.is_empty() {
            true => state.idle.push(ready.tensor),
            false => state.ready.push_back(ready),
        }
        self.takeable.notify_all();
        self.claimable.notify_all();
    }

    /// Closes the gaps that failed pictures left.
    fn ready(&self, filling: Filling) -> Option<Ready> {
        // All slots are settled, and settling takes them away, so nobody else has a part of it.
        let mut tensor = filling.whole.join().ok()?;
        let mut jobs = Vec::with_capacity(filling.jobs.len());
        for (at, job) in filling.jobs.into_iter().enumerate() {
            let Some(job) = job else { continue };
            if at != jobs.len() {
                let from = at * self.length;
                tensor.pixels_mut().copy_within(from..from + self.length, jobs.len() * self.length);
            }
            jobs.push(job);
        }
        Some(Ready { jobs, tensor })
    }

    // No code runs under the lock that could panic half-way, so a poisoned state is still a whole one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// Where the picture goes.
    pub(crate) fn numbers(&mut self) -> PixelsMut<'_> {
        self.slot.as_mut().map_or(PixelsMut::F32(&mut []), Slot::numbers)
    }

    /// The picture of `job` is written.
    pub(crate) fn fill(mut self, job: Job) {
        self.settle(Some(job));
    }

    fn settle(&mut self, job: Option<Job>) {
        // The slot goes first: a batch is whole only when all of its slots are back.
        if self.slot.take().is_some() {
            let mut state = self.assembly.lock();
            self.assembly.settle(&mut state, self.batch, 1, job.map(|job| (self.at, job)));
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.settle(None);
    }
}

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers = state.workers.saturating_sub(1);
        if state.workers == 0 {
            // Also an empty one, so that no batch is left that is being filled.
            if let Some(open) = state.open.take() {
                let (number, unclaimed) = (state.next - 1, open.len());
                drop(open);
                self.0.settle(&mut state, number, unclaimed, None);
            }
            self.0.takeable.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Pixels;
    use std::sync::mpsc;
    use std::thread;

    fn job(at: u8) -> Job {
        Job { key: vec![at], ..Job::default() }
    }

    fn bring(assembly: &Assembly, at: u8) {
        let mut claim = assembly.claim().unwrap();
        claim.numbers().fill(f32::from(at));
        claim.fill(job(at));
    }

    fn keys(ready: &Ready) -> Vec<u8> {
        ready.jobs.iter().map(|job| job.key[0]).collect()
    }

    #[test]
    fn full_batches_and_a_smaller_one_at_the_end() {
        let assembly = Assembly::new(1, 3, 2, 4);
        let bringing = assembly.bringing();
        (0..7).for_each(|at| bring(&assembly, at));
        drop(bringing);
        let batches: Vec<Ready> = std::iter::from_fn(|| assembly.take(&|| false)).collect();
        assert_eq!(batches.iter().map(keys).collect::<Vec<_>>(), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(batches[1].tensor.pixels(), Pixels::F32(&[3.0, 3.0, 4.0, 4.0, 5.0, 5.0]));
        assert_eq!(batches[2].tensor.pixels().part(0..2), Pixels::F32(&[6.0, 6.0]));
    }

    #[test]
    fn tensors_from_elsewhere_are_used_and_count() {
        let given = |lengths: &[usize]| lengths.iter().map(|length| Tensor::plain(*length)).collect();
        let places = |assembly: &Assembly| {
            let state = assembly.lock();
            let idle: Vec<_> = state.idle.iter().map(Tensor::first).collect();
            (idle, state.unmade)
        };
        let assembly = Assembly::new(1, 2, 3, 3).with(given(&[6, 5, 6]));
        let (idle, unmade) = places(&assembly);
        assert_eq!((idle.len(), unmade), (2, 1), "the one of another length is of no use");
        let bringing = assembly.bringing();
        (0..2).for_each(|at| bring(&assembly, at));
        drop(bringing);
        let ready = assembly.take(&|| false).unwrap();
        assert!(idle.contains(&ready.tensor.first()));
        assert_eq!(ready.tensor.pixels(), Pixels::F32(&[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
        let (idle, unmade) = places(&Assembly::new(1, 1, 1, 2).with(given(&[1, 1, 1])));
        assert_eq!((idle.len(), unmade), (2, 0));
    }

    #[test]
    fn slots_that_nothing_came_of_leave_no_gap() {
        let assembly = Assembly::new(1, 4, 1, 2);
        let bringing = assembly.bringing();
        let given_up = assembly.claim().unwrap();
        bring(&assembly, 1);
        let last = assembly.claim().unwrap();
        bring(&assembly, 3);
        drop(last);
        drop(given_up);
        let ready = assembly.take(&|| false).unwrap();
        let numbers = ready.tensor.pixels().part(0..2).to_f32();
        assert_eq!((keys(&ready), &numbers[..]), (vec![1, 3], &[1.0, 3.0][..]));
        // A batch of nothing but failures is none.
        (0..4).for_each(|_| drop(assembly.claim().unwrap()));
        drop(bringing);
        assert!(assembly.take(&|| false).is_none());
    }

    #[test]
    fn a_batch_waits_for_its_slowest_slot_and_others_overtake_it() {
        let assembly = Assembly::new(1, 2, 1, 3);
        let _bringing = assembly.bringing();
        let slow = assembly.claim().unwrap();
        (1..4).for_each(|at| bring(&assembly, at));
        assert_eq!(keys(&assembly.take(&|| false).unwrap()), [2, 3]);
        slow.fill(job(0));
        assert_eq!(keys(&assembly.take(&|| false).unwrap()), [0, 1]);
    }

    #[test]
    fn an_unfinished_batch_goes_when_others_wait_for_it_and_nothing_comes() {
        let assembly = Assembly::new(1, 4, 1, 2);
        let _bringing = assembly.bringing();
        bring(&assembly, 1);
        let slow = assembly.claim().unwrap();
        let (asked, asks) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = move || asked.send(()).is_ok();
            let taken = scope.spawn(|| {
                let waiting = waiting;
                assembly.take(&waiting).map(|ready| keys(&ready))
            });
            // Asked for the second time, the batch was closed the first time, and is not taken: one slot is to come.
            asks.iter().take(2).for_each(drop);
            let closed = assembly.lock().open.is_none() && assembly.lock().ready.is_empty();
            if closed {
                slow.fill(job(2));
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
        let assembly = Assembly::new(1, 1, 1, 2);
        let bringing = assembly.bringing();
        (0..2).for_each(|at| bring(&assembly, at));
        assert!(!assembly.open(&mut assembly.lock()), "there are two tensors");
        thread::scope(|scope| {
            scope.spawn(|| {
                let _bringing = bringing;
                (2..5).for_each(|at| bring(&assembly, at));
            });
            let mut taken = Vec::new();
            while let Some(ready) = assembly.take(&|| false) {
                taken.extend(keys(&ready));
                assembly.give_back(ready.tensor);
            }
            assert_eq!(taken, [0, 1, 2, 3, 4]);
        });
    }

    #[test]
    fn who_waits_for_a_slot_learns_that_nobody_wants_it() {
        let assembly = Assembly::new(1, 1, 1, 1);
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _bringing = assembly.bringing();
                bring(&assembly, 0);
                assembly.claim().is_none()
            });
            let _kept = assembly.take(&|| false).unwrap();
            assembly.abandon();
            assert!(worker.join().unwrap());
        });
        assert!(assembly.take(&|| false).is_none());
    }
}
