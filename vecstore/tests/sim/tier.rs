//! How much the enumerations try: a sample in plain `cargo test`, everything with `VECSTORE_TESTS=full`.

/// Everything is to be tried.
pub fn is_full() -> bool {
    std::env::var_os("VECSTORE_TESTS").is_some_and(|tier| tier == "full")
}

/// The first number where everything is tried, the second where a sample is.
pub fn full_or<T>(full: T, sample: T) -> T {
    if is_full() { full } else { sample }
}

/// Everything, or of every so many the one at the place `offset`.
pub fn sampled<T>(all: impl IntoIterator<Item = T>, of: usize, offset: usize) -> Vec<T> {
    let step = full_or(1, of);
    all.into_iter().skip(offset % step).step_by(step).collect()
}
