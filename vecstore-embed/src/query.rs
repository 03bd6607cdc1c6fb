//! One picture to search with.

use std::fs;
use std::path::Path;

use vecstore::Reader;

use crate::backend::Backend;
use crate::model::Model;
use crate::picture::DecodeLimits;
use crate::{Error, Result};

/// The vector of one picture, made exactly as a run makes those of a store.
///
/// ```no_run
/// use vecstore_embed::{BackendOptions, DecodeLimits, Model, embed_picture, open_backend};
///
/// let model = Model::builtin()?;
/// let mut backend = open_backend(&model, &BackendOptions::default())?;
/// let vector = embed_picture(&model, backend.as_mut(), "holiday.jpg".as_ref(), &DecodeLimits::default())?;
/// let store = vecstore::Reader::open("photos.vecs")?;
/// for hit in store.snapshot().search(&vector, 5)? {
///     println!("{:.4}  {}", hit.score, String::from_utf8_lossy(&hit.key));
/// }
/// # Ok::<(), vecstore_embed::Error>(())
/// ```
pub fn embed_picture(
    model: &Model,
    backend: &mut dyn Backend,
    path: &Path,
    limits: &DecodeLimits,
) -> Result<Vec<f32>> {
    let bytes = fs::read(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        action: "read the picture",
        source,
        remedy: "give the path of a picture that this user may read",
    })?;
    embed_bytes(model, backend, &bytes, path, limits)
}

/// As [`embed_picture`], for a picture that was read already; `path` is for messages.
pub(crate) fn embed_bytes(
    model: &Model,
    backend: &mut dyn Backend,
    bytes: &[u8],
    path: &Path,
    limits: &DecodeLimits,
) -> Result<Vec<f32>> {
    let bad = |reason: String| Error::BadPicture { path: path.to_owned(), reason };
    let picture = model.preprocess().decode(bytes, limits).map_err(|rejected| bad(rejected.to_string()))?;
    let mut pixels = vec![0.0; model.preprocess().tensor_len()];
    model.preprocess().apply(&picture, &mut pixels)?;
    let vector = backend.embed(1, &pixels)?;
    if vector.len() != backend.dim() {
        let (expected, found) = (backend.dim(), vector.len());
        return Err(Error::ModelOutput { backend: backend.name().to_owned(), batch: 1, expected, found });
    }
    if vector.iter().any(|element| !element.is_finite()) {
        return Err(bad("the model's output for it is not finite".to_owned()));
    }
    Ok(vector)
}

/// Refuses a model that did not make the vectors of `store`: its distances to them would mean nothing.
///
/// # Errors
/// [`vecstore::Error::FingerprintMismatch`], unless the store has no model recorded.
pub fn check_model(store: &Reader, model: &Model) -> Result<()> {
    Ok(store.check_fingerprint(model.fingerprint())?)
}
