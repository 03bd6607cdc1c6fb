//! Distances between one query and many rows.
//!
//! Plain loops over a fixed number of lanes, which the compiler turns into vector instructions. On x86-64
//! each kernel is also compiled for AVX2, and chosen at run time. rustc does not fuse `x * y + s`, so FMA
//! changes no result.

use crate::types::Metric;

/// Independent sums per row: enough to hide the latency of an addition on current machines.
const LANES: usize = 32;

/// Calls `offer(row, closeness)` for each row; larger is nearer.
pub(super) fn closeness(metric: Metric, query: &[f32], rows: &[f32], offer: &mut dyn FnMut(usize, f32)) {
    let norm = norm(query);
    for (index, row) in rows.chunks_exact(query.len()).enumerate() {
        offer(index, one(metric, query, norm, row));
    }
}

/// Calls `offer(row, closeness)` for each row of another element type, after `widen(row, to, index)` has
/// converted the row to `f32`.
pub(super) fn widened<T>(
    metric: Metric,
    query: &[f32],
    rows: &[T],
    widen: impl Fn(&[T], &mut [f32], usize),
    offer: &mut dyn FnMut(usize, f32),
) {
    let norm = norm(query);
    let mut wide = vec![0.0; query.len()];
    for (index, row) in rows.chunks_exact(query.len()).enumerate() {
        widen(row, &mut wide, index);
        offer(index, one(metric, query, norm, &wide));
    }
}

/// The score that a hit has for a closeness.
pub(super) fn score(metric: Metric, closeness: f32) -> f32 {
    match metric {
        Metric::Cosine | Metric::Dot => closeness,
        Metric::L2 => (-closeness).max(0.0).sqrt(),
    }
}

/// A lower limit of the closeness of rows that are at least as near as `score`. For l2 it may admit rows that
/// are too far by a rounding error: [`is_as_near`] decides.
pub(super) fn least_closeness(metric: Metric, score: f32) -> f32 {
    match metric {
        Metric::Cosine | Metric::Dot => score,
        Metric::L2 => -(score * score) * (1.0 + 4.0 * f32::EPSILON),
    }
}

/// True if `score` is at least as near as `limit`.
pub(super) fn is_as_near(metric: Metric, score: f32, limit: f32) -> bool {
    match metric {
        Metric::Cosine | Metric::Dot => score >= limit,
        Metric::L2 => score <= limit,
    }
}

fn norm(vector: &[f32]) -> f32 {
    dot(vector, vector).sqrt()
}

fn one(metric: Metric, query: &[f32], norm: f32, row: &[f32]) -> f32 {
    match metric {
        Metric::Dot => {
            let product = dot(query, row);
            if product.is_finite() { product } else { in_double(metric, query, row) }
        }
        Metric::L2 => -squared_distance(query, row),
        Metric::Cosine => {
            let (product, squared) = dot_and_square(query, row);
            let length = norm * squared.sqrt();
            // Sums that leave the range of `f32` (vectors of length 1e20, or 1e-23) are done again in `f64`.
            if product.is_finite() && length.is_normal() {
                product / length
            } else {
                in_double(metric, query, row)
            }
        }
    }
}

/// Cosine or inner product in double precision, for sums that `f32` cannot hold.
#[cold]
fn in_double(metric: Metric, query: &[f32], row: &[f32]) -> f32 {
    let sum =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    let product = sum(query, row);
    let length = sum(query, query).sqrt() * sum(row, row).sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is wanted")]
    match metric {
        Metric::Cosine if length > 0.0 => (product / length) as f32,
        Metric::Cosine => 0.0,
        _ => product as f32,
    }
}

