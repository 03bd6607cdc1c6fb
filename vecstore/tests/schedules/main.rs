//! Threads in every order: the swap of the view, the queue of batches that share a commit, and what appender,
//! checkpoint and merge hand to each other, under a scheduler that decides at every lock, flag and file
//! operation which thread goes on.
//!
//! The real code runs on the simulated disk. Schedules are chosen at random, and by few well-placed
//! preemptions (PCT): see the crate `shuttle`. Built and run by `scripts/schedules`; an ordinary build of
//! this file is empty.
//!
//! That this finds what it is to find was tried by breaking the code. Each of these fails within 400
//! schedules of some scenario, as the one in brackets says:
//!
//! * the view copied before the writer is had [commits numbered twice, views that go back]
//! * the queue taken before the writer is had, or only the leader told [batches abandoned, or written and never told]
//! * a commit published before its name is flushed; a merged file likewise [a segment is seen, and not durable]
//! * the view read anew beside the writer after a merge [a snapshot goes back, a name is taken]
//! * LOCK's counter read after the view it is to vouch for [another handle's commit is never seen]
//! * the merger woken before it is told to stop, or without the mutex [closing waits for ever]
//! * a holder of the lock that died and is not noticed [a name is taken, temporary files stay]
//! * a merge that swaps files without the manifest lock [a checkpoint lists files that are gone]
//!
//! `VECSTORE_SCHEDULES` says how many schedules each scenario gets (half of them random, half PCT). A failure
//! prints its schedule; `VECSTORE_REPLAY` runs it again.

#![cfg(vecstore_shuttle)]

mod disk;
mod journal;
mod run;
mod scenarios;
#[path = "../sim/mod.rs"]
mod sim;
mod tickets;
