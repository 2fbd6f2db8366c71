//! Arms by the inverse of how far they are behind, by features or without.

use std::sync::Arc;

use super::{
    ArmSet, PolicyError,
    linear::{DISCOUNT, Fitted, INTERCEPT, LAMBDA, LinearPolicy, MIDDLE, Regression, STANDARDISE},
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
};

/// `squarecb`: asks an arm with a probability that falls with how far its predicted reward is
/// behind the best one's (Foster and Rakhlin, "Beyond UCB: optimal and efficient contextual
/// bandits with regression oracles", ICML 2020, algorithm 1; the schedule of γ is Vowpal
/// Wabbit's):
///
/// `q = 1 / (K + γ · (f_best − f))`, and the best arm has the rest, where
/// `γ = gamma_scale · t ^ gamma_exponent`
///
/// f is the prediction of a ridge regression per arm, cut to [0, 1], where rewards are; without
/// context features it is the arm's mean reward, held near ½ by `lambda` rows more. t is 1 and
/// the rows from which was learned, the prior's with them; with a `discount` below 1 it stays
/// below 1 + 1 / (1 − `discount`), and exploration never ends. Ties share what the best has.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `gamma_scale` | (0, 1e9] | 10 | prefers the arm that looks best from the start |
/// | `gamma_exponent` | [0, 1] | 0.5 | prefers it sooner |
///
/// The others are those of every linear policy (`selection/src/policy/linear.rs`). The distribution has a closed
/// form and never leaves an arm out, so that it is the first to try where another policy is to
/// be judged by the log. Queries whose feedback is under way do not all go to one arm.
#[derive(Clone, Debug, PartialEq)]
pub struct SquareCb {
    regression: Regression,
    gamma_scale: f64,
    gamma_exponent: f64,
}

impl SquareCb {
    pub(super) const NAME: &str = "squarecb";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
        features: usize,
    ) -> Result<Self, PolicyError> {
        let scale = Parameter {
            name: "gamma_scale",
            default: 10.0,
            range: "(0, 1e9]",
            fits: |value| value > 0.0 && value <= 1e9,
        };
        let exponent = Parameter {
            name: "gamma_exponent",
            default: 0.5,
            range: "[0, 1]",
            fits: |value| (0.0..=1.0).contains(&value),
        };
        let known =
            [scale, exponent, LAMBDA, INTERCEPT, STANDARDISE, DISCOUNT, FLOOR, PRIOR_STRENGTH];
        let [gamma_scale, gamma_exponent, shared @ ..] = read(Self::NAME, known, parameters)?;
        let regression = Regression::new(Self::NAME, arms, features, shared)?;
        Ok(Self { regression, gamma_scale, gamma_exponent })
    }
}

impl LinearPolicy for SquareCb {
    const NAME: &'static str = Self::NAME;

    fn regression(&self) -> &Regression {
        &self.regression
    }

    fn distribution(
        &self,
        fitted: &Fitted,
        _arms: &ArmSet<'_>,
        live: &[usize],
        z: &[f64],
    ) -> Vec<f64> {
        let reward = |place: &usize| (MIDDLE + fitted.mean(*place, z)).clamp(0.0, 1.0);
        let rewards: Vec<f64> = live.iter().map(reward).collect();
        let gamma = self.gamma_scale * (1.0 + fitted.rows).powf(self.gamma_exponent);
        inverse_gaps(&rewards, gamma)
    }
}

/// Inverse gap weighting; sums to 1.
fn inverse_gaps(rewards: &[f64], gamma: f64) -> Vec<f64> {
    let count = rewards.len() as f64;
    let best = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let behind = |reward: &f64| best - reward > 0.0;
    let mut q: Vec<f64> =
        rewards.iter().map(|reward| 1.0 / (count + gamma * (best - reward))).collect();
    let others: f64 =
        q.iter().zip(rewards).filter(|(_, reward)| behind(reward)).map(|(q, _)| q).sum();
    let ties = rewards.iter().filter(|reward| !behind(reward)).count() as f64;
    for (q, reward) in q.iter_mut().zip(rewards) {
        if !behind(reward) {
            *q = (1.0 - others) / ties;
        }
    }
    q
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vowpal Wabbit's pmf for costs .2, .5, .9 and gamma 10.
    #[test]
    fn the_reference_vector() {
        let q = inverse_gaps(&[0.8, 0.5, 0.1], 10.0);
        for (got, want) in q.iter().zip([0.733_333, 0.166_667, 0.1]) {
            assert!((got - want).abs() < 1e-6, "{q:?}");
        }
    }

    #[test]
    fn ties_share_what_the_best_has() {
        assert_eq!(inverse_gaps(&[0.5; 4], 1e6), [0.25; 4]);
        let q = inverse_gaps(&[0.3, 0.7, 0.7], 5.0);
        assert!((q[0] - 0.2).abs() < 1e-12 && (q[1] - 0.4).abs() < 1e-12 && q[1] == q[2], "{q:?}");
        assert_eq!(inverse_gaps(&[0.1], 3.0), [1.0]);
    }
}
