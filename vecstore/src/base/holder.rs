//! The holder of a lock, for messages.

use std::fmt;

/// Who holds a lock, as the record says. Diagnostics only: nothing is decided by it but the wording of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Process id; `None` when the record does not tell.
    pub pid: Option<u32>,
    /// Name of the machine.
    pub host: String,
    /// Seconds since the holder took the lock, by this machine's clock.
    pub held_secs: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} on {} for {} s", self.host, self.held_secs),
            None => f.write_str("another process"),
        }
    }
}
