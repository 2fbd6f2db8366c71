//! What a policy has learned, as a value.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::Observation;
use crate::{DecisionRecord, Outcome};

/// Read first, so that another layout is refused and not misread.
const FORMAT: u8 = 2;

/// It had no sums. States of this format are still read.
const WITHOUT_SUMS: u8 = 1;

/// A log-weight is kept above this, so that differences of log-weights are never NaN.
const LEAST_LOG_WEIGHT: f64 = -1e12;

/// What is known of one arm. The default is where an arm begins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmState {
    /// Natural logarithm of its weight; the best linked arm's is 0.
    pub log_weight: f64,
    /// What `log_weight` was before the first observation: 0, or the context's prior.
    pub prior_log_weight: f64,
    /// Feedback rows that scored it; the prior counts nothing.
    pub observations: u64,
    /// Sum of its losses in those rows.
    pub loss_sum: f64,
    /// What the policy sums up beside, in an order of its own; empty: nothing yet.
    pub sums: Vec<f64>,
    /// What `sums` were before the first observation: empty, or the context's prior.
    pub prior_sums: Vec<f64>,
}

/// An arm as it begins.
static UNKNOWN: ArmState = ArmState::new();

impl ArmState {
    const fn new() -> Self {
        Self {
            log_weight: 0.0,
            prior_log_weight: 0.0,
            observations: 0,
            loss_sum: 0.0,
            sums: Vec::new(),
            prior_sums: Vec::new(),
        }
    }

    /// Its mean loss in the rows that scored it; 0 where none did.
    pub fn mean_loss(&self) -> f64 {
        if self.observations == 0 { 0.0 } else { self.loss_sum / self.observations as f64 }
    }
}

/// A map by arm. An arm that it lacks has the default, and what it knows of arms since unlinked
/// is kept for their return.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Sorted by the arm's string.
    arms: Vec<(Arc<str>, ArmState)>,
}

/// Bytes that are no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Written by a newer build.
    #[error("selection state has format {got}; this build reads format {FORMAT}")]
    Format {
        /// What the bytes say.
        got: u8,
    },
    /// They end early, or a name is no UTF-8.
    #[error("selection state is damaged")]
    Damaged,
}

impl State {
    /// Every arm as it begins.
    pub(super) fn new(arms: &[Arc<str>]) -> Self {
        let mut arms: Vec<_> =
            arms.iter().map(|arm| (Arc::clone(arm), ArmState::default())).collect();
        arms.sort_by(|a, b| a.0.cmp(&b.0));
        arms.dedup_by(|a, b| a.0 == b.0);
        Self { arms }
    }

    /// What is known of an arm; the default where nothing is.
    pub fn arm(&self, arm: &str) -> &ArmState {
        self.place(arm).map_or(&UNKNOWN, |place| &self.arms[place].1)
    }

    /// Every arm that it knows of, linked or not.
    pub fn arms(&self) -> impl Iterator<Item = (&Arc<str>, &ArmState)> {
        self.arms.iter().map(|(arm, state)| (arm, state))
    }

    /// The state from which a replay of the decision log leads to this one: every arm at its
    /// prior, nothing observed.
    #[must_use]
    pub fn beginning(&self) -> Self {
        let begin = |(arm, state): &(Arc<str>, ArmState)| {
            let (log_weight, sums) = (state.prior_log_weight, state.prior_sums.clone());
            let state = ArmState {
                log_weight,
                prior_log_weight: log_weight,
                prior_sums: sums.clone(),
                sums,
                ..ArmState::default()
            };
            (Arc::clone(arm), state)
        };
        Self { arms: self.arms.iter().map(begin).collect() }
    }

    /// Forgets an arm, which then begins anew.
    pub fn forget(&mut self, arm: &str) {
        self.arms.retain(|(known, _)| **known != *arm);
    }

    fn place(&self, arm: &str) -> Result<usize, usize> {
        self.arms.binary_search_by(|(known, _)| (**known).cmp(arm))
    }

    /// The arm's state, put in where it lacks.
    pub(super) fn arm_mut(&mut self, arm: &Arc<str>) -> &mut ArmState {
        let place = match self.place(arm) {
            Ok(place) => place,
            Err(place) => {
                self.arms.insert(place, (Arc::clone(arm), ArmState::default()));
                place
            }
        };
        &mut self.arms[place].1
    }

    /// Shifts the log-weights of `linked` so that the best of them is 0. Weights stay as they
    /// are, an arm that is added later begins level with the best, and the sums never drift to
    /// where a difference is lost.
    pub(super) fn rebase(&mut self, linked: &[Arc<str>]) {
        let most =
            linked.iter().map(|arm| self.arm(arm).log_weight).fold(f64::NEG_INFINITY, f64::max);
        if !most.is_finite() {
            return;
        }
        for arm in linked {
            let arm = self.arm_mut(arm);
            arm.log_weight = (arm.log_weight - most).max(LEAST_LOG_WEIGHT);
        }
    }

    /// Moves a share of the weight of the `linked` arms evenly over them (Herbster and Warmuth,
    /// "Tracking the best expert", Machine Learning 32, 1998): `w ← (1 − α) · w + α · W / K`, on
    /// log-weights whose largest is 0.
    pub(super) fn share(&mut self, linked: &[Arc<str>], share: f64) {
        if share == 0.0 {
            return;
        }
        let weight = |arm: &Arc<str>| self.arm(arm).log_weight.exp();
        let part = share * linked.iter().map(weight).sum::<f64>() / linked.len() as f64;
        for arm in linked {
            let arm = self.arm_mut(arm);
            arm.log_weight = ((1.0 - share) * arm.log_weight.exp() + part).ln();
        }
        self.rebase(linked);
    }

