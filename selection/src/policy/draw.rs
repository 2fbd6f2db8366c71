//! From weights to one arm.

use rand::{Rng, RngExt};

use super::{ArmSet, Selection, floor};

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

/// A score this near to the best one, as a share of it, is a tie: rounding must not decide.
const TIE: f64 = 1e-12;

/// All weight on the best score; ties share it.
pub(super) fn greedy(scores: &[f64]) -> Vec<f64> {
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = best - TIE * best.abs().max(1.0);
    let mut weights: Vec<f64> =
        scores.iter().map(|score| if *score >= least { 1.0 } else { 0.0 }).collect();
    normalise(&mut weights);
    weights
}

/// Draws one of the live arms, whose weights sum to 1, with a floor under each.
pub(super) fn single(
    arms: &ArmSet<'_>,
    live: &[usize],
    weights: &[f64],
    floor: f64,
    rng: &mut dyn Rng,
) -> Selection {
    let mut q = weights.to_vec();
    // Availability before the floor: an arm that is always late is asked at the floor, so that
    // its return is noticed; and the recorded q contains it.
    for (q, place) in q.iter_mut().zip(live) {
        *q *= arms[*place].availability.clamp(f64::MIN_POSITIVE, 1.0);
    }
    if !normalise(&mut q) {
        q.fill(1.0 / live.len() as f64);
    }
    floor::apply(&mut q, floor);
    let q = spread(live, &q, arms.len());
    let weights = spread(live, weights, arms.len());
    Selection { chosen: one(&q, rng).into_iter().collect(), q, weights }
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
