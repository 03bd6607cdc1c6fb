//! Helpers of the tests of events at a wrong moment.

use vecstore::{OnDuplicate, Store};

use super::SimFs;
use super::crash::Rng;

pub fn put(store: &Store, key: &str) -> vecstore::Result<()> {
    let mut batch = store.batch();
    batch.push(key, &vec![1.0f32; store.snapshot().dim()])?;
    store.append(&mut batch, OnDuplicate::Skip).map(drop)
}

/// Checks the states that a power cut may leave now.
pub fn power_cut(fs: &SimFs, check: impl Fn(&SimFs) -> Result<(), String>) {
    let history = fs.history();
    let now = history.log.len();
    let mut rng = Rng(3);
    let all = history.fates(now, 200, &mut rng);
    assert!(!all.is_empty(), "no state is tried");
    for fates in all {
        let image = history.image(now, &fates, &mut rng);
        check(&SimFs::from_image(image))
            .unwrap_or_else(|wrong| panic!("{wrong}\n{}", history.tell(now, &fates)));
    }
}
