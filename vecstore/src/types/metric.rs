//! Metrics: how two vectors are compared.

use std::fmt;
use std::str::FromStr;

use crate::base::{Error, Result};

/// Metric by which a store compares two vectors. It is fixed when the store is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Metric {
    /// Cosine of the angle, −1 to 1; larger is nearer. A vector of zeros has cosine 0 to every vector.
    Cosine,
    /// Inner product; larger is nearer.
    Dot,
    /// Euclidean distance (not squared), 0 upwards; smaller is nearer.
    L2,
}

impl Metric {
    const ALL: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];
    const NAMES: [&str; 3] = ["cosine", "dot", "l2"];

    /// Number on disk, counted from 1.
    pub(crate) const fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.code() == code)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.get(*self as usize).unwrap_or(&""))
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().zip(Self::NAMES).find(|(_, name)| *name == text);
        found
            .map(|(metric, _)| metric)
            .ok_or_else(|| Error::invalid(format!("unknown metric \"{text}\"; use cosine, dot or l2")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            assert_eq!(Metric::from_code(metric.code()), Some(metric));
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        assert_eq!(Metric::from_code(9), None);
    }
}
