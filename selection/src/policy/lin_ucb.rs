//! The arm that could be the best, by features.

use std::sync::Arc;

use super::{
    ArmSet, PolicyError,
    draw::greedy,
    linear::{DISCOUNT, Fitted, INTERCEPT, LAMBDA, LinearPolicy, Regression, STANDARDISE},
    parameters::{FLOOR, PRIOR_STRENGTH, Parameter, read},
};

/// `linucb`: asks the arm whose reward could be the highest at the query's features, by one ridge
/// regression per arm (Li, Chu, Langford and Schapire, "A contextual-bandit approach to
/// personalized news article recommendation", WWW 2010, algorithm 1, disjoint):
///
/// `score = θᵀz + alpha · √(zᵀA⁻¹z)`
///
/// What is drawn from is that choice, split over ties, with the floor applied.
///
/// | parameter | range | default | raising it |
/// |---|---|---|---|
/// | `alpha` | [0, 1e6] | 1 | tries uncertain arms for longer; 0 is greedy |
///
/// The others are those of every linear policy (`selection/src/policy/linear.rs`).
///
/// Rows without feedback count. Their features are not at hand, so each is taken to have had
/// those of the query: A + m·zzᵀ for m rows, and so zᵀA⁻¹z / (1 + m·zᵀA⁻¹z). That is the most
/// that they can teach about this query; where all features are alike it is n + m in place of n.
/// It keeps a burst of queries from all going to one arm, and costs a little exploration while
/// rows are under way.
#[derive(Clone, Debug, PartialEq)]
pub struct LinUcb {
    regression: Regression,
    alpha: f64,
}

impl LinUcb {
    pub(super) const NAME: &str = "linucb";

    pub(super) fn new(
        parameters: &[(String, f64)],
        arms: &[Arc<str>],
        features: usize,
    ) -> Result<Self, PolicyError> {
        let alpha = Parameter {
            name: "alpha",
            default: 1.0,
            range: "[0, 1e6]",
            fits: |value| (0.0..=1e6).contains(&value),
        };
        let known = [alpha, LAMBDA, INTERCEPT, STANDARDISE, DISCOUNT, FLOOR, PRIOR_STRENGTH];
        let [alpha, shared @ ..] = read(Self::NAME, known, parameters)?;
        let regression = Regression::new(Self::NAME, arms, features, shared)?;
        Ok(Self { regression: regression.with_features(Self::NAME)?, alpha })
    }
}

impl LinearPolicy for LinUcb {
    const NAME: &'static str = Self::NAME;
    const COUNTS_PENDING: bool = true;

    fn regression(&self) -> &Regression {
        &self.regression
    }

    fn distribution(
        &self,
        fitted: &Fitted,
        arms: &ArmSet<'_>,
        live: &[usize],
        z: &[f64],
    ) -> Vec<f64> {
        let score = |place: &usize| {
            let variance = fitted.variance(*place, z);
            let pending = arms[*place].pending as f64;
            fitted.mean(*place, z) + self.alpha * (variance / (1.0 + pending * variance)).sqrt()
        };
        greedy(&live.iter().map(score).collect::<Vec<_>>())
    }
}