    /// A context's beginning: log-weights −η·min(n, strength)·mean loss (design.md 4.2).
    pub(super) fn prior(&self, linked: &[Arc<str>], eta: f64, strength: f64) -> Self {
        let mut prior = Self::new(linked);
        for (arm, begin) in &mut prior.arms {
            let learned = self.arm(arm);
            let evidence = (learned.observations as f64).min(strength);
            begin.log_weight = -eta * evidence * learned.mean_loss();
        }
        prior.rebase(linked);
        for (_, begin) in &mut prior.arms {
            begin.prior_log_weight = begin.log_weight;
        }
        prior
    }

    pub(super) fn encode(&self, policy: &str) -> Bytes {
        let names: usize = self.arms.iter().map(|(arm, _)| arm.len()).sum();
        let sums: usize = self.arms.iter().map(|(_, arm)| arm.sums.len()).sum();
        let room = 16 + policy.len() + names + 44 * self.arms.len() + 16 * sums;
        let mut to = BytesMut::with_capacity(room);
        to.put_u8(FORMAT);
        put_text(&mut to, policy);
        to.put_u32_le(length(self.arms.len()));
        for (arm, state) in &self.arms {
            put_text(&mut to, arm);
            to.put_f64_le(state.log_weight);
            to.put_f64_le(state.prior_log_weight);
            to.put_u64_le(state.observations);
            to.put_f64_le(state.loss_sum);
            put_numbers(&mut to, &state.sums);
            put_numbers(&mut to, &state.prior_sums);
        }
        to.freeze()
    }

    pub(super) fn decode(mut from: &[u8]) -> Result<(&str, Self), StateError> {
        let [got] = take(&mut from)?;
        if !(WITHOUT_SUMS..=FORMAT).contains(&got) {
            return Err(StateError::Format { got });
        }
        let policy = take_text(&mut from)?;
        let count = u32::from_le_bytes(take(&mut from)?);
        let mut arms = Vec::new();
        for _ in 0..count {
            let arm = Arc::from(take_text(&mut from)?);
            let mut state = ArmState {
                log_weight: f64::from_le_bytes(take(&mut from)?),
                prior_log_weight: f64::from_le_bytes(take(&mut from)?),
                observations: u64::from_le_bytes(take(&mut from)?),
                loss_sum: f64::from_le_bytes(take(&mut from)?),
                ..ArmState::default()
            };
            if got > WITHOUT_SUMS {
                state.sums = take_numbers(&mut from)?;
                state.prior_sums = take_numbers(&mut from)?;
            }
            arms.push((arm, state));
        }
        let sorted = arms.windows(2).all(|pair: &[(Arc<str>, ArmState)]| pair[0].0 < pair[1].0);
        if sorted && from.is_empty() {
            Ok((policy, Self { arms }))
        } else {
            Err(StateError::Damaged)
        }
    }
}

/// Counts one loss for an arm.
pub(super) fn count(arm: &mut ArmState, loss: f64) {
    arm.observations += 1;
    arm.loss_sum += loss;
}

/// What an observation says of each arm of the record that is still linked: its place in the
/// record, its loss, and the probability that this loss was to be seen: q, times P(answer) for a
/// reward, which is credited to the arms whose answer is the one that was given.
pub(super) fn scored<'a>(
    record: &'a DecisionRecord,
    linked: &'a [Arc<str>],
    row: usize,
    observation: Observation<'a>,
) -> impl Iterator<Item = (&'a Arc<str>, f64, f64)> {
    record.arms.iter().enumerate().filter_map(move |(place, arm)| {
        let linked = linked.iter().find(|linked| **linked == arm.arm)?;
        let (loss, probability) = match observation {
            Observation::Losses(losses) => ((*losses.get(place)?)?, arm.q),
            Observation::Reward(reward) => {
                let answer = record.answer.get(row).filter(|answer| !answer.default)?;
                // An opaque answer has no label to compare: it is that of the arm that was drawn
                // for it, or of the one that was used.
                let same = match answer.arm {
                    Some(drawn) => drawn == place,
                    None => answer.label.is_none() || arm.labels.get(row) == Some(&answer.label),
                };
                (same && arm.outcome == Outcome::Used)
                    .then_some((1.0 - reward, arm.q * answer.p))?
            }
        };
        let sane = (0.0..=1.0).contains(&loss) && probability > 0.0;
        sane.then_some((linked, loss, probability.min(1.0)))
    })
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn put_text(to: &mut BytesMut, text: &str) {
    to.put_u32_le(length(text.len()));
    to.put_slice(text.as_bytes());
}

fn put_numbers(to: &mut BytesMut, numbers: &[f64]) {
    to.put_u32_le(length(numbers.len()));
    for number in numbers {
        to.put_f64_le(*number);
    }
}

fn take_numbers(from: &mut &[u8]) -> Result<Vec<f64>, StateError> {
    let length = u32::from_le_bytes(take(from)?) as usize;
    let bytes = length.checked_mul(8).ok_or(StateError::Damaged)?;
    let (taken, rest) = from.split_at_checked(bytes).ok_or(StateError::Damaged)?;
    *from = rest;
    let (numbers, _) = taken.as_chunks();
    Ok(numbers.iter().map(|number| f64::from_le_bytes(*number)).collect())
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], StateError> {
    let (taken, rest) = from.split_first_chunk().ok_or(StateError::Damaged)?;
    *from = rest;
    Ok(*taken)
}

fn take_text<'a>(from: &mut &'a [u8]) -> Result<&'a str, StateError> {
    let length = u32::from_le_bytes(take(from)?) as usize;
    let (taken, rest) = from.split_at_checked(length).ok_or(StateError::Damaged)?;
    *from = rest;
    std::str::from_utf8(taken).map_err(|_| StateError::Damaged)
}
