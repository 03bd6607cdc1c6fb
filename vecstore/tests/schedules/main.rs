//! Threads in many orders: the swap of the view, the queue of batches that share a commit, and what
//! appenders, checkpoints and merges hand to each other. A scheduler decides at every lock, flag and file
//! operation which thread goes on.
//!
//! The real code runs on the simulated disk. Schedules are chosen at random, and by few well-placed
//! preemptions (PCT): see the crate `shuttle`. Built and run by `scripts/schedules`; an ordinary build of
//! this file is empty.
//!
//! The code was broken on purpose, to show that the scenarios find mistakes. Each of these mistakes fails
//! within 400 schedules of some scenario, with the effect in brackets:
//!
//! * the view is copied before the writer's mutex is locked [commits are numbered twice, views go back]
//! * the queue is taken before the writer's mutex is locked, or only the leader gets an answer [batches are
//!   abandoned, or written and never answered]
//! * a commit, or a merge's output, is published before its name is flushed [a segment in a view is not
//!   durable]
//! * after a merge the view is loaded without the writer's mutex [a snapshot goes back, a name is taken]
//! * LOCK's counter is read after the view for which it vouches [another handle's commit is never seen]
//! * the merger is woken before it is told to stop, or without the mutex [closing waits for ever]
//! * the death of a lock holder is not noticed [a name is taken, temporary files stay]
//! * a merge swaps files without the manifest lock [a checkpoint lists files that are gone]
//!
//! `VECSTORE_SCHEDULES` is the number of schedules per scenario (half of them random, half PCT). A failure
//! prints its schedule; `VECSTORE_REPLAY` runs it again.

#![cfg(vecstore_shuttle)]

mod disk;
mod journal;
mod run;
mod scenarios;
#[path = "../sim/mod.rs"]
mod sim;
mod tickets;
