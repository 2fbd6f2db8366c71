//! Weights and rewards by row, as the estimators sum them up.

use super::estimate::{Diagnostics, Estimate, Estimates};

/// λ of the sub-Gaussian weights w / (1 − λ + λw): near 0 they are the importance weights, near 1
/// they are all 1 (Metelli et al., "Subgaussian and differentiable importance sampling for
/// off-policy evaluation and learning", NeurIPS 2021, eq. 6 with s = −1).
const LAMBDA: f64 = 0.1;

/// One arm whose reward is known in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// π(a) / q(a), at least 0.
    pub weight: f64,
    /// What it earned, in [0, 1].
    pub reward: f64,
    /// What the reward model says that it earns.
    pub predicted: f64,
}

/// All that is known of a target, one row behind the other.
#[derive(Clone, Debug)]
pub struct Rows {
    clip: f64,
    rows: Vec<Row>,
}

/// Sums over the arms of one row.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    decision: usize,
    weight: f64,
    largest: f64,
    /// Of weight and reward; those below with the weight as it is changed.
    earned: f64,
    clipped: f64,
    shrunk: f64,
    /// Of π and what the reward model says.
    model: f64,
    /// Of weight and what the model missed.
    missed: f64,
    has_model: bool,
}

impl Rows {
    /// None yet. Weights above `clip` are cut for the clipped estimate.
    pub fn new(clip: f64) -> Self {
        Self { clip, rows: Vec::new() }
    }

    /// A row of the decision with this number; `terms` are the arms whose reward is known in it.
    /// `model` is the target's reward by the reward model alone, where there is one.
    pub fn push(&mut self, decision: usize, model: Option<f64>, terms: &[Term]) {
        let mut row = Row {
            decision,
            model: model.unwrap_or(0.0),
            has_model: model.is_some(),
            ..Row::default()
        };
        for Term { weight, reward, predicted } in terms {
            row.weight += weight;
            row.largest = row.largest.max(*weight);
            row.earned += weight * reward;
            row.clipped += weight.min(self.clip) * reward;
            row.shrunk += weight / (1.0 - LAMBDA + LAMBDA * weight) * reward;
            row.missed += weight * (reward - predicted);
        }
        self.rows.push(row);
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How much they say.
    pub fn diagnostics(&self, decisions: usize, uncovered: Option<(String, f64)>) -> Diagnostics {
        // A decision's rows share its weight, so they are one draw and not many.
        let mut sums: Vec<(usize, f64, f64)> = Vec::new();
        for row in self.sorted() {
            match sums.last_mut() {
                Some((decision, weight, rows)) if *decision == row.decision => {
                    *weight += row.weight;
                    *rows += 1.0;
                }
                _ => sums.push((row.decision, row.weight, 1.0)),
            }
        }
        let weights: Vec<f64> = sums.iter().map(|(_, weight, rows)| weight / rows).collect();
        let sum: f64 = weights.iter().sum();
        let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
        let mean = self.mean_over(weights.len(), weights.iter().copied().enumerate());
        Diagnostics {
            decisions,
            joined: weights.len(),
            rows: self.rows.len(),
            effective: if squares > 0.0 { sum * sum / squares } else { 0.0 },
            mean_weight: mean.map_or(0.0, |(mean, _)| mean),
            mean_weight_error: mean.map_or(0.0, |(_, error)| error),
            largest_weight: self.rows.iter().map(|row| row.largest).fold(0.0, f64::max),
            uncovered,
        }
    }

    /// All estimators, with intervals that hold with this probability.
    pub fn estimates(&self, confidence: f64) -> Estimates {
        let z = super::normal::quantile(0.5 + confidence / 2.0);
        let rows = self.sorted();
        let mean = |of: fn(&Row) -> f64| {
            let each = rows.iter().map(|row| (row.decision, of(row)));
            let (value, error) = self.mean_over(rows.len(), each).unwrap_or_default();
            Estimate::around(value, error, z)
        };
        let has_model = rows.iter().all(|row| row.has_model);
        Estimates {
            ips: mean(|row| row.earned),
            clipped: mean(|row| row.clipped),
            snips: self.self_normalised(&rows, z),
            sub_gaussian: mean(|row| row.shrunk),
            cressie_read: self.cressie_read(),
            direct: has_model.then(|| Estimate { interval: None, ..mean(|row| row.model) }),
            doubly_robust: has_model.then(|| mean(|row| row.model + row.missed)),
        }
    }

    fn sorted(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.sort_by_key(|row| row.decision);
        rows
    }

    /// Mean and standard error of numbers that come with their decision, those of one decision
    /// one behind the other: the error is that of the decisions' sums.
    fn mean_over(
        &self,
        count: usize,
        each: impl Iterator<Item = (usize, f64)> + Clone,
    ) -> Option<(f64, f64)> {
        if count == 0 {
            return None;
        }
        let mean = each.clone().map(|(_, x)| x).sum::<f64>() / count as f64;
        let error = clustered(each.map(|(decision, x)| (decision, x - mean)));
        Some((mean, error / count as f64))
    }

    /// Σwr / Σw, its error by linearisation: that of Σw(r − v) / Σw (Swaminathan and Joachims,
    /// "The self-normalized estimator for counterfactual learning", NeurIPS 2015).
    fn self_normalised(&self, rows: &[Row], z: f64) -> Option<Estimate> {
        let weight: f64 = rows.iter().map(|row| row.weight).sum();
        let earned: f64 = rows.iter().map(|row| row.earned).sum();
        let value = (weight > 0.0).then(|| earned / weight)?;
        let error =
            clustered(rows.iter().map(|row| (row.decision, row.earned - value * row.weight)));
        Some(Estimate::around(value, error / weight, z))
    }

    /// The empirical-likelihood estimate of the Cressie–Read family with power −2, weights in
    /// [0, ∞) (Karampatziakis, Langford and Mineiro, "Empirical likelihood for contextual
    /// bandits", NeurIPS 2020). What mass the observed weights leave over earns the mean reward.
    fn cressie_read(&self) -> Option<f64> {
        let n = self.rows.len() as f64;
        let (mut w, mut ww, mut wr, mut wwr, mut r) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for row in &self.rows {
            w += row.weight;
            ww += row.weight * row.weight;
            wr += row.earned;
            wwr += row.weight * row.earned;
            r += if row.weight > 0.0 { row.earned / row.weight } else { 0.0 };
        }
        if w <= 0.0 {
            return None;
        }
        let (gamma, beta) = if w < n {
            (-(1.0 + n) / n, 0.0)
        } else {
            let (first, second) = (w / (1.0 + n), ww / (1.0 + n));
            let by = first * first - second;
            ((second - first) / by, (1.0 - first) / by)
        };
        let of = |first: f64, second: f64| (-gamma * first - beta * second) / (1.0 + n);
        let missing = (1.0 - of(w, ww)).max(0.0);
        let value = of(wr, wwr) + missing * r / n;
        value.is_finite().then_some(value)
    }
}

/// The standard error of the sum of residuals whose decisions are independent.
fn clustered(residuals: impl Iterator<Item = (usize, f64)>) -> f64 {
    let (mut squares, mut clusters) = (0.0, 0_u64);
    let (mut now, mut sum) = (None, 0.0_f64);
    for (decision, residual) in residuals {
        if now != Some(decision) {
            squares += sum * sum;
            (now, sum) = (Some(decision), 0.0);
            clusters += 1;
        }
        sum += residual;
    }
    squares += sum * sum;
    if clusters < 2 {
        return f64::INFINITY;
    }
    let clusters = clusters as f64;
    (squares * clusters / (clusters - 1.0)).sqrt()
}
