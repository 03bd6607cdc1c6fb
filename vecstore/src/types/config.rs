//! Configuration of a new store: shape of its vectors, fingerprint and settings.

use std::collections::BTreeMap;

use crate::base::{DType, Error, Result};
use crate::types::Metric;

/// Largest dimension a store accepts.
pub const MAX_DIM: usize = 65_536;
/// Largest key, in bytes.
pub const MAX_KEY_LEN: usize = 65_536;
/// Largest payload of one entry, in bytes.
pub const MAX_PAYLOAD_LEN: usize = 16 << 20;
/// Longest description of a fingerprint, in bytes. It is bounded because every segment carries it.
pub(crate) const MAX_DESCRIPTION_LEN: usize = 4096;
/// Largest total of settings, in bytes. It is bounded because every segment carries the settings.
pub(crate) const MAX_SETTINGS_LEN: usize = 64 << 10;

/// Identity of the origin of vectors: a 32-byte digest over model and preprocessing, and a description.
///
/// Two fingerprints are equal if their ids are equal; the description only appears in messages.
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

    /// Description for people, such as the names of model and preprocessing.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The first eight bytes of the digest in hexadecimal, for messages.
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

/// Configuration with which a store is created.
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
    /// A configuration for vectors of `dim` elements (1 to [`MAX_DIM`]), `f32`, compared by cosine.
    pub fn new(dim: usize) -> Self {
        StoreConfig {
            dim,
            dtype: DType::F32,
            metric: Metric::Cosine,
            fingerprint: None,
            settings: BTreeMap::new(),
        }
    }

    /// Sets the element type of the rows.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets the metric by which vectors are compared.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = metric;
        self
    }

    /// Sets the fingerprint of model and preprocessing. A store without one can record it later, once, by
    /// [`Store::set_fingerprint`](crate::Store::set_fingerprint).
    ///
    /// ```
    /// use vecstore::{Fingerprint, StoreConfig};
    /// let config = StoreConfig::new(512).fingerprint(Fingerprint::new([7; 32], "clip-vit-b32"));
    /// # let _ = config;
    /// ```
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Adds a setting: a named text that the store keeps for its user, such as the root folder of pictures.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.dim == 0 || self.dim > MAX_DIM {
            let dim = self.dim;
            return Err(Error::invalid(format!("dimension {dim} is not possible; use 1 to {MAX_DIM}")));
        }
        self.fingerprint.as_ref().map_or(Ok(()), check_description)?;
        check_settings(&self.settings)
    }
}

pub(crate) fn check_description(fingerprint: &Fingerprint) -> Result<()> {
    let len = fingerprint.description().len();
    if len > MAX_DESCRIPTION_LEN {
        return Err(Error::invalid(format!(
            "a fingerprint's description of {len} bytes is too long; the limit is {MAX_DESCRIPTION_LEN}"
        )));
    }
    Ok(())
}

pub(crate) fn check_settings(settings: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = settings.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    if bytes > MAX_SETTINGS_LEN {
        return Err(Error::invalid(format!(
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
