//! What the linear policies share: a ridge regression of the reward on the features, per arm.
//!
//! Rows are summed up as they are ([`sums`]) and solved once per version of the state, off the
//! path of a query ([`Fitted`]). In coordinates of mean 0 and variance 1 ([`scale`]), over all
//! arms' rows and with an intercept in front:
//!
//! `A = λI + Σ z zᵀ`, `b = Σ z y`, `θ = A⁻¹ b`, predicted reward `½ + θᵀz`
//!
//! y is the reward 1 − loss less ½, so that an arm of which nothing is known, and one that λ
//! holds back, is predicted halfway between the best and the worst.
//!
//! A row counts fully, whatever the probability with which its arm was asked: the regression is
//! of the reward *given* the features, and who was asked is drawn from the features and the past
//! alone. Dividing by q would only add noise.
//!
//! Parameters that all of them have:
//!
//! | parameter | range | default | raising it |
//! |---|---|---|---|
//! | `lambda` | (0, 1e6] | 1 | holds estimates near ½ for longer, like so many rows more |
//! | `intercept` | 0 or 1 | 1 | an arm may be better than another at the mean features, too |
//! | `standardise` | 0 or 1 | 1 | features of unlike scale count alike; 0: taken as they are |
//! | `discount` | (0, 1] | 1 | forgets more slowly; 1: never |
//! | `floor` | [0, 1] | 0.01 | asks weak arms more: each live one of K at least `floor` / K of the time |
//! | `prior_strength` | [0, 1e6] | 20 | new contexts trust the application for longer |
//!
//! With `discount` 1 updates commute. Below it each row first makes all earlier ones of every arm
//! count that much (Russac, Vernade and Cappé, "Weighted linear bandits for non-stationary
//! environments", NeurIPS 2019, for the estimate), and the state is that of the commit order.
//!
//! An arm that is added later begins with no rows. Sums of another number of features, from
//! before the application's was changed, are begun anew; a decision with another number moves
//! nothing.
//!
//! # Cost
//!
//! With d features, 8·(2 + 2d + d(d + 1)/2) bytes per arm and state in the store, twice that for
//! a context with a prior, and half as much again in memory: 1.4 kB for 16 features, 18 kB for
//! 64, 68 kB for 128, which is the most. A query costs O(d²) per arm, a commit O(d³).

mod ridge;
mod scale;
mod sums;

use std::sync::Arc;

use rand::Rng;

use self::{ridge::Ridge, scale::Scale, sums::Sums};
use super::{
    ARM_BYTES, ArmSet, LiveArm, Made, Observation, PolicyError, Prepared, Selection,
    SelectionPolicy, Situation, State,
    draw::{live, nobody, single},
    parameters::Parameter,
    state::{count, scored},
};
use crate::DecisionRecord;

/// Context features at most.
pub(super) const MOST_FEATURES: usize = 128;

/// The reward in the middle, which is what is predicted where nothing is known.
pub(super) const MIDDLE: f64 = 0.5;

pub(super) const LAMBDA: Parameter = Parameter {
    name: "lambda",
    default: 1.0,
    range: "(0, 1e6]",
    fits: |value| value > 0.0 && value <= 1e6,
};

pub(super) const INTERCEPT: Parameter = Parameter {
    name: "intercept",
    default: 1.0,
    range: "{0, 1}",
    fits: |value| value == 0.0 || value == 1.0,
};

pub(super) const STANDARDISE: Parameter = Parameter { name: "standardise", ..INTERCEPT };

pub(super) const DISCOUNT: Parameter = Parameter {
    name: "discount",
    default: 1.0,
    range: "(0, 1]",
    fits: |value| value > 0.0 && value <= 1.0,
};

/// A policy that draws one arm by what the regressions predict. It is a [`SelectionPolicy`] by
/// that alone.
pub(super) trait LinearPolicy {
    const NAME: &'static str;

    /// Whether rows without feedback count: those of the arm as the [`ArmSet`] has them.
    const COUNTS_PENDING: bool = false;

    fn regression(&self) -> &Regression;

    /// The weights of the live arms, in their order, at a point. They sum to 1.
    fn distribution(
        &self,
        fitted: &Fitted,
        arms: &ArmSet<'_>,
        live: &[usize],
        z: &[f64],
    ) -> Vec<f64>;
}

