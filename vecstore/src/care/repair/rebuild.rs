//! Rebuilds the manifest from footers: segments describe themselves.

use std::path::Path;

use super::chain::Piece;
use super::survey::{Found, store_of_most};
use crate::base::{Error, Result};
use crate::format::footer::Footer;
use crate::format::{random_id, settings};
use crate::state::{Body, EpochRecord, FingerprintRecord, Manifest};
use crate::vfs::Vfs;

/// A manifest that lists no segment yet, with what the files of the chain tell about the store.
pub(super) fn rebuilt(
    vfs: &dyn Vfs,
    dir: &Path,
    found: &[Found],
    chain: &[Piece],
    last: u64,
) -> Result<Manifest> {
    let files = chain.iter().filter_map(|piece| piece.file(found));
    let files: Vec<&Found> = files.filter(|file| file.footer().is_some()).collect();
    let Some((newest, store)) = files.last().and_then(|file| file.footer()).zip(store_of_most(found)) else {
        return Err(Error::NotAStore {
            path: dir.to_owned(),
            found: "a damaged manifest and no segment to rebuild it from".to_owned(),
        });
    };
    let mut settings = files.iter().rev().find_map(|file| file.settings()).unwrap_or_default();
    let description = settings.remove(settings::FINGERPRINT);
    let described = |known| FingerprintRecord { description: description.unwrap_or_default(), ..known };
    let fingerprint = store.fingerprint.clone().map(described);
    let epochs = epochs(files.iter().filter_map(|file| file.footer()))?;
    // Larger than any generation that checkpoints of this many commits and epochs could have reached.
    let generation = ((epochs.len() as u64 + 1) << 40).saturating_add(last);
    Ok(Manifest {
        generation: generation.max(Manifest::claimed_generation(vfs, dir).saturating_add(1)),
        ro_compat: 0,
        compat: 0,
        time: 0,
        body: Body {
            dim: newest.dim,
            dtype: newest.dtype,
            metric: newest.metric,
            fingerprint,
            settings,
            epochs,
            ..store
        },
    })
}

/// The epochs in the footers. The first epoch's id is the link into commit 1; if that file is lost, the id is
/// random.
fn epochs<'a>(footers: impl Iterator<Item = &'a Footer>) -> Result<Vec<EpochRecord>> {
    let mut epochs: Vec<EpochRecord> = Vec::new();
    for footer in footers {
        if epochs.is_empty() {
            let id = if footer.first == 1 { footer.link_in } else { random_id()? };
            epochs.push(EpochRecord { id, parent: [0; 16], first: 1 });
        }
        let parent = epochs.last().map_or([0; 16], |epoch| epoch.id);
        if epochs.iter().all(|known| known.id != footer.epoch) {
            epochs.push(EpochRecord { id: footer.epoch, parent, first: footer.first });
        }
    }
    Ok(epochs)
}

#[cfg(test)]
mod tests {
    use crate::care::repair;
    use crate::handle::Store;
    use crate::state::{MANIFEST, Manifest};
    use crate::types::StoreConfig;
    use crate::vfs::RealFs;

    /// The damaged manifest's generation counts, too: it may come from another rebuild.
    #[test]
    fn generations_grow_however_often_a_manifest_is_rebuilt() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let store = Store::create(&path, StoreConfig::new(1)).unwrap();
        let mut batch = store.batch();
        batch.push("a", &[1.0f32]).unwrap();
        store.append(&mut batch, crate::OnDuplicate::Error).unwrap();
        store.close().unwrap();
        let generation = || Manifest::read(&RealFs, &path).unwrap().generation;
        for round in 0..3 {
            let store = Store::open(&path).unwrap();
            (0..5).for_each(|number| store.set_setting("number", &number.to_string()).unwrap());
            store.close().unwrap();
            let before = generation();
            let mut bytes = std::fs::read(path.join(MANIFEST)).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path.join(MANIFEST), bytes).unwrap();
            assert!(repair(&path).unwrap().rebuilt);
            assert!(generation() > before, "round {round}: {} after {before}", generation());
        }
    }
}
