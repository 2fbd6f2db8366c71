//! From what the arms said to the answer and the record of the decision.

use std::{fmt::Write, sync::Arc};

use rand::RngExt as _;
use skysail_proto::{PredictError, Tensor, call::ModelResult};

use super::{
    Shared, Slot, refusal,
    select::{Candidate, Decision, Purpose},
};
use crate::{
    ArmRecord, Contribution, DecisionRecord, Outcome, Prediction, Query, RowRecord, RowStatus,
    ShadowRecord, Status,
    combine::{ArmAnswer, Chosen, Combined, Got},
    policy::SelectionPolicy,
    store::Mask,
};

/// Fullness of the log's buffer from which on it is under pressure. Ratio in (0, 1]; raising it
/// keeps more features and leaves less room for a burst.
const PRESSURE: f64 = 0.5;

/// Of the decisions made under pressure, those whose features are kept. Ratio in (0, 1); raising
/// it relieves the log less.
const FEATURES_KEPT: f64 = 0.1;

/// What became of one arm that was asked.
#[derive(Debug)]
pub(super) struct Heard {
    /// Among the application's arms.
    pub(super) place: usize,
    pub(super) outcome: Outcome,
    /// Why it was not used.
    pub(super) reason: Arc<str>,
    /// What it replied instead of an answer.
    pub(super) error: Option<PredictError>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    read: ArmAnswer,
    /// In the order of the application's outputs.
    tensors: Arc<[Tensor]>,
    cached: bool,
    batch_rows: u32,
    queue: std::time::Duration,
    compute: std::time::Duration,
}

impl Heard {
    fn without(place: usize, outcome: Outcome, reason: impl Into<Arc<str>>) -> Self {
        Self { place, outcome, reason: reason.into(), error: None, answer: None }
    }

    /// Whether it says anything of the arm that it was not used: a query that no model could
    /// answer does not.
    fn counts(&self) -> bool {
        !matches!(self.error, Some(PredictError::InvalidArgument(_) | PredictError::Cancelled))
    }
}

impl Shared {
    /// Combines, and seals the record: whoever answers later is not scored.
    pub(super) fn seal(
        &self,
        query: Query,
        slot: &Slot,
        decision: Decision,
        replies: Vec<Option<ModelResult>>,
    ) -> Result<(Prediction, Arc<DecisionRecord>), PredictError> {
        let rows = query.inputs.rows();
        let chosen = decision.selection.chosen.iter();
        let mut heard: Vec<_> =
            chosen.zip(replies).map(|(place, reply)| self.hear(*place, reply, rows)).collect();
        heard.sort_unstable_by_key(|arm| arm.place);
        for arm in heard.iter().filter(|arm| arm.counts()) {
            self.availability.asked(arm.place, arm.outcome == Outcome::Used);
        }
        if let Some(error) = refusal::of_query(&heard) {
            return Err(error);
        }
        let mut combined = self.combine(rows, &decision, &heard);
        if combined.missing > 0 {
            return Err(refusal::of_answers(
                &self.application,
                &decision,
                &heard,
                combined.missing,
            ));
        }
        let answer = std::mem::take(&mut combined.answers);
        let record = self.record(query, slot, &decision, &heard, answer);
        let (status, reason) = self.status(&decision, &heard, &combined);
        let prediction = Prediction {
            decision_id: decision.id,
            contributions: self.contributions(&decision, heard),
            outputs: combined.outputs,
            status,
            reason,
            confidence: combined.confidence,
            row_status: combined.row_status,
        };
        Ok((prediction, Arc::new(record)))
    }

    fn hear(&self, place: usize, reply: Option<ModelResult>, rows: usize) -> Heard {
        let reply = match reply {
            None => return Heard::without(place, Outcome::Late, "no answer at the deadline"),
            Some(Err(error)) => {
                let outcome = refusal::outcome(&error);
                let reason = error.to_string();
                return Heard { error: Some(error), ..Heard::without(place, outcome, reason) };
            }
            Some(Ok(reply)) => reply,
        };
        let tensors = self.plan.in_order(place, reply.outputs);
        match self.combiner.read(&tensors, rows) {
            Err(why) => Heard::without(place, Outcome::Failed, why),
            Ok(read) if !read.any_answered() => {
                Heard::without(place, Outcome::Failed, "every row of its answer is NaN or infinite")
            }
            Ok(read) => Heard {
                place,
                outcome: Outcome::Used,
                reason: Arc::default(),
                error: None,
                answer: Some(Answer {
                    read,
                    tensors,
                    cached: reply.cached,
                    batch_rows: reply.batch_rows,
                    queue: reply.queue,
                    compute: reply.compute,
                }),
            },
        }
    }

    fn combine(&self, rows: usize, decision: &Decision, heard: &[Heard]) -> Combined {
        let weight = |place: usize| decision.selection.weights.get(place).copied().unwrap_or(0.0);
        let mut got = Vec::with_capacity(heard.len());
        for arm in heard {
            let Some(answer) = &arm.answer else { continue };
            let (arm, tensors) = (arm.place, &*answer.tensors);
            got.push(Got { arm, weight: weight(arm), answer: &answer.read, tensors });
        }
        let all = heard.iter().map(|arm| weight(arm.place)).sum();
        let chosen = Chosen { arms: heard.len(), weight: all };
        if self.learner.policy.draws_answer() {
            let mut rng = self.draw.generator(&decision.id, Purpose::Answer);
            return self.combiner.combine(rows, &got, chosen, Some(&mut rng));
        }
        self.combiner.combine(rows, &got, chosen, None)
    }

