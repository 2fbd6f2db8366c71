//! Each arm with the probability that it is the best, by features.

mod best;

use std::sync::Arc;

use self::best::{Score, best};
use super::{
    ArmSet, PolicyError,
    linear::{DISCOUNT, Fitted, INTERCEPT, LAMBDA, LinearPolicy, Regression, STANDARDISE},
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
};

/// `lin_thompson`: asks each arm with the probability that it is the best one at the query's
/// features, by one Bayesian linear regression per arm (Agrawal and Goyal, "Thompson sampling for
/// contextual bandits with linear payoffs", ICML 2013, algorithm 1, with a θ per arm):
///
/// `score ~ N(θᵀz, v² · zᵀA⁻¹z)`, independent by arm
///
/// Drawing scores and taking the largest would leave the probability of the choice unknown. It is
/// computed instead, by quadrature, and drawn from: what is recorded is exactly that, and within
/// .005 of the true probability.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `v` | [0, 1e6] | 0.3 | tries uncertain arms for longer; 0 is greedy |
///
/// The others are those of every linear policy (`selection/src/policy/linear.rs`). Queries whose feedback is under
/// way do not all go to one arm, since the draw is random.
#[derive(Clone, Debug, PartialEq)]
pub struct LinThompson {
    regression: Regression,
    v: f64,
}

impl LinThompson {
    pub(super) const NAME: &str = "lin_thompson";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
        features: usize,
    ) -> Result<Self, PolicyError> {
        let v = Parameter {
            name: "v",
            default: 0.3,
            range: "[0, 1e6]",
            fits: |value| (0.0..=1e6).contains(&value),
        };
        let known = [v, LAMBDA, INTERCEPT, STANDARDISE, DISCOUNT, FLOOR, PRIOR_STRENGTH];
        let [v, shared @ ..] = read(Self::NAME, known, parameters)?;
        let regression = Regression::new(Self::NAME, arms, features, shared)?;
        Ok(Self { regression: regression.with_features(Self::NAME)?, v })
    }
}

impl LinearPolicy for LinThompson {
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
        let score = |place: &usize| Score {
            mean: fitted.mean(*place, z),
            deviation: self.v * fitted.variance(*place, z).sqrt(),
        };
        best(&live.iter().map(score).collect::<Vec<_>>())
    }
}
