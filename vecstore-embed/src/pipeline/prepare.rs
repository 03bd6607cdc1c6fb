//! Third stage, on many threads: content becomes items in batches, or a reason why not.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crossbeam_channel::{Receiver, Sender};

use super::batch::{Assembly, SlotGuard};
use super::entry::{Done, Draft, Item};
use super::limits::Budget;
use super::lookup::Job;
use super::read::ReadInput;
use super::report::{Clock, Doing};
use super::shared::Shared;
use crate::base::{Error, Rejected, RejectionClass};
use crate::source::{Content, Source};
use crate::task::{About, Halt, Items, Task};
use crate::tensor::Slot;

/// What the workers share.
pub(crate) struct Prepare<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) task: &'a dyn Task,
    /// Bytes of loaded content. No thread waits for room for a file while it holds some of these, so that the
    /// two budgets cannot deadlock.
    pub(crate) loaded: Budget,
    /// Where the items go.
    pub(crate) assembly: &'a Assembly,
    pub(crate) left_out: Arc<AtomicU64>,
}

/// Works until there is no more content, or nothing takes what comes of it any more.
pub(crate) fn work<'a>(
    contents: &Receiver<ReadInput<'a>>,
    to_commit: &Sender<Vec<Done>>,
    prepare: &Prepare<'a>,
    shared: &Shared,
    clock: &Clock,
) -> Result<(), Error> {
    let _bringing = prepare.assembly.bringing();
    let next = || {
        clock.switch(Doing::WaitingForInput);
        let content = contents.recv().ok();
        clock.switch(if content.is_some() { Doing::Working } else { Doing::Nothing });
        content
    };
    while let Some(ReadInput { job, bytes, taken }) = next() {
        // What was read before too many others could not be is finished.
        if shared.is_stopping() {
            // Emptying the queue lets the stage before finish; these inputs stay missing.
            shared.left_out(1);
            continue;
        }
        let done = prepare.bring(&bytes, job, clock);
        drop((bytes, taken));
        match done {
            Ok(None) => {}
            Ok(Some(done)) => {
                let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
                if to_commit.send(vec![done]).is_err() {
                    return Ok(());
                }
            }
            Err(ended) => {
                // No other stage may wait for what this one does not bring.
                prepare.assembly.abandon();
                return ended.map_or(Ok(()), Err);
            }
        }
    }
    Ok(())
}

impl Prepare<'_> {
    /// Loads the content, and brings its items into batches. The input, if it is settled by that. Slots are
    /// claimed as late as that: a batch is made of what is ready, and an input that takes long to load holds
    /// none up.
    ///
    /// # Errors
    /// There is nothing to bring items to any more, `None` where that is another stage's doing.
    fn bring(&self, bytes: &[u8], job: Job, clock: &Clock) -> Result<Option<Done>, Option<Error>> {
        let in_memory = self.source.content(&job.input);
        let _loaded_bytes = {
            let _waiting = clock.during(Doing::WaitingForOutput, Doing::Working);
            self.loaded.take(in_memory.as_ref().map_or_else(
                || self.task.cost(bytes),
                |content| content.bytes().map_or(0, |bytes| self.task.cost(bytes)),
            ))
        };
        let draft = Draft::new(job, &self.left_out);
        let mut items = Bringer { draft, last: None, refused: None, assembly: self.assembly, clock };
        let content = in_memory.unwrap_or(Content::Bytes(bytes));
        // A task that panics could not make sense of the content. What it shares with others is whole: slots
        // that are not filled are given back.
        let brought = panic::catch_unwind(AssertUnwindSafe(|| self.task.load(content)?.items(&mut items)));
        let failed = || Rejected::new(RejectionClass::Decode, "the decoder failed on this content");
        // What was refused counts, whatever the task made of that.
        let rejected = match (items.refused.take(), brought.unwrap_or_else(|_| Err(failed().into()))) {
            (Some(Err(ended)), _) => return Err(ended),
            (Some(Ok(rejected)), _) | (None, Err(Halt::Rejected(rejected))) => Some(rejected),
            (None, Ok(())) => None,
            (None, Err(Halt::Stopped)) => {
                let expected = "items, or a reason why there are none";
                return Err(Some(Error::bad_value("task", expected, "it stopped of itself")));
            }
        };
        let done = items.draft.finish(rejected.clone());
        let Some((guard, item)) = items.last else { return Ok(done) };
        match rejected {
            Some(rejected) => Ok(done.or_else(|| item.settle(Err(rejected)))),
            None => {
                guard.fill(item);
                Ok(done)
            }
        }
    }
}

