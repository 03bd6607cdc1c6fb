//! A source of a program's own, run into a store again and again, alone and in company.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vecstore::Reader;
use vecstore_embed::{Observer, Plan, Progress, Run};

use crate::common::{Letters, Table, embedder, vector};

#[test]
fn what_changes_in_a_source_is_embedded_again_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("texts.vecs");
    let table = Table::of(&[("a", "one"), ("b", "two\nthree"), ("\u{0}odd/../key", "four")]);
    let run =
        || Run::new(table.clone(), &store).run(&embedder(Letters::boxed(|_, _| Ok(()))).build()).unwrap();
    assert_eq!(run().embedded, 3);
    assert_eq!((run().already, run().embedded), (3, 0));
    table.set("b", "five", 2);
    table.set("a", "one", 2);
    let changed = run();
    assert_eq!(
        (changed.embedded, changed.changed, changed.already),
        (1, 1, 2),
        "the content of a is the same"
    );
    let snapshot = Reader::open(&store).unwrap().snapshot();
    assert_eq!(snapshot.get("b").unwrap().unwrap().to_f32().unwrap(), vector("five"));
    assert_eq!((snapshot.totals().entries, snapshot.totals().rows), (3, 3));
    assert_eq!(run().already, 3, "the new stamps are remembered");
    // What a source has lost stays: only a run over a folder sees what is gone.
    table.0.lock().unwrap().remove(&b"a"[..]);
    let pruned = Run::new(table.clone(), &store)
        .with_prune(true, true)
        .run(&embedder(Letters::boxed(|_, _| Ok(()))).build())
        .unwrap();
    assert!(pruned.gone.refused.unwrap().contains("only a run over a folder"));
    assert!(Reader::open(&store).unwrap().snapshot().get("a").unwrap().is_some());
}

/// The last progress of a run.
#[derive(Default)]
struct Watcher(Mutex<(Option<Plan>, Progress)>);

impl Observer for Watcher {
    fn planned(&self, plan: &Plan) {
        self.0.lock().unwrap().0 = Some(plan.clone());
    }

    fn progress(&self, progress: &Progress) {
        self.0.lock().unwrap().1 = *progress;
    }
}

#[test]
fn what_other_runs_do_counts_as_done() {
    const WATCHDOG: Duration = Duration::from_secs(600);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("texts.vecs");
    let table = Table::default();
    (0..40).for_each(|at| table.set(&format!("{at:02}"), &format!("text {at}"), 1));
    Run::new(Table::of(&[("00", "text 0")]), &store)
        .run(&embedder(Letters::boxed(|_, _| Ok(()))).build())
        .unwrap();
    let (first, second) = (Arc::new(Watcher::default()), Arc::new(Watcher::default()));
    let (begun, begins) = channel();
    let (done, waits) = channel();
    let slow = {
        let run = Run::new(table.clone(), &store).with_chunk_size(10);
        let run = run.with_observer(Arc::clone(&first) as Arc<dyn Observer>);
        // It stands in its first batch until the other run has done what this one has not claimed.
        let slow = Letters::boxed(move |batch, _| {
            if batch == 0 {
                begun.send(()).unwrap();
                waits.recv_timeout(WATCHDOG).unwrap();
            }
            Ok(())
        });
        thread::spawn(move || run.run(&embedder(slow).readers(1).workers(1).build()).unwrap())
    };
    begins.recv_timeout(WATCHDOG).unwrap();
    let quick = {
        let run = Run::new(table, &store).with_chunk_size(10);
        let run = run.with_observer(Arc::clone(&second) as Arc<dyn Observer>);
        // It lets the other one go when it has nothing of its own left.
        let quick = Letters::boxed(|_, _| Ok(()));
        struct Ends(Mutex<Option<std::sync::mpsc::Sender<()>>>, Arc<Watcher>);
        impl Observer for Ends {
            fn planned(&self, plan: &Plan) {
                self.1.planned(plan);
            }
            fn progress(&self, progress: &Progress) {
                self.1.progress(progress);
                if progress.embedded > 0 {
                    self.0.lock().unwrap().take().map(|done| done.send(()));
                }
            }
        }
        let run = run.with_observer(Arc::new(Ends(Mutex::new(Some(done)), Arc::clone(&second))));
        run.run(&embedder(quick).build()).unwrap()
    };
    let slow = slow.join().unwrap();
    assert_eq!(slow.embedded + quick.embedded, 39);
    assert!(slow.embedded > 0 && quick.embedded > 0, "{slow:?} {quick:?}");
    for watcher in [first, second] {
        let (plan, progress) = &*watcher.0.lock().unwrap();
        let to_do = plan.as_ref().unwrap().to_do;
        assert_eq!((to_do, progress.done()), (39, 39), "the bar ends where the work ends: {progress:?}");
    }
}
