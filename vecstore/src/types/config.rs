//! The parts of a store that are fixed when it is created, and its notes about itself.

use std::collections::BTreeMap;

use crate::base::{DType, Error, Result};
use crate::types::Metric;

/// Largest dimension a store accepts.
pub const MAX_DIM: usize = 65_536;
/// Largest key, in bytes.
pub const MAX_KEY_LEN: usize = 65_536;
/// Largest payload of one entry, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 16 << 20;
/// The longest description of a fingerprint, in bytes: every segment carries it.
pub(crate) const MAX_DESCRIPTION_LEN: usize = 4096;
/// Settings (names and values together) may not grow beyond this many bytes: every segment carries them.
pub(crate) const MAX_SETTINGS_LEN: usize = 64 << 10;

/// Identity of what made the vectors: a 32-byte digest over model and preprocessing, and words for people.
///
/// Two fingerprints are the same when their ids are; the description only appears in messages.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    id: [u8; 32],
    description: String,
}

impl Fingerprint {
    /// A fingerprint from a digest that the caller computed.
    pub fn new(id: [u8; 32], description: impl Into<String>) -> Self {
        Fingerprint { id, description: description.into() }
    }

    /// The digest.
    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }

    /// Words for people, the model's name and its preprocessing, say.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The first eight bytes in hexadecimal, enough for a message.
    pub fn short_id(&self) -> String {
        self.id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Fingerprint {}

/// What a store is created with.
///
/// ```
/// use vecstore::{DType, Metric, StoreConfig};
/// let config = StoreConfig::new(512).dtype(DType::F16).metric(Metric::L2);
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
pub struct StoreConfig {
    pub(crate) dim: usize,
    pub(crate) dtype: DType,
    pub(crate) metric: Metric,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) settings: BTreeMap<String, String>,
}

impl StoreConfig {
    /// Vectors of `dim` elements (1 to [`MAX_DIM`]), `f32`, compared by cosine.
    pub fn new(dim: usize) -> Self {
        StoreConfig {
            dim,
            dtype: DType::F32,
            metric: Metric::Cosine,
            fingerprint: None,
            settings: BTreeMap::new(),
        }
    }

    /// Element type of the rows.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// How vectors are compared.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// What makes the vectors. It can also be recorded later, once, by
    /// [`Store::set_fingerprint`](crate::Store::set_fingerprint).
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// A named text that the store keeps for its user (the root of a folder of pictures, say).
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.dim == 0 || self.dim > MAX_DIM {
            let dim = self.dim;
            return Err(Error::bad_input(format!("dimension {dim} is not possible; use 1 to {MAX_DIM}")));
        }
        self.fingerprint.as_ref().map_or(Ok(()), check_description)?;
        check_settings(&self.settings)
    }
}

pub(crate) fn check_description(fingerprint: &Fingerprint) -> Result<()> {
    let len = fingerprint.description().len();
    if len > MAX_DESCRIPTION_LEN {
        return Err(Error::bad_input(format!(
            "a fingerprint's description of {len} bytes is too long; the limit is {MAX_DESCRIPTION_LEN}"
        )));
    }
    Ok(())
}

pub(crate) fn check_settings(settings: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = settings.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    if bytes > MAX_SETTINGS_LEN {
        return Err(Error::bad_input(format!(
            "settings of {bytes} bytes are too many; together they may have {MAX_SETTINGS_LEN}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_dimensions_are_refused() {
        assert!(StoreConfig::new(0).check().is_err());
        assert!(StoreConfig::new(MAX_DIM + 1).check().is_err());
        assert!(StoreConfig::new(1).check().is_ok());
    }

    #[test]
    fn settings_have_a_limit() {
        let config = StoreConfig::new(1).setting("a", &"x".repeat(MAX_SETTINGS_LEN));
        assert!(config.check().is_err());
    }
}
