//! From weights to one arm.

use rand::{Rng, RngExt};

use super::{ArmSet, Selection};

/// Scales to a sum of 1. False, and all zero, where nothing is above 0.
pub(super) fn normalise(weights: &mut [f64]) -> bool {
    let sum: f64 = weights.iter().sum();
    if !(sum > 0.0 && sum.is_finite()) {
        weights.fill(0.0);
        return false;
    }
    for weight in weights {
        *weight /= sum;
    }
    true
}

/// From log-weights to weights that sum to 1; none is 0, so that a weight may be divided by.
/// The largest is subtracted first: a bare exponential overflows.
pub(super) fn softmax(log_weights: &mut [f64]) {
    let most = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for weight in log_weights.iter_mut() {
        *weight = (*weight - most).exp().max(f64::MIN_POSITIVE);
    }
    normalise(log_weights);
}

/// One place, with exactly the probabilities `q`. The last place above 0 takes what rounding
/// leaves over.
pub(super) fn one(q: &[f64], rng: &mut dyn Rng) -> Option<usize> {
    let draw: f64 = rng.random();
    let (mut sum, mut last) = (0.0, None);
    for (place, q) in q.iter().enumerate().filter(|(_, q)| **q > 0.0) {
        sum += q;
        last = Some(place);
        if draw < sum {
            break;
        }
    }
    last
}

/// The live arms' places.
pub(super) fn live(arms: &ArmSet<'_>) -> impl Iterator<Item = usize> {
    arms.iter().enumerate().filter(|(_, arm)| arm.live).map(|(place, _)| place)
}

/// Values of the live arms, back at their places in `count` arms; 0 elsewhere.
pub(super) fn spread(live: &[usize], values: &[f64], count: usize) -> Vec<f64> {
    let mut all = vec![0.0; count];
    for (place, value) in live.iter().zip(values) {
        all[*place] = *value;
    }
    all
}

/// Nobody may be asked.
pub(super) fn nobody(count: usize) -> Selection {
    Selection { chosen: Vec::new(), q: vec![0.0; count], weights: vec![0.0; count] }
}
