//! The process that holds a lock, for the texts of errors.

use std::fmt;

/// The holder of a lock, as the record says: only for the texts of errors, nothing else is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockHolder {
    /// Process id; `None` when the record has none.
    pub pid: Option<u32>,
    /// Name of the machine.
    pub host: String,
    /// Seconds since the holder took the lock, by this machine's clock.
    pub held_secs: u64,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} on {} for {} s", self.host, self.held_secs),
            None => f.write_str("another process"),
        }
    }
}
