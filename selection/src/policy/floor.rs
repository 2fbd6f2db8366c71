//! The floor under every live arm's probability.

/// Puts at least `eps / K` under each of the K probabilities by projection onto the simplex:
/// `p ← max(p − τ, eps / K)`, with τ such that the sum is 1. The order is kept, and what is well
/// above the floor keeps its differences, which mixing with the uniform would shrink
/// (Vowpal Wabbit's `enforce_minimum_probability`; the projection of Duchi et al., "Efficient
/// projections onto the ℓ1-ball", ICML 2008, figure 1).
///
/// Removing the arms that end at the floor only raises τ, so an arm once removed stays removed,
/// and K rounds are enough; no sort and no allocation. It is marked as removed and not looked at
/// again: next to the floor, rounding would let it come and go for ever.
pub(super) fn apply(p: &mut [f64], eps: f64) {
    const REMOVED: f64 = f64::NEG_INFINITY;
    if p.is_empty() || eps <= 0.0 {
        return;
    }
    let arms = p.len() as f64;
    // Near 1 the arms above the floor vanish in rounding.
    if eps > 0.999 {
        p.fill(1.0 / arms);
        return;
    }
    let least = eps / arms;
    let tau = loop {
        let above = p.iter().filter(|p| **p >= 0.0);
        let (count, sum) = above.fold((0, 0.0), |(n, s), p| (n + 1, s + p));
        if count == 0 {
            p.fill(1.0 / arms);
            return;
        }
        let tau = (sum - (1.0 - (arms - count as f64) * least)) / count as f64;
        let mut all_stay = true;
        for p in p.iter_mut().filter(|p| **p >= 0.0 && **p - tau < least) {
            *p = REMOVED;
            all_stay = false;
        }
        if all_stay {
            break tau;
        }
    };
    let mut sum = 0.0;
    for p in p.iter_mut() {
        *p = (*p - tau).max(least);
        sum += *p;
    }
    for p in p {
        *p /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floored<const K: usize>(mut p: [f64; K], eps: f64) -> [f64; K] {
        apply(&mut p, eps);
        p
    }

    fn close(got: &[f64], want: &[f64], within: f64) {
        let near = got.iter().zip(want).all(|(g, w)| (g - w).abs() <= within);
        assert!(near && got.len() == want.len(), "got {got:?}, want {want:?}");
    }

    /// The vectors of Vowpal Wabbit's own tests (facts/algorithms.md 3.5).
    #[test]
    fn reference_vectors() {
        close(&floored([1.0, 0.0, 0.0], 0.3), &[0.8, 0.1, 0.1], 1e-12);
        // Zeros excluded: the masked arm is not among them.
        close(&floored([0.9, 0.1], 0.6), &[0.7, 0.3], 1e-12);
        close(&floored([0.0, 0.0, 0.0], 0.6), &[1.0 / 3.0; 3], 1e-12);
        close(&floored([0.0, 2.0 / 3.0, 1.0 / 3.0], 1.0), &[1.0 / 3.0; 3], 1e-12);
        close(&floored([0.5, 0.3, 0.15, 0.05], 0.4), &[0.4833, 0.2833, 0.1333, 0.1], 1e-4);
        close(&floored([0.97, 0.01, 0.01, 0.01], 0.2), &[0.85, 0.05, 0.05, 0.05], 1e-12);
    }

    /// Rounding puts one of these under the floor and back, by turns.
    #[test]
    fn next_to_the_floor_it_comes_to_an_end() {
        let p = [0.925, 0.024_999_999_999_999_988, 0.025_000_000_000_000_02, 0.025];
        close(&floored(p, 0.1), &p, 1e-15);
    }

    #[test]
    fn none_and_one_are_left_alone() {
        apply(&mut [], 0.01);
        assert_eq!(floored([1.0], 0.01), [1.0]);
        assert_eq!(floored([0.25, 0.75], 0.0), [0.25, 0.75]);
    }
}
