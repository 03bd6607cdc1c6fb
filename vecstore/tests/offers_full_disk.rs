//! Processes that commit for each other on a full disk: what fits is committed, and nobody who can be told is left in doubt.

mod sim;

use sim::Misfortune;
use sim::scene::{ENOSPC, Process, Scene, assert_whole, batch, options, two, value};
use vecstore::{Batch, Error, OnDuplicate};

#[test]
fn a_full_disk_is_no_affair_of_those_whose_batches_fit() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let b = Process::new(&scene.fs, options);
    let mut large = Batch::new(1, vecstore::DType::F32);
    large.push_with_payload("b", &[2.0f32], &vec![7; 1 << 20]).unwrap();
    let of_b = b.offers(large, OnDuplicate::Skip);
    let room = sim::Room {
        bytes: scene.fs.used() + (1 << 17),
        is_quota: false,
        copies: false,
        names: false,
        late: false,
    };
    scene.fs.set_room(Some(room));
    let fs = scene.go_on();
    of_a.join().unwrap().unwrap();
    let error = of_b.join().unwrap().unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    fs.set_room(None);
    let store = assert_whole(&fs);
    assert_eq!((value(&store, "a"), value(&store, "b")), (Some((1.0, 3)), None));
}

/// From some call of the taker on nothing can be written, not even over what is there: that it took the offer, what it will
/// be, that it is done, or that it gives it back. Everybody is told that the disk is full, and goes on when it is not.
#[test]
fn a_disk_that_has_no_room_for_answers_leaves_nobody_in_doubt() {
    let (tried, told) =
        full_from_some_call_on(|used| sim::Room { bytes: used, copies: true, ..sim::Room::default() });
    println!("offers: the disk full at {tried} calls, {} batches refused", told.refused);
    assert!(tried > 15 && told.refused > 15, "{tried} {told:?}");
    assert_eq!(told.in_doubt, 0, "an answer can be given by a name");
}

/// The same where names need room as well, and what is removed leaves none for the moment. Only who was served, and cannot be
/// told, is in doubt; who was not finds that out though nobody can write that he has the lock.
#[test]
fn without_room_for_names_only_what_was_committed_is_in_doubt() {
    let (tried, told) = full_from_some_call_on(|_| sim::Room {
        bytes: 0,
        is_quota: false,
        copies: true,
        names: true,
        late: false,
    });
    println!(
        "offers: no room at {tried} calls, {} batches refused, {} in doubt",
        told.refused, told.in_doubt
    );
    assert!(tried > 15 && told.refused > 15, "{tried} {told:?}");
    assert!((1..=4).contains(&told.in_doubt), "{told:?}");
}

/// An offer that could not be announced, because the disk was full at that moment, was not made: nobody can have taken it.
#[test]
fn what_could_not_be_announced_was_not_offered() {
    let scene = Scene::new();
    let a = Process::new(&scene.fs, options);
    a.fs.arm("write letter", 1, Misfortune::Fails(ENOSPC, false));
    let of_a = a.offers_next(batch(&["a"], 1.0), OnDuplicate::Skip);
    let fs = scene.go_on();
    assert_eq!(of_a.join().unwrap().unwrap().commit, Some(3));
    assert_eq!(value(&assert_whole(&fs), "a"), Some((1.0, 3)));
}

/// What those are told who could not be told that their batches are committed.
#[derive(Debug, Default)]
struct Told {
    refused: usize,
    in_doubt: usize,
}

/// Two processes append while a disk gets full at each call in turn. How many calls that were, and what was told.
fn full_from_some_call_on(room: fn(u64) -> sim::Room) -> (usize, Told) {
    let (mut tried, mut told) = (0, Told::default());
    for after in 0.. {
        let scene = Scene::new();
        let ((a, of_a), (b, of_b)) =
            two(&scene, batch(&["a"], 1.0), batch(&["b"], 2.0), OnDuplicate::Replace);
        let (first, disk) = (a.fs.call_count(), a.fs.clone());
        let fills = a.fs.clone();
        a.fs.before_next("write record", move || {
            let room = room(disk.used());
            let (at, disk) = (fills.call_count() + after, disk.clone());
            fills.before(at, move || disk.set_room(Some(room)));
        });
        let fs = scene.go_on();
        let outcomes = [of_a.join().unwrap(), of_b.join().unwrap()];
        fs.set_room(None);
        tried += 1;
        let store = assert_whole(&fs);
        for ((process, key), outcome) in [(&a, "a"), (&b, "b")].into_iter().zip(outcomes) {
            match outcome {
                Ok(appended) => {
                    assert!(value(&store, key).is_some_and(|(_, at)| Some(at) == appended.commit))
                }
                Err(Error::OutcomeUnknown { .. }) => {
                    told.in_doubt += 1;
                    assert!(value(&store, key).is_some(), "call {after} of {key}");
                    continue;
                }
                Err(error) => {
                    told.refused += 1;
                    assert!(matches!(error, Error::NoSpace { .. }), "call {after} of {key}: {error}");
                    assert_eq!(value(&store, key), None, "call {after} of {key}");
                }
            }
            process.store.append(batch(&["later"], 3.0), OnDuplicate::Replace).unwrap();
        }
        assert_whole(&fs);
        let calls = a.fs.calls_from(first);
        let taken = calls.iter().position(|call| call.what == "write record").unwrap();
        let gives_back = |call: &sim::Call| call.what == "unlock" && call.path.ends_with("LOCK");
        let released = calls.iter().skip(taken).position(gives_back).unwrap();
        if after > released {
            return (tried, told);
        }
    }
    unreachable!("some call is the last")
}