/// Defines a kernel that uses AVX2 and FMA if the processor has them.
macro_rules! kernel {
    ($(#[$doc:meta])* fn $name:ident($a:ident, $b:ident) -> $out:ty $body:block) => {
        $(#[$doc])*
        fn $name($a: &[f32], $b: &[f32]) -> $out {
            #[inline(always)]
            fn plain($a: &[f32], $b: &[f32]) -> $out $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($a: &[f32], $b: &[f32]) -> $out {
                    plain($a, $b)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: both features were detected just above.
                    return unsafe { avx2($a, $b) };
                }
            }
            plain($a, $b)
        }
    };
}

/// Splits both vectors into whole groups of lanes and a rest.
macro_rules! lanes {
    ($a:ident, $b:ident, $step:expr, $rest:expr) => {{
        let (whole_a, rest_a) = $a.as_chunks::<LANES>();
        let (whole_b, rest_b) = $b.as_chunks::<LANES>();
        for (x, y) in whole_a.iter().zip(whole_b) {
            for ((lane, x), y) in (0..LANES).zip(x).zip(y) {
                $step(lane, *x, *y);
            }
        }
        for (x, y) in rest_a.iter().zip(rest_b) {
            $rest(*x, *y);
        }
    }};
}

kernel! {
    /// Inner product.
    fn dot(a, b) -> f32 {
        let mut sums = [0.0f32; LANES];
        let mut rest = 0.0;
        lanes!(
            a,
            b,
            |lane: usize, x: f32, y: f32| if let Some(sum) = sums.get_mut(lane) { *sum += x * y },
            |x: f32, y: f32| rest += x * y
        );
        sums.iter().sum::<f32>() + rest
    }
}

kernel! {
    /// Inner product of both, and of the second with itself, in one pass over memory.
    fn dot_and_square(a, b) -> (f32, f32) {
        let mut sums = [[0.0f32; LANES]; 2];
        let mut rest = (0.0, 0.0);
        let [products, squares] = &mut sums;
        lanes!(
            a,
            b,
            |lane: usize, x: f32, y: f32| {
                if let (Some(product), Some(square)) = (products.get_mut(lane), squares.get_mut(lane)) {
                    *product += x * y;
                    *square += y * y;
                }
            },
            |x: f32, y: f32| { rest.0 += x * y; rest.1 += y * y }
        );
        let [products, squares] = sums;
        (products.iter().sum::<f32>() + rest.0, squares.iter().sum::<f32>() + rest.1)
    }
}

kernel! {
    /// Squared Euclidean distance.
    fn squared_distance(a, b) -> f32 {
        let mut sums = [0.0f32; LANES];
        let mut rest = 0.0;
        lanes!(
            a,
            b,
            |lane: usize, x: f32, y: f32| if let Some(sum) = sums.get_mut(lane) { *sum += (x - y) * (x - y) },
            |x: f32, y: f32| rest += (x - y) * (x - y)
        );
        sums.iter().sum::<f32>() + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(len: usize, seed: u32) -> Vec<f32> {
        (0..len as u32)
            .map(|i| {
                let x = i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(97)) >> 8;
                (x % 2000) as f32 / 1000.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn kernels_agree_with_double_precision() {
        for len in [1, 3, 31, 32, 33, 100, 512, 1023] {
            let (a, b) = (vector(len, 1), vector(len, 2));
            let wide = |f: fn(f64, f64) -> f64| -> f64 {
                a.iter().zip(&b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
            };
            let close = |found: f32, expected: f64| {
                assert!((f64::from(found) - expected).abs() < 1e-4 * len as f64, "{len}: {found} {expected}");
            };
            close(dot(&a, &b), wide(|x, y| x * y));
            close(squared_distance(&a, &b), wide(|x, y| (x - y) * (x - y)));
            let (product, square) = dot_and_square(&a, &b);
            close(product, wide(|x, y| x * y));
            close(square, wide(|_, y| y * y));
        }
    }

    #[test]
    fn cosine_of_a_zero_row_is_zero() {
        let mut found = Vec::new();
        closeness(Metric::Cosine, &[1.0, 0.0], &[0.0, 0.0, 3.0, 0.0, -2.0, 0.0], &mut |_, c| found.push(c));
        assert_eq!(found, [0.0, 1.0, -1.0]);
    }

    #[test]
    fn very_long_and_very_short_vectors_have_a_cosine() {
        for length in [1e20, 1e-23, 3e38] {
            let mut found = Vec::new();
            let rows = [length, length, length, -length, 1.0, 1.0];
            closeness(Metric::Cosine, &[length, length], &rows, &mut |_, c| found.push(c));
            for (found, expected) in found.iter().zip([1.0, 0.0, 1.0]) {
                assert!((found - expected).abs() < 1e-6, "{length}: {found} {expected}");
            }
        }
        let mut found = Vec::new();
        closeness(Metric::Dot, &[3e38, -3e38], &[3e38, 3e38], &mut |_, c| found.push(c));
        assert_eq!(found, [0.0]);
    }

    #[test]
    fn l2_scores_are_distances() {
        let mut found = Vec::new();
        closeness(Metric::L2, &[0.0, 0.0], &[3.0, 4.0], &mut |_, c| found.push(score(Metric::L2, c)));
        assert_eq!(found, [5.0]);
    }
}
