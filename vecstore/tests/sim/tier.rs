//! How much the enumerations try: a sample in plain `cargo test`, everything with `VECSTORE_TESTS=full`.
//! `VECSTORE_TESTS=random` also tries everything, with new random cases in each run; otherwise random cases
//! are the same in each run.

fn is_tier(names: &[&str]) -> bool {
    std::env::var("VECSTORE_TESTS").is_ok_and(|tier| names.contains(&&*tier))
}

/// True if everything is to be tried.
pub fn is_full() -> bool {
    is_tier(&["full", "random"])
}

/// True if random cases are to be new in each run.
#[allow(dead_code, reason = "not every test has random cases")]
pub fn is_random() -> bool {
    is_tier(&["random"])
}

/// `full` if everything is tried, `sample` if a sample is.
pub fn full_or<T>(full: T, sample: T) -> T {
    if is_full() { full } else { sample }
}

/// All items if everything is tried; otherwise the item at place `offset` of each `of` items.
pub fn sampled<T>(all: impl IntoIterator<Item = T>, of: usize, offset: usize) -> Vec<T> {
    let step = full_or(1, of);
    all.into_iter().skip(offset % step).step_by(step).collect()
}
