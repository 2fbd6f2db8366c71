//! The probability of each of some normal scores to be the largest.

use std::sync::LazyLock;

use super::super::draw::{greedy, normalise};

/// One arm's score, normally distributed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// Points per score at which all scores are looked at. More are nearer to the truth, and dearer
/// by the square of the number of arms.
const POINTS: usize = 17;

/// The points of a score reach this many deviations to either side of its mean.
const REACH: f64 = 4.0;

/// A score that is this many deviations short of another at its least is never the largest: the
/// probability is below 1e-9.
const FAR: f64 = 6.0;

/// A deviation below this share of the largest is raised to it. The probabilities do not show the
/// difference, and neighbouring points stay apart.
const LEAST_SHARE: f64 = 1e-6;

/// The probability that score a is the largest is ∫ f_a(t) · Π F_b(t) dt over the other arms b.
/// All integrals are taken over one grid, which has points in the scale of every score: however
/// unlike the scales are, each distribution function rises in small steps.
///
/// From one point to the next the product of all F rises by what is the probability of the
/// maximum to lie between, and that is shared out by the rise of each F over its mean (the
/// product rule). So the probabilities sum to 1 whatever the grid, and none is
/// negative.
pub(super) fn best(scores: &[Score]) -> Vec<f64> {
    let widest = scores.iter().map(|score| score.deviation).fold(0.0, f64::max);
    if widest <= 0.0 {
        return greedy(&scores.iter().map(|score| score.mean).collect::<Vec<_>>());
    }
    let mut scores = scores.to_vec();
    for score in &mut scores {
        score.deviation = score.deviation.max(widest * LEAST_SHARE);
    }
    let least = scores.iter().map(|score| score.mean - FAR * score.deviation);
    let least = least.fold(f64::NEG_INFINITY, f64::max);
    let may = |place: &usize| scores[*place].mean + FAR * scores[*place].deviation >= least;
    let able: Vec<usize> = (0..scores.len()).filter(may).collect();

    let mut q = vec![0.0; scores.len()];
    // By place in `able`: F at the last point, and the share of what came since.
    let (mut at, mut shares) = (vec![0.0; able.len()], vec![0.0; able.len()]);
    let (mut all_at, table) = (0.0, &TABLE[..]);
    let distributions: Vec<_> =
        able.iter().map(|place| Distribution::new(scores[*place])).collect();
    for t in grid(able.iter().map(|place| scores[*place]), least) {
        let (mut all, mut share_sum) = (1.0, 0.0);
        for ((at, share), score) in at.iter_mut().zip(&mut shares).zip(&distributions) {
            // Rounding may let it fall by a little.
            let now = score.below(table, t).max(*at);
            *share = if now > *at { (now - *at) / (now + *at) } else { 0.0 };
            share_sum += *share;
            all *= now;
            *at = now;
        }
        if share_sum > 0.0 {
            let rise = (all - all_at) / share_sum;
            for (place, share) in able.iter().zip(&shares) {
                q[*place] += rise * share;
            }
        }
        all_at = all;
    }
    normalise(&mut q);
    q
}

/// The points of all scores in order; a last one has everything below it. Under `least` no
/// maximum lies.
fn grid(scores: impl Iterator<Item = Score>, least: f64) -> Vec<f64> {
    let step = 2.0 * REACH / (POINTS - 1) as f64;
    let points = |score: Score| {
        (0..POINTS).map(move |point| score.mean + score.deviation * (point as f64 * step - REACH))
    };
    let mut grid: Vec<f64> = scores.flat_map(points).filter(|t| *t >= least).collect();
    grid.push(f64::INFINITY);
    grid.sort_unstable_by(f64::total_cmp);
    grid.dedup();
    grid
}

/// A score's distribution function, by table.
struct Distribution {
    mean: f64,
    /// 1 / deviation, in steps of the table.
    scale: f64,
}

impl Distribution {
    fn new(score: Score) -> Self {
        Self { mean: score.mean, scale: STEPS / score.deviation }
    }

    /// The probability of being at most `t`, within 2e-6. The exponential in every place would
    /// be most of what a draw costs.
    fn below(&self, table: &[f64], t: f64) -> f64 {
        let last = table.len() - 1;
        let place = ((t - self.mean) * self.scale + last as f64 / 2.0).clamp(0.0, last as f64);
        let step = (place as usize).min(last - 1);
        let (low, high) = (table[step], table[step + 1]);
        low + (high - low) * (place - step as f64)
    }
}

/// Steps of the table per deviation.
const STEPS: f64 = 128.0;

/// The standard normal distribution function from −[`FAR`] to [`FAR`]; 0 and 1 at its ends, so
/// that no probability is lost.
static TABLE: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let last = (2.0 * FAR * STEPS) as usize;
    let x = |step: usize| (step as f64 / STEPS - FAR) * std::f64::consts::FRAC_1_SQRT_2;
    let below = |x: f64| if x < 0.0 { 0.5 * tail(-x) } else { 1.0 - 0.5 * tail(x) };
    let mut table: Vec<f64> = (0..=last).map(|step| below(x(step))).collect();
    (table[0], table[last]) = (0.0, 1.0);
    table
});

/// erfc(x) for x ≥ 0, within 1.5e-7 (Hastings; Abramowitz and Stegun, "Handbook of Mathematical
/// Functions", 7.1.26). The quadrature is no nearer.
fn tail(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    polynomial.iter().fold(0.0, |sum, factor| sum * t + factor) * t * (-x * x).exp()
}

#[cfg(test)]
mod tests;
