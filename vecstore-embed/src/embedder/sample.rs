//! Embeds some of what is stored again, and compares.

use std::io::{self, Read};
use std::path::PathBuf;

use vecstore::{Kind, Reader};

use super::Embedder;
use crate::base::{FirstFew, Result};
use crate::keys::{Record, Remembered, Roots};
use crate::source::open_key;

/// What a comparison found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Sampled {
    /// Entries that were looked at.
    pub checked: u64,
    /// Of those, embedded again and found the same.
    pub same: u64,
    /// Those that are not, with the reasons.
    pub different: FirstFew,
    /// Those whose files changed since, or are gone, or cannot be read: nothing to compare with.
    pub skipped: FirstFew,
    /// The lowest cosine between a stored vector and its new one. 1 when there was none.
    pub lowest: f64,
}

/// Embeds `count` entries of the store again, chosen at random by `seed`, and compares each with what is
/// stored: the cosine of the two has to be `at_least`. Backends, batch sizes and element types make small
/// differences.
///
/// # Errors
/// The store cannot be read, its model is another one, or the backend fails.
pub fn verify_sample(
    store: &Reader,
    embedder: &Embedder,
    count: usize,
    seed: u64,
    at_least: f64,
) -> Result<Sampled> {
    store.check_fingerprint(embedder.fingerprint())?;
    let snapshot = store.snapshot();
    let roots = Roots::from_settings(snapshot.settings()).map_err(|error| error.of_store(store.path()))?;
    let mut sampled = Sampled { lowest: 1.0, ..Sampled::default() };
    for key in chosen(&snapshot, count, seed)? {
        let Some(entry) = snapshot.get(&key)? else { continue };
        sampled.checked += 1;
        let shown = PathBuf::from(String::from_utf8_lossy(&key).into_owned());
        let Some(content) = open_key(&roots, &key, embedder.task().accepts()) else {
            sampled.skipped.push(&shown, "lies in no root of the store");
            continue;
        };
        let mut bytes = Vec::new();
        let read: io::Result<usize> = content.and_then(|mut content| content.read_to_end(&mut bytes));
        let bytes = match read.map(|_| bytes) {
            Ok(bytes) => bytes,
            Err(error) => {
                sampled.skipped.push(&shown, format!("cannot be read: {error}"));
                continue;
            }
        };
        let known = Remembered::decode(entry.payload()).record;
        if known.is_some_and(|known| known.hash != Record::new(known.stamp, &bytes).hash) {
            sampled.skipped.push(&shown, "changed since it was embedded; the next run embeds it again");
            continue;
        }
        let again = match embedder.embed_all(&[&bytes])?.into_iter().next() {
            Some(Ok(again)) => again.rows().concat(),
            rejected => {
                let rejected =
                    rejected.and_then(Result::err).map_or_else(String::new, |found| found.to_string());
                sampled.different.push(&shown, format!("is stored, but rejected now: {rejected}"));
                continue;
            }
        };
        let (stored, dim) = (entry.to_f32()?, snapshot.dim());
        if stored.len() != again.len() {
            let (stored, found) = (stored.len() / dim, again.len() / dim);
            sampled.different.push(&shown, format!("has {stored} rows, and {found} now"));
            continue;
        }
        let rows = stored.chunks(dim).zip(again.chunks(dim)).map(|(stored, again)| cosine(stored, again));
        let cosine = rows.fold(1.0, f64::min);
        sampled.lowest = sampled.lowest.min(cosine);
        if cosine >= at_least {
            sampled.same += 1;
        } else {
            sampled.different.push(&shown, format!("cosine {cosine:.6} to what is stored"));
        }
    }
    Ok(sampled)
}

/// Keys of entries with vectors: each as likely as any other, in one pass, whatever their number.
fn chosen(snapshot: &vecstore::Snapshot, count: usize, seed: u64) -> Result<Vec<Vec<u8>>> {
    let mut chosen = Vec::new();
    let (mut seen, mut random) = (0u64, fastrand::Rng::with_seed(seed));
    for entry in snapshot.iter() {
        let entry = entry?;
        if entry.kind() != Kind::Rows {
            continue;
        }
        seen += 1;
        if chosen.len() < count {
            chosen.push(entry.key().to_vec());
            continue;
        }
        let place = usize::try_from(random.u64(..seen)).unwrap_or(usize::MAX);
        if let Some(place) = chosen.get_mut(place) {
            *place = entry.key().to_vec();
        }
    }
    Ok(chosen)
}

pub(crate) fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let dot = |left: &[f32], right: &[f32]| -> f64 {
        left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt().max(f64::MIN_POSITIVE)
}