    fn record(
        &self,
        query: Query,
        slot: &Slot,
        decision: &Decision,
        heard: &[Heard],
        answer: Vec<RowRecord>,
    ) -> DecisionRecord {
        let arm = |(place, candidate): (usize, &Candidate)| {
            let heard = heard.iter().find(|heard| heard.place == place);
            let answer = heard.and_then(|heard| heard.answer.as_ref());
            ArmRecord {
                arm: Arc::clone(&self.application.arms[place].name),
                version: candidate.model().map(|m| Arc::clone(&m.id.version)).unwrap_or_default(),
                q: decision.selection.q.get(place).copied().unwrap_or(0.0),
                weight: decision.selection.weights.get(place).copied().unwrap_or(0.0),
                outcome: match (candidate, heard) {
                    (_, Some(heard)) => heard.outcome,
                    (Candidate::Live(_), None) => Outcome::NotAsked,
                    (_, None) => Outcome::Masked,
                },
                labels: answer.map(|answer| answer.read.labels()).unwrap_or_default(),
                scores: answer.map(|a| self.combiner.record_scores(&a.read)).unwrap_or_default(),
            }
        };
        let (features, features_kept) = self.features(query, decision);
        DecisionRecord {
            id: decision.id,
            time_ms: decision.time_ms,
            application: Arc::clone(&self.application.name),
            context: Arc::clone(&slot.context),
            features,
            features_kept,
            policy: Arc::clone(&self.application.policy_name),
            state_version: decision.state_version,
            arms: decision.candidates.iter().enumerate().map(arm).collect(),
            shadow: self
                .learner
                .shadow
                .as_ref()
                .zip(decision.shadow.as_ref())
                .map(|(policy, q)| ShadowRecord { policy: policy.name().into(), q: q.clone() }),
            answer,
        }
    }

    /// What of the features is recorded, and with which probability: under pressure, those that
    /// only evaluation needs are thinned.
    fn features(&self, query: Query, decision: &Decision) -> (Vec<f32>, Option<f64>) {
        let features = query.context_features;
        if features.is_empty() || self.learner.uses_features() || self.log.fullness() < PRESSURE {
            return (features, None);
        }
        let mut rng = self.draw.generator(&decision.id, Purpose::Features);
        let kept = if rng.random_bool(FEATURES_KEPT) { features } else { Vec::new() };
        (kept, Some(FEATURES_KEPT))
    }

    fn contributions(&self, decision: &Decision, heard: Vec<Heard>) -> Vec<Contribution> {
        let mut heard = heard.into_iter().peekable();
        let mut contributions = Vec::with_capacity(decision.candidates.len());
        for (place, candidate) in decision.candidates.iter().enumerate() {
            let heard = heard.next_if(|heard| heard.place == place);
            let (outcome, reason, answer) = match (heard, masked(candidate)) {
                (Some(heard), _) => (heard.outcome, heard.reason, heard.answer),
                (None, Some(reason)) => (Outcome::Masked, reason.into(), None),
                (None, None) => continue,
            };
            let answer = answer.as_ref();
            contributions.push(Contribution {
                arm: Arc::clone(&self.application.arms[place].name),
                model: candidate.model().map(|model| model.id.clone()),
                outcome,
                cached: answer.is_some_and(|answer| answer.cached),
                weight: decision.selection.weights.get(place).copied().unwrap_or(0.0),
                propensity: decision.selection.q.get(place).copied().unwrap_or(0.0),
                reason,
                batch_rows: answer.map_or(0, |answer| answer.batch_rows),
                queue: answer.map(|answer| answer.queue).unwrap_or_default(),
                compute: answer.map(|answer| answer.compute).unwrap_or_default(),
            });
        }
        contributions
    }

    fn status(
        &self,
        decision: &Decision,
        heard: &[Heard],
        combined: &Combined,
    ) -> (Status, Arc<str>) {
        let answered = |status: &RowStatus| *status == RowStatus::Answered;
        let short = heard.iter().any(|arm| arm.outcome != Outcome::Used);
        let status = if !combined.row_status.iter().any(answered) {
            Status::Default
        } else if short || !combined.row_status.iter().all(answered) {
            Status::Partial
        } else {
            Status::Answered
        };
        if !short && !heard.is_empty() {
            // The common case allocates nothing.
            let none = combined.reason.is_empty();
            return (status, if none { Arc::default() } else { Arc::from(combined.reason) });
        }
        let mut reason = String::new();
        let mut say = |arm: usize, what: &dyn std::fmt::Display| {
            let separator = if reason.is_empty() { "" } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(reason, "{separator}{}: {what}", self.application.arms[arm].name);
        };
        for arm in heard.iter().filter(|arm| arm.outcome != Outcome::Used) {
            say(arm.place, &arm.reason);
        }
        if heard.is_empty() {
            for (place, candidate) in decision.candidates.iter().enumerate() {
                say(place, &masked(candidate).unwrap_or("its weight is 0"));
            }
        }
        if combined.any_answered && !combined.reason.is_empty() {
            reason = format!("{}; {reason}", combined.reason);
        }
        (status, reason.into())
    }
}

/// A single row takes longer than the objective allows.
pub(super) const INFEASIBLE: &str = "infeasible: a single row takes longer than the objective";

/// Why an arm was not eligible.
pub(super) fn masked(candidate: &Candidate) -> Option<&'static str> {
    match candidate {
        Candidate::Live(_) => None,
        Candidate::Masked(_, Mask::NoLiveReplica) => Some("no live replica"),
        Candidate::Masked(_, Mask::PredictedLate) => Some("predicted to answer too late"),
        Candidate::Masked(_, Mask::Infeasible) => Some(INFEASIBLE),
        Candidate::Unknown => Some("not registered"),
    }
}
