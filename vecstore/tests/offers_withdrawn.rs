//! Processes that commit for each other: whoever gives up waiting takes his offer back, unless it has been taken.

mod sim;

use std::sync::mpsc::channel;
use std::time::Duration;

use sim::run::STORE;
use sim::scene::{EIO, Process, Scene, assert_whole, batch, options, two, value};
use sim::{Misfortune, SimFs};
use vecstore::{Error, OnDuplicate, OpenOptions};

/// What it waits for goes on until the test says otherwise: any duration passes: a longer one takes longer.
fn impatient(fs: &SimFs) -> OpenOptions {
    options(fs).lock_timeout(Duration::from_millis(5))
}

#[test]
fn whoever_gives_up_takes_the_offer_back() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    let error = a.offers(batch(&["a"], 1.0), OnDuplicate::Skip).join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    // Who comes next sees the offer, and that it was taken back.
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    let fs = scene.go_on();
    of_b.join().unwrap().unwrap();
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "a"), value(&store, "b")), (None, Some((2.0, 3))));
    a.store.append(batch(&["a"], 1.0), OnDuplicate::Error).unwrap();
    assert_eq!(value(&a.store, "a"), Some((1.0, 4)));
}

#[test]
fn whoever_gives_up_too_late_waits_for_the_outcome() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    // The first has taken the offer, and does not go on before the second has given up.
    let ((told, at), (gave_up, may)) = (channel::<()>(), channel::<()>());
    a.fs.before_next("create", move || {
        told.send(()).unwrap();
        may.recv().unwrap();
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    b.gives_up();
    gave_up.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let of_b = of_b.join().unwrap().unwrap();
    assert_eq!(value(&assert_whole(&fs), "b"), Some((2.0, of_b.commit.unwrap())));
}

#[test]
fn mailboxes_of_the_dead_are_removed() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    a.offers(batch(&["a"], 1.0), OnDuplicate::Skip).join().unwrap().unwrap_err();
    a.fs.die_at(a.fs.calls().len());
    drop(a);
    let fs = scene.go_on();
    let mailboxes = || fs.names(STORE).into_iter().filter(|name| name.contains("offer")).count();
    assert_eq!(mailboxes(), 1);
    let store = assert_whole(&fs);
    store.append(batch(&["b"], 2.0), OnDuplicate::Skip).unwrap();
    assert_eq!(mailboxes(), 0);
    assert_eq!(value(&store, "a"), None);
}

/// The owner gives up after the taker has seen that he is alive, and before he says that he took the offer.
#[test]
fn whoever_gives_up_while_it_is_taken_takes_the_offer_back() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let of_b = b.offers(batch(&["b"], 2.0), OnDuplicate::Skip);
    // It writes that it takes its own offer back, and then that it takes the other one.
    let ((told, at), (stop, may)) = (channel::<()>(), channel::<()>());
    let once = a.fs.clone();
    a.fs.before_next("write letter", move || {
        once.before_next("write letter", move || {
            told.send(()).unwrap();
            may.recv().unwrap();
        });
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    b.gives_up();
    let error = of_b.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // What it offers next is another offer.
    let of_b = b.offers(batch(&["b2"], 2.0), OnDuplicate::Skip);
    stop.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let commit = of_b.join().unwrap().unwrap().commit.unwrap();
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "b"), value(&store, "b2")), (None, Some((2.0, commit))));
    drop((a, b, store));
    assert!(!fs.names(STORE).iter().any(|name| name.contains("offer")), "{:?}", fs.names(STORE));
}

/// Whoever gives up, and cannot read whether his offer was taken, does not say that it was not.
#[test]
fn whoever_cannot_read_the_answer_when_giving_up_is_in_doubt() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, impatient);
    // It gives its turn back when it has tried, and when it has waited; then the lock on its mailbox, which it reads.
    let (tried, waited) = (a.fs.clone(), a.fs.clone());
    a.fs.before_next("unlock", move || {
        tried.before_next("unlock", move || waited.arm("unlock", 2, Misfortune::Fails(EIO, true)));
    });
    let error = a.store.append(batch(&["a"], 1.0), OnDuplicate::Skip).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    scene.go_on();
}

/// The lock cannot be tried while another process commits the offer, and that one cannot write that it gives the lock back. It
/// has said that the offer is committed, though.
#[test]
fn whoever_is_told_that_he_was_served_is_in_no_doubt() {
    let scene = Scene::new();
    let ((a, of_a), (b, of_b)) = two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Skip);
    // It stops when it has taken the offer; and the last thing it writes into the record fails.
    let ((told, at), (finish, may)) = (channel::<()>(), channel::<()>());
    let (named, answers) = (a.fs.clone(), a.fs.clone());
    a.fs.before_next("create", move || {
        told.send(()).unwrap();
        may.recv().unwrap();
        named.before_next("flush directory", move || {
            let fails = answers.clone();
            answers.before_next("write letter", move || {
                fails.arm("write record", 0, Misfortune::Fails(EIO, false));
            });
        });
    });
    let fs = scene.go_on();
    at.recv().unwrap();
    // When it has withdrawn its offer it cannot ask for a turn, either.
    let (before, fails) = (b.fs.call_count(), b.fs.clone());
    b.fs.before_next("unlock", move || {
        let again = fails.clone();
        fails.before_next("lock", move || again.arm("lock", 0, Misfortune::Fails(EIO, false)));
    });
    b.gives_up();
    let locks = || b.fs.calls_from(before).iter().filter(|call| call.what == "lock").count();
    let tried = locks();
    b.fs.until("it finds out", || locks() > tried + 2);
    finish.send(()).unwrap();
    of_a.join().unwrap().unwrap();
    let of_b = of_b.join().unwrap().unwrap();
    assert_eq!(of_b.commit, Some(4));
    assert_eq!(value(&b.store, "b"), Some((2.0, 4)));
    b.store.append(batch(&["later"], 3.0), OnDuplicate::Error).unwrap();
    assert_eq!(value(&assert_whole(&fs), "b"), Some((2.0, 4)));
}
