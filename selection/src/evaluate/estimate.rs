//! What the estimators say, and when they say nothing.

/// Effective decisions below which there is no number.
pub const LEAST_EFFECTIVE: f64 = 100.0;

/// Standard errors by which the mean weight may be off 1.
pub const MOST_ERRORS: f64 = 4.0;

/// Share of the target's probability that may lie on arms that had no chance. It is also the most
/// by which an estimate may be wrong for it, rewards being in [0, 1].
pub const MOST_UNCOVERED: f64 = 0.001;

/// Share of recorded answers that combining the recorded labels must give again.
pub const LEAST_AGREEMENT: f64 = 0.99;

/// A mean reward per row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// In [0, 1] for every sensible log; an unbiased estimate may leave that by luck.
    pub value: f64,
    /// Standard error, clustered by decision.
    pub error: Option<f64>,
    /// Normal, cut to [0, 1]. `None` where the error is bias and not chance.
    pub interval: Option<(f64, f64)>,
}

impl Estimate {
    pub(super) fn around(value: f64, error: f64, z: f64) -> Self {
        let cut = |bound: f64| bound.clamp(0.0, 1.0);
        let interval = error.is_finite().then(|| (cut(value - z * error), cut(value + z * error)));
        Self { value, error: error.is_finite().then_some(error), interval }
    }
}

/// Every estimator's word on one target. With π(a)/q(a) written as w:
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimates {
    /// Mean of wr (Horvitz and Thompson, 1952). Unbiased.
    pub ips: Estimate,
    /// Mean of min(w, M)·r: biased downward, and steadier.
    pub clipped: Estimate,
    /// Σwr / Σw; `None` where no weight is above 0.
    pub snips: Option<Estimate>,
    /// Mean of w/(1 − λ + λw)·r, λ = .1.
    pub sub_gaussian: Estimate,
    /// Empirical likelihood, Cressie–Read with power −2; a point alone.
    pub cressie_read: Option<f64>,
    /// Mean of Σπ(a)·q̂(a), the reward model's word. It is as wrong as the model, and the model's
    /// error is no chance, so it has no interval. `None` for a target that combines.
    pub direct: Option<Estimate>,
    /// The direct one, corrected by w·(r − q̂) (Dudík, Langford and Li, "Doubly robust policy
    /// evaluation and learning", ICML 2011). The model is of the other half of the decisions, so
    /// that it has not seen the reward that it is corrected by.
    pub doubly_robust: Option<Estimate>,
}

impl Estimates {
    /// The one to go by: doubly robust where there is a model, else self-normalised.
    pub fn best(&self) -> (&'static str, Estimate) {
        match (self.doubly_robust, self.snips) {
            (Some(estimate), _) => ("DR", estimate),
            (None, Some(estimate)) => ("SNIPS", estimate),
            (None, None) => ("IPS", self.ips),
        }
    }
}

/// How much the log says of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostics {
    /// In the history.
    pub decisions: usize,
    /// Of these, those with feedback.
    pub joined: usize,
    /// With feedback.
    pub rows: usize,
    /// As many decisions drawn by the target itself would say about as much: (Σw)² / Σw².
    pub effective: f64,
    /// Must be 1, within its error.
    pub mean_weight: f64,
    /// The standard error of that.
    pub mean_weight_error: f64,
    /// Of any arm in any row.
    pub largest_weight: f64,
    /// The arm that had least chance, and the share of the target's probability that lay on arms
    /// without any.
    pub uncovered: Option<(String, f64)>,
}

impl Diagnostics {
    /// Why they are too little to go by, if they are.
    pub fn refusal(&self) -> Option<Refusal> {
        if self.rows == 0 {
            return Some(Refusal::NoFeedback { decisions: self.decisions });
        }
        if let Some((arm, share)) = self.uncovered.as_ref().filter(|(_, s)| *s > MOST_UNCOVERED) {
            return Some(Refusal::NoOverlap { arm: arm.clone(), share: *share });
        }
        if self.effective < LEAST_EFFECTIVE {
            let (effective, joined) = (self.effective, self.joined);
            return Some(Refusal::FewEffective { effective, joined });
        }
        // Rounding alone, where every arm was asked.
        let allowed = (MOST_ERRORS * self.mean_weight_error).max(1e-9);
        if (self.mean_weight - 1.0).abs() > allowed + MOST_UNCOVERED {
            let (mean, error) = (self.mean_weight, self.mean_weight_error);
            return Some(Refusal::MeanWeight { mean, error });
        }
        None
    }
}

/// Why a number would mean nothing. Each says what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Refusal {
    #[error(
        "none of the {decisions} decisions has feedback: send labels or rewards with `Observe`, \
         and evaluate again"
    )]
    NoFeedback { decisions: usize },
    #[error(
        "no overlap: {:.2} % of its choices are of arms that the log's policy gave no chance \
         (first of all '{arm}'), expected {:.1} % at most: log with a policy that asks every arm \
         now and then (a `floor`, or a weight above 0)",
        .share * 100.0, MOST_UNCOVERED * 100.0
    )]
    NoOverlap { arm: String, share: f64 },
    #[error(
        "too little overlap: {joined} decisions with feedback are worth {effective:.1} of its own, \
         expected {LEAST_EFFECTIVE} at least: log more, or with a larger floor, or judge a target \
         nearer to the log's policy"
    )]
    FewEffective { effective: f64, joined: usize },
    #[error(
        "the mean weight is {mean:.3} ± {error:.3}, expected 1 within {MOST_ERRORS} standard \
         errors: either the feedback comes more often for some arms than for others, or the log's \
         probabilities are not those that were drawn from"
    )]
    MeanWeight { mean: f64, error: f64 },
    #[error(
        "the audit failed ({check}): the log's probabilities are not those that were drawn from, \
         so nothing can be divided by them; find out who overrides choices or records others"
    )]
    Audit { check: String },
    #[error(
        "it asks several arms and combines them, and in {:.1} % of the decisions with feedback \
         not all of these were asked for certain: log with a policy that asks every arm (`hedge`)",
        .share * 100.0
    )]
    NotAllAsked { share: f64 },
    #[error(
        "it combines, and the log does not hold what combining needs: the recorded answer comes \
         out again in {:.1} % of the rows, expected {:.0} % (an application that averages scores \
         keeps them in the log with the loss `log` alone)",
        .agreement * 100.0, LEAST_AGREEMENT * 100.0
    )]
    NotReproduced { agreement: f64 },
    #[error(
        "it combines arms, and feedback is a bare reward, which says nothing of another \
         combination: send labels"
    )]
    NeedsLabels,
}
