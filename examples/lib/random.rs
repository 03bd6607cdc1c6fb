//! A random generator small enough to be written again in another language, so that a program in that
//! language can check the contents of a crash-tested store, too.
//!
//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): the state
//! grows by `0x9E3779B97F4A7C15`, and each value is the state after two rounds of xor-shift and
//! multiplication.

/// The golden ratio's fraction in 64 bits, odd: the step of the state.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The output function of SplitMix64: a bijection on 64 bits in which every input bit reaches every output
/// bit.
///
/// ```
/// assert_eq!(vecstore_examples::random::mix(0), 0);
/// ```
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// A stream of random values. The same seed gives the same stream on every machine.
///
/// ```
/// use vecstore_examples::random::SplitMix64;
///
/// // The published first value of the generator with state 0.
/// assert_eq!(SplitMix64::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
/// ```
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// The stream that begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// The next value in `[-1, 1)`: the upper 24 bits `b` give `b / 2^23 - 1`, which an `f32` holds exactly.
    pub fn next_signed(&mut self) -> f32 {
        // 24 bits fit an f32 without rounding.
        let bits = (self.next_u64() >> 40) as f32;
        bits / 8_388_608.0 - 1.0
    }

    /// The next value in `[low, high)`, for pictures.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next_signed() + 1.0) / 2.0
    }

    /// The next integer below `bound` (which must not be 0), with a bias that does not matter for pictures.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::SplitMix64;

    /// Two further values of the published reference stream of state 0.
    #[test]
    fn the_generator_agrees_with_the_reference() {
        let mut random = SplitMix64::new(0);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(first, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]);
    }

    #[test]
    fn signed_values_fill_the_half_open_interval() {
        let mut random = SplitMix64::new(7);
        let values: Vec<f32> = (0..100_000).map(|_| random.next_signed()).collect();
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!(values.iter().any(|value| *value > 0.99) && values.iter().any(|value| *value < -0.99));
    }
}
