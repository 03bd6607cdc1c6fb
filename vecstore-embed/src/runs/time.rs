//! Moments, as numbers and as text.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A moment in UTC: `2026-11-21T19:00:00.250Z`.
///
/// ```
/// assert_eq!(vecstore_embed::runs::utc(1_709_210_096.25), "2024-02-29T12:34:56.250Z");
/// ```
pub fn utc(seconds: f64) -> String {
    let moment = Timestamp::from_millisecond((seconds * 1000.0) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_782_400.0, "2000-02-29T00:00:00.000Z"),
            (951_868_799.999, "2000-02-29T23:59:59.999Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599.0, "2026-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