/// The regressions of one policy: its parameters, and what follows from them alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Regression {
    arms: Vec<Arc<str>>,
    features: usize,
    lambda: f64,
    intercept: bool,
    standardise: bool,
    discount: f64,
    floor: f64,
    prior_strength: f64,
}

impl Regression {
    /// The values are those of lambda, intercept, standardise, discount, floor and
    /// `prior_strength`.
    pub(super) fn new(
        policy: &'static str,
        arms: &[Arc<str>],
        features: usize,
        [lambda, intercept, standardise, discount, floor, prior_strength]: [f64; 6],
    ) -> Result<Self, PolicyError> {
        if features > MOST_FEATURES {
            return Err(PolicyError::TooManyFeatures { policy, got: features });
        }
        if features == 0 && intercept == 0.0 {
            return Err(PolicyError::NoFeatures { policy: format!("'{policy}' with intercept 0") });
        }
        Ok(Self {
            arms: arms.to_vec(),
            features,
            lambda,
            intercept: intercept == 1.0,
            standardise: standardise == 1.0,
            discount,
            floor,
            prior_strength,
        })
    }

    /// Refuses an application without context features.
    pub(super) fn with_features(self, policy: &'static str) -> Result<Self, PolicyError> {
        if self.features == 0 {
            return Err(PolicyError::NoFeatures { policy: format!("'{policy}'") });
        }
        Ok(self)
    }

    /// Solves for every arm of `arms` that `wanted` names.
    pub(super) fn fit(
        &self,
        state: &State,
        arms: &ArmSet<'_>,
        wanted: impl Fn(usize) -> bool,
    ) -> Fitted {
        let sums = |arm: &str| Sums::read(&state.arm(arm).sums, self.features);
        let known: Vec<_> = self.arms.iter().filter_map(|arm| sums(arm)).collect();
        let scale = Scale::new(&known, self.features, self.intercept, self.standardise);
        let one = |(place, arm): (usize, &LiveArm<'_>)| {
            wanted(place).then(|| self.solve(sums(arm.arm), &scale))
        };
        let arms = arms.iter().enumerate().map(one).collect();
        Fitted { rows: known.iter().map(|sums| sums.rows).sum(), scale, arms }
    }

    /// The normal equations in the coordinates of `scale`, out of the sums as they are.
    fn solve(&self, sums: Option<Sums<'_>>, scale: &Scale) -> Ridge {
        let (dimension, offset) = (scale.dimension(), usize::from(scale.intercept));
        let mut a = vec![0.0; dimension * (dimension + 1) / 2];
        let mut b = vec![0.0; dimension];
        let first = |row: usize| row * (row + 1) / 2;
        if let Some(sums) = sums {
            let n = sums.rows;
            if scale.intercept {
                a[0] = n;
                b[0] = sums.y;
            }
            let mut triangle = sums.xx;
            for (i, (mean_i, inverse_i)) in scale.mean.iter().zip(&scale.inverse).enumerate() {
                let at = first(i + offset);
                if scale.intercept {
                    a[at] = (sums.x[i] - n * mean_i) * inverse_i;
                }
                b[i + offset] = (sums.yx[i] - mean_i * sums.y) * inverse_i;
                let (row, below) = triangle.split_at(self.features - i);
                for (j, product) in (i..).zip(row) {
                    let mean_j = scale.mean[j];
                    let centred =
                        product - mean_i * sums.x[j] - mean_j * sums.x[i] + n * mean_i * mean_j;
                    a[first(j + offset) + i + offset] = centred * inverse_i * scale.inverse[j];
                }
                triangle = below;
            }
        }
        for row in 0..dimension {
            let diagonal = &mut a[first(row) + row];
            *diagonal = diagonal.max(0.0) + self.lambda;
        }
        Ridge::new(a, &b, self.lambda)
    }

    /// The features by which a decision is learned from; `None`: not in this application's
    /// dimension, or no numbers.
    fn features<'a>(&self, record: &'a DecisionRecord) -> Option<&'a [f32]> {
        if self.features == 0 {
            return Some(&[]);
        }
        let features = &record.features[..];
        let fit = features.len() == self.features && features.iter().all(|x| x.is_finite());
        fit.then_some(features)
    }
}

