//! A reward model, for the direct and the doubly robust estimate.
//!
//! Two are fitted, each on every other decision and asked about the rest (cross-fitting), so that
//! a row's correction never meets a model that has seen that row (Chernozhukov et al.,
//! "Double/debiased machine learning", Econometrics Journal 21, 2018).

use super::{
    history::{History, Truth},
    judge::{Judge, Sight},
};

/// λ of the ridge regressions, in observations. Raising it draws them to the arm's mean.
const RIDGE: f64 = 1.0;

/// Features above which an arm has its mean alone: a regression costs their square in memory and
/// for each row.
const MOST_FEATURES: usize = 64;

/// By arm, out of one half: a linear function of the context features, where there are some, and
/// else a mean.
#[derive(Debug)]
struct Half {
    /// By the place in the history's arms; `None`: nothing is known of it.
    arms: Vec<Option<Linear>>,
    /// Of all arms.
    mean: f64,
}

/// Intercept and slopes.
#[derive(Debug)]
struct Linear(Vec<f64>);

/// What the models say.
#[derive(Debug)]
pub(super) struct RewardModel {
    /// Of the even decisions, and of the odd ones.
    halves: [Half; 2],
    features: usize,
}

impl RewardModel {
    pub(super) fn fit(history: &History, judge: &Judge) -> Self {
        let features = Some(history.features()).filter(|n| *n <= MOST_FEATURES).unwrap_or(0);
        let sums = || vec![Sums::new(features + 1); history.arms().len()];
        let mut halves = [sums(), sums()];
        for truth in history.truths() {
            let half = &mut halves[truth.decision % 2];
            add(half, history, judge, truth, features);
        }
        Self { halves: halves.map(|sums| Half::of(&sums)), features }
    }

    /// The reward of an arm in a decision, in [0, 1], out of the other half.
    pub(super) fn predict(&self, decision: usize, arm: usize, features: &[f32]) -> f64 {
        let half = &self.halves[1 - decision % 2];
        let Some(Linear(factors)) = half.arms.get(arm).and_then(Option::as_ref) else {
            return half.mean;
        };
        let x = features_of(features, self.features);
        factors.iter().zip(x).map(|(factor, x)| factor * x).sum::<f64>().clamp(0.0, 1.0)
    }
}

fn add(sums: &mut [Sums], history: &History, judge: &Judge, truth: &Truth, features: usize) {
    let record = &history.decisions()[truth.decision];
    for (arm, sight) in record.arms.iter().zip(judge.see(record, truth)) {
        let Sight::Seen { reward, .. } = sight else { continue };
        if let Some(place) = history.place(&arm.arm) {
            let x: Vec<f64> = features_of(&record.features, features).collect();
            sums[place].add(&x, reward);
        }
    }
}

/// One, and the features; what is missing or no number is 0.
fn features_of(features: &[f32], count: usize) -> impl Iterator<Item = f64> {
    let at = move |place: usize| features.get(place).map_or(0.0, |x| f64::from(*x));
    let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
    std::iter::once(1.0).chain((0..count).map(at).map(finite))
}

/// What a regression is made of.
#[derive(Clone, Debug)]
struct Sums {
    size: usize,
    /// Σxxᵀ, the lower triangle by rows.
    square: Vec<f64>,
    /// Σrx.
    product: Vec<f64>,
}

impl Sums {
    fn new(size: usize) -> Self {
        Self { size, square: vec![0.0; size * (size + 1) / 2], product: vec![0.0; size] }
    }

    fn add(&mut self, x: &[f64], reward: f64) {
        let mut at = 0;
        for (row, left) in x.iter().enumerate() {
            for right in &x[..=row] {
                self.square[at] += left * right;
                at += 1;
            }
            self.product[row] += reward * left;
        }
    }

    fn count(&self) -> f64 {
        self.square[0]
    }

    /// By Cholesky's decomposition; the intercept is not held back.
    fn solve(&self) -> Option<Linear> {
        if self.count() == 0.0 {
            return None;
        }
        let index = |row: usize, column: usize| row * (row + 1) / 2 + column;
        let mut lower = self.square.clone();
        for row in 1..self.size {
            lower[index(row, row)] += RIDGE;
        }
        for row in 0..self.size {
            for column in 0..=row {
                let dot: f64 =
                    (0..column).map(|k| lower[index(row, k)] * lower[index(column, k)]).sum();
                let left = lower[index(row, column)] - dot;
                lower[index(row, column)] = if row == column {
                    // Above 0 but for rounding, since λ is on the diagonal.
                    left.max(f64::EPSILON).sqrt()
                } else {
                    left / lower[index(column, column)]
                };
            }
        }
        let mut x = self.product.clone();
        for row in 0..self.size {
            let dot: f64 = (0..row).map(|k| lower[index(row, k)] * x[k]).sum();
            x[row] = (x[row] - dot) / lower[index(row, row)];
        }
        for row in (0..self.size).rev() {
            let dot: f64 = (row + 1..self.size).map(|k| lower[index(k, row)] * x[k]).sum();
            x[row] = (x[row] - dot) / lower[index(row, row)];
        }
        Some(Linear(x))
    }
}

impl Half {
    fn of(sums: &[Sums]) -> Self {
        let count: f64 = sums.iter().map(Sums::count).sum();
        let reward: f64 = sums.iter().map(|sums| sums.product[0]).sum();
        let mean = if count > 0.0 { reward / count } else { 0.5 };
        Self { arms: sums.iter().map(Sums::solve).collect(), mean }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let mut sums = Sums::new(3);
        for step in 0..10_000_u32 {
            let (a, b) = (f64::from(step % 7) - 3.0, f64::from(step % 11) - 5.0);
            sums.add(&[1.0, a, b], 0.5 + 0.1 * a - 0.02 * b);
        }
        let Linear(found) = sums.solve().unwrap();
        for (found, put) in found.iter().zip([0.5, 0.1, -0.02]) {
            assert!((found - put).abs() < 1e-4, "{found} for {put}");
        }
    }

    #[test]
    fn without_features_it_is_the_mean() {
        let mut sums = Sums::new(1);
        for reward in [0.0, 1.0, 1.0, 1.0] {
            sums.add(&[1.0], reward);
        }
        let Linear(found) = sums.solve().unwrap();
        assert_eq!(found, [0.75]);
        assert!(Sums::new(1).solve().is_none());
    }
}
