//! Times as text, and names of dated backups.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::output::Failure;

/// A name made of the present time, like `2026-11-20T23-05-09.123Z` (UTC), and greater than every such name
/// in `parent`: names ascend even if the clock does not.
pub fn backup_name(parent: &Path) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = date(now.as_secs(), now.subsec_millis());
    let names = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let Some(newest) = names.filter(|name| is_dated(name)).max().filter(|newest| *newest >= name) else {
        return Ok(name);
    };
    next(&newest).ok_or_else(|| {
        Failure::Message(format!(
            "{}: the newest backup is {newest}, later than the clock, and there is no name left after it; \
             correct the clock",
            parent.display()
        ))
    })
}

/// A time as RFC 3339 writes it, like `2026-11-20T23:05:09.123Z`.
pub fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = date(since.as_secs(), since.subsec_millis());
    let (day, time) = name.split_once('T').unwrap_or_default();
    format!("{day}T{}", time.replace('-', ":"))
}

/// The name one millisecond later; `None` if that is in the next second.
fn next(name: &str) -> Option<String> {
    let (date, millis) = name.strip_suffix('Z')?.split_once('.')?;
    let next = millis.parse::<u32>().ok()? + 1;
    (next < 1000).then(|| format!("{date}.{next:03}Z"))
}

fn is_dated(name: &str) -> bool {
    let pattern = "0000-00-00T00-00-00.000Z";
    let is_same = |(p, n): (u8, u8)| if p == b'0' { n.is_ascii_digit() } else { p == n };
    pattern.len() == name.len() && pattern.bytes().zip(name.bytes()).all(is_same)
}

/// Seconds since 1970 as `2026-11-20T23-05-09.123Z`, by the civil calendar (days from era, Howard Hinnant's
/// `civil_from_days`).
fn date(seconds: u64, millis: u32) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}-{:02}-{:02}.{millis:03}Z",
        time / 3_600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_rfc_3339() {
        let time = UNIX_EPOCH + std::time::Duration::from_millis(1_795_000_000_250);
        assert_eq!(utc(time), "2026-11-18T11:06:40.250Z");
    }

    #[test]
    fn dates_follow_the_civil_calendar() {
        assert_eq!(date(0, 0), "1970-01-01T00-00-00.000Z");
        assert_eq!(date(951_782_400, 7), "2000-02-29T00-00-00.007Z");
        assert_eq!(date(1_795_219_509, 999), "2026-11-21T00-05-09.999Z");
        assert!(is_dated(&date(0, 0)));
        assert!(!is_dated("2026-11-21") && !is_dated("xxxx-11-21T00-05-09.000Z"));
    }

    #[test]
    fn names_ascend_when_the_clock_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = backup_name(dir.path()).unwrap();
        assert!(is_dated(&first));
        // Names from a clock that was in the year 2100.
        for (there, wanted) in [("007", Some("008")), ("999", None)] {
            std::fs::create_dir(dir.path().join(format!("2100-01-01T00-00-00.{there}Z"))).unwrap();
            let name = backup_name(dir.path()).ok();
            assert_eq!(name, wanted.map(|next| format!("2100-01-01T00-00-00.{next}Z")));
        }
    }
}
