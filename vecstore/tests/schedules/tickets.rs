//! Submitted batches: the committer, threads that wait for their tickets, threads that append as usual, and
//! the end of the handle.

use std::sync::Arc;

use shuttle::thread;
use vecstore::OnDuplicate;

use super::disk::Disk;
use super::journal::{Journal, batch};
use super::run::explore;
use super::scenarios::{close, end, open, two};

#[test]
fn closing_commits_every_submitted_batch() {
    two();
    explore("tickets, an append and the end", || {
        let disk = Disk::new(two());
        let store = open(&disk);
        let journal = Arc::new(Journal::new(&disk, &store));
        let appender = {
            let (store, journal) = (Arc::clone(&store), Arc::clone(&journal));
            thread::spawn(move || journal.append(&store, &["usual"]).map(drop).unwrap())
        };
        let waiter = {
            let store = Arc::clone(&store);
            let ticket = store.submit(batch(&store, &["waited for"]), OnDuplicate::Error).unwrap();
            thread::spawn(move || {
                let commit = ticket.wait().unwrap().commit.unwrap();
                assert!(store.snapshot().last_commit() >= commit, "visible when it is said to be there");
                commit
            })
        };
        let left = store.submit(batch(&store, &["left"]), OnDuplicate::Error).unwrap();
        appender.join().unwrap();
        let waited_for = waiter.join().unwrap();
        // Closing commits the batches that no thread has waited for.
        close(store).unwrap();
        assert!(left.is_done());
        journal.note(waited_for, &["waited for"]);
        journal.note(left.wait().unwrap().commit.unwrap(), &["left"]);
        end(&disk, &journal);
    });
}
