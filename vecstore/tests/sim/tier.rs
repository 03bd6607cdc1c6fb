//! How much the enumerations try: a sample in plain `cargo test`, everything with `VECSTORE_TESTS=full`, and
//! with `VECSTORE_TESTS=random` everything, where random cases are other ones each time. Without it they are
//! the same ones.

fn is_tier(names: &[&str]) -> bool {
    std::env::var("VECSTORE_TESTS").is_ok_and(|tier| names.contains(&&*tier))
}

/// Everything is to be tried.
pub fn is_full() -> bool {
    is_tier(&["full", "random"])
}

/// Random cases are to be other ones each time.
#[allow(dead_code, reason = "not every test has random cases")]
pub fn is_random() -> bool {
    is_tier(&["random"])
}

/// The first number where everything is tried, the second where a sample is.
pub fn full_or<T>(full: T, sample: T) -> T {
    if is_full() { full } else { sample }
}

/// Everything, or of each `of` the one at the place `offset`.
pub fn sampled<T>(all: impl IntoIterator<Item = T>, of: usize, offset: usize) -> Vec<T> {
    let step = full_or(1, of);
    all.into_iter().skip(offset % step).step_by(step).collect()
}
