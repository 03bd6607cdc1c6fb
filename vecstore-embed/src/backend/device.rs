//! Where a model is computed, and how exactly.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::base::{Error, Result};

/// What computes: the processor, or cards by way of one of ONNX Runtime's execution providers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA cards, operator by operator.
    Cuda,
    /// NVIDIA cards, by engines that TensorRT builds for the model, the card and the size of a batch. What it
    /// cannot take goes to [`Cuda`](Self::Cuda).
    TensorRt,
}

impl Provider {
    /// What ONNX Runtime calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "CPUExecutionProvider",
            Provider::Cuda => "CUDAExecutionProvider",
            Provider::TensorRt => "TensorrtExecutionProvider",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The provider, and the cards it is to use.
///
/// ```
/// use vecstore_embed::backend::{Device, Provider};
///
/// let device: Device = "cuda:0,2".parse()?;
/// assert_eq!((device.provider(), device.cards()), (Provider::Cuda, &[0, 2][..]));
/// assert_eq!("tensorrt".parse::<Device>()?.to_string(), "tensorrt:0");
/// assert_eq!(Device::default().to_string(), "cpu");
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    provider: Provider,
    cards: Vec<u32>,
}

impl Device {
    /// The processor.
    pub fn cpu() -> Self {
        Device::default()
    }

    /// What computes.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The numbers of the cards, as CUDA counts them; none for the processor.
    pub fn cards(&self) -> &[u32] {
        &self.cards
    }

    /// True for cards.
    pub fn is_gpu(&self) -> bool {
        self.provider != Provider::Cpu
    }

    /// Each card by itself; the processor as it is.
    pub(crate) fn each(&self) -> Vec<Device> {
        match self.provider {
            Provider::Cpu => vec![Device::cpu()],
            provider => self.cards.iter().map(|card| Device { provider, cards: vec![*card] }).collect(),
        }
    }

    /// How many models are loaded on each card, or on the processor, unless it is said: on a card one is
    /// copied to while the other computes.
    pub(crate) fn lanes(&self) -> usize {
        if self.is_gpu() { 2 } else { 1 }
    }

    /// Whether a batch of another size costs so much that fewer pictures are filled up with blank ones:
    /// TensorRT would build another engine, which takes a minute.
    pub(crate) fn wants_fixed_batches(&self) -> bool {
        self.provider == Provider::TensorRt
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.provider.fmt(f)?;
        let cards: Vec<String> = self.cards.iter().map(u32::to_string).collect();
        if self.is_gpu() { write!(f, ":{}", cards.join(",")) } else { Ok(()) }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let expected = "cpu, cuda, tensorrt, or one of these two with the numbers of cards, as in cuda:0,1";
        let bad = || Error::bad_value("device", expected, text);
        let (name, numbers) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let provider = match (name, numbers) {
            ("cpu", None) => return Ok(Device::cpu()),
            ("cuda", _) => Provider::Cuda,
            ("tensorrt", _) => Provider::TensorRt,
            _ => return Err(bad()),
        };
        let mut cards: Vec<u32> = Vec::new();
        for number in numbers.unwrap_or("0").split(',') {
            // The numbers go to ONNX Runtime as i32.
            match number.parse::<u32>() {
                Ok(card) if i32::try_from(card).is_ok() && !cards.contains(&card) => cards.push(card),
                _ => return Err(bad()),
            }
        }
        Ok(Device { provider, cards })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_as_they_are_written() {
        for text in ["cpu", "cuda:0", "cuda:3,1", "tensorrt:0,1,2"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        for (text, lanes) in [("cpu", 1), ("cuda", 2), ("tensorrt:1,2", 2)] {
            assert_eq!(text.parse::<Device>().unwrap().lanes(), lanes, "{text}");
        }
        let each = "tensorrt:4,2".parse::<Device>().unwrap().each();
        assert_eq!(each.iter().map(Device::to_string).collect::<Vec<_>>(), ["tensorrt:4", "tensorrt:2"]);
        assert_eq!(Device::cpu().each(), [Device::cpu()]);
        for text in
            ["", "gpu", "cpu:0", "cuda:", "cuda:0,0", "cuda:-1", "cuda:a", "cuda:0,", "cuda:4294967295"]
        {
            let error = text.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains("expected cpu, cuda, tensorrt"), "{text}: {error}");
        }
    }
}