/// Brings the items of one input into batches.
struct Bringer<'a> {
    draft: Draft,
    /// The last item, which is written. It goes into its batch once it is known whether there are more, so
    /// that the lane that encodes it finds the entry complete. No slot is claimed meanwhile, so no thread
    /// waits for it.
    last: Option<(SlotGuard<'a>, Item)>,
    /// Why an item was not taken: it is bad, or nothing takes items any more.
    refused: Option<Result<Rejected, Option<Error>>>,
    assembly: &'a Assembly,
    clock: &'a Clock,
}

impl Items for Bringer<'_> {
    fn add(
        &mut self,
        bucket: usize,
        write: &mut dyn FnMut(&mut Slot) -> Result<(), Rejected>,
    ) -> Result<u32, Halt> {
        if let Some((guard, item)) = self.last.take() {
            guard.fill(item);
        }
        let mut guard = {
            let _waiting = self.clock.during(Doing::WaitingForOutput, Doing::Working);
            match self.assembly.claim(bucket) {
                Ok(Some(guard)) => guard,
                ended => {
                    self.refused = Some(Err(ended.err()));
                    return Err(Halt::Stopped);
                }
            }
        };
        if let Some(Err(rejected)) = guard.slot().map(write) {
            self.refused = Some(Ok(rejected.clone()));
            return Err(rejected.into());
        }
        let (item, row) = self.draft.item();
        self.last = Some((guard, item));
        Ok(row)
    }

    fn about(&mut self) -> &mut About {
        self.draft.about()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Signature;
    use crate::pipeline::batch::Shape;
    use crate::source::{Accepts, Input, Walk};
    use crate::task::{Bucket, Loaded};
    use crate::tensor::Element;
    use std::io::{self, Read};

    /// Makes items until one is refused, and says that all is well.
    struct Heedless;

    impl Source for Heedless {
        fn walk(&self) -> crate::base::Result<Walk<'_>> {
            unreachable!("the content is given")
        }

        fn open(&self, _: &Input) -> io::Result<Box<dyn Read + Send + '_>> {
            unreachable!("the content is given")
        }
    }

    impl Task for Heedless {
        fn accepts(&self) -> Accepts {
            Accepts::pictures()
        }

        fn buckets(&self, _: &Signature) -> crate::base::Result<Vec<Bucket>> {
            unreachable!("the assembly is given")
        }

        fn load<'a>(&'a self, _: Content<'a>) -> Result<Box<dyn Loaded + 'a>, Rejected> {
            Ok(Box::new(Heedless))
        }

        fn canonical(&self) -> String {
            String::new()
        }
    }

    impl Loaded for Heedless {
        fn items(self: Box<Self>, items: &mut dyn Items) -> Result<(), Halt> {
            let mut room = 2;
            let full = || Rejected::new(RejectionClass::Size, "two are enough");
            let mut write = |_: &mut Slot| {
                room -= 1;
                (room >= 0).then_some(()).ok_or_else(full)
            };
            while items.add(0, &mut write).is_ok() {}
            Ok(())
        }
    }

    fn bring(assembly: &Assembly) -> Result<Option<Done>, Option<Error>> {
        let (source, task, left_out) = (&Heedless, &Heedless, Arc::default());
        let prepare = Prepare { source, task, loaded: Budget::new(1), assembly, left_out };
        prepare.bring(b"", Job::default(), &Clock::default())
    }

    #[test]
    fn an_entry_that_lacks_items_is_not_taken_for_a_whole_one_whatever_its_task_says() {
        let assembly =
            |items| Assembly::new(vec![Shape { items, lengths: vec![1] }], vec![Element::F32], 1, 1);
        // The third is refused, and settles the input when the two before it are back.
        let refused = assembly(9);
        assert!(bring(&refused).unwrap().is_none());
        drop(refused.bringing());
        let items = refused.take(&|| false).unwrap().items;
        let settled = items.into_iter().filter_map(|item| item.settle(Ok(vec![1.0]))).next();
        match settled.unwrap().outcome {
            Some(crate::pipeline::Outcome::Rejected(why)) => assert_eq!(why.reason, "two are enough"),
            other => panic!("{other:?}"),
        }
        // No items are wanted any more.
        let abandoned = assembly(9);
        abandoned.abandon();
        assert!(matches!(bring(&abandoned), Err(None)));
    }
}
