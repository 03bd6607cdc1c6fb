//! How busy a card is while something runs, as `nvidia-smi` tells it.

use std::io::Read;
use std::process::{Child, Command, Stdio};

/// Asks five times a second until it is told to stop.
pub struct Busy(Option<Child>);

impl Busy {
    /// Begins to ask about these cards. Where there is no `nvidia-smi`, nothing is known.
    pub fn watch(cards: &[u32]) -> Self {
        if cards.is_empty() {
            return Busy(None);
        }
        let cards = cards.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let ask = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i"];
        let child = Command::new("nvidia-smi")
            .args(ask)
            .arg(cards)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Busy(child.ok())
    }

    /// The mean since then, in percent.
    pub fn mean(mut self) -> Option<f64> {
        let mut child = self.0.take()?;
        // What it has written stays in the pipe, and there is little of it.
        let _ = child.kill();
        let mut text = String::new();
        let _ = child.stdout.take()?.read_to_string(&mut text);
        let _ = child.wait();
        mean(&text)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn mean(text: &str) -> Option<f64> {
    let shares: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}