/// The regressions of one state, solved.
#[derive(Debug)]
pub(super) struct Fitted {
    /// Rows over all arms, the prior's too.
    pub(super) rows: f64,
    scale: Scale,
    /// By the place in the [`ArmSet`].
    arms: Vec<Option<Ridge>>,
}

impl Fitted {
    /// What is predicted of an arm at a point: θᵀz, that is, the reward less ½.
    pub(super) fn mean(&self, arm: usize, z: &[f64]) -> f64 {
        self.arms[arm].as_ref().map_or(0.0, |arm| arm.mean(z))
    }

    /// zᵀA⁻¹z, by which the prediction's variance is proportional.
    pub(super) fn variance(&self, arm: usize, z: &[f64]) -> f64 {
        self.arms[arm].as_ref().map_or(0.0, |arm| arm.variance(z))
    }
}

impl<P: LinearPolicy> SelectionPolicy for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn takes_rewards(&self) -> bool {
        true
    }

    fn counts_pending(&self) -> bool {
        P::COUNTS_PENDING
    }

    fn uses_features(&self) -> bool {
        true
    }

    fn init(&self) -> State {
        State::new(&self.regression().arms)
    }

    /// λI + s·Σzzᵀ with s = min(1, `prior_strength` / n), and b alike.
    fn prior(&self, application: &State) -> State {
        let regression = self.regression();
        let mut prior = self.init();
        for arm in &regression.arms {
            let learned = &application.arm(arm).sums;
            let Some(known) = Sums::read(learned, regression.features) else { continue };
            let mut capped = learned.clone();
            if known.rows > regression.prior_strength {
                sums::scale(&mut capped, regression.prior_strength / known.rows);
            }
            let begin = prior.arm_mut(arm);
            begin.prior_sums.clone_from(&capped);
            begin.sums = capped;
        }
        prior
    }

    /// Sums twice, since a context keeps its prior, and once what is solved.
    fn arm_bytes(&self) -> usize {
        let regression = self.regression();
        let solved = regression.features + usize::from(regression.intercept);
        let numbers = 2 * sums::length(regression.features) + solved * (solved + 3) / 2;
        ARM_BYTES + size_of::<f64>() * numbers
    }

    fn prepare(&self, state: &State, arms: &ArmSet<'_>) -> Prepared {
        let fitted = self.regression().fit(state, arms, |place| arms[place].live);
        Prepared(Made::Linear(Arc::new(fitted)))
    }

    fn select(
        &self,
        state: &State,
        prepared: &Prepared,
        situation: &Situation<'_>,
        rng: &mut dyn Rng,
    ) -> Selection {
        let arms = situation.arms;
        let live: Vec<usize> = live(arms).collect();
        if live.is_empty() {
            return nobody(arms.len());
        }
        let fitted = match prepared {
            Prepared(Made::Linear(fitted)) => Arc::clone(fitted),
            // Nobody prepared it.
            Prepared(_) => Arc::new(self.regression().fit(state, arms, |place| arms[place].live)),
        };
        let z = fitted.scale.point(situation.features);
        let weights = self.distribution(&fitted, arms, &live, &z);
        single(arms, &live, &weights, self.regression().floor, rng)
    }

    /// At the mean features of all rows.
    fn weights(&self, state: &State, arms: &ArmSet<'_>) -> Vec<f64> {
        let all: Vec<usize> = (0..arms.len()).collect();
        let fitted = self.regression().fit(state, arms, |_| true);
        self.distribution(&fitted, arms, &all, &fitted.scale.point(&[]))
    }

    fn observe(
        &self,
        state: &mut State,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) -> bool {
        let regression = self.regression();
        let Some(features) = regression.features(record) else { return false };
        let seen: Vec<_> = scored(record, &regression.arms, row, observation).collect();
        if seen.is_empty() {
            return false;
        }
        if regression.discount < 1.0 {
            for arm in &regression.arms {
                sums::scale(&mut state.arm_mut(arm).sums, regression.discount);
            }
        }
        for (arm, loss, _) in seen {
            let arm = state.arm_mut(arm);
            sums::add(&mut arm.sums, features, 1.0 - loss - MIDDLE);
            count(arm, loss);
        }
        true
    }
}

#[cfg(test)]
mod tests;
