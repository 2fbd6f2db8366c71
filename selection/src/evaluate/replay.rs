//! A target policy in the log, decision by decision.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use rand::{SeedableRng, rngs::SmallRng};

use super::{
    Options, Refusal, Rows, Target, Term,
    estimate::LEAST_AGREEMENT,
    history::{Event, History, Known, Truth},
    judge::{Judge, Sight, asked},
    model::RewardModel,
};
use crate::{
    DecisionRecord, Label, Outcome,
    policy::{LiveArm, Observation, Policy, Prepared, SelectionPolicy, Situation, State},
    service::Availability,
};

/// A sum of probabilities above 1 by more than this is no rounding: several arms are asked.
const ROUNDING: f64 = 1e-9;

/// What the target would have done in one decision.
#[derive(Debug)]
enum Plan {
    /// Ask one arm, with these probabilities by the place in the record.
    Single(Vec<f64>),
    /// Ask these and combine them.
    Several { chosen: Vec<usize>, weights: Vec<f64> },
}

/// A state, and what was prepared for it.
#[derive(Debug)]
struct Learned {
    state: State,
    /// For these live arms.
    prepared: Option<(Vec<bool>, Prepared)>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) rows: Rows,
    /// By the place in the history's arms: probability without a chance, summed over rows.
    hidden: Vec<(Arc<str>, f64)>,
    /// Rows for which it combines arms; of those, rows where not all of them were asked for
    /// certain, and rows with a bare reward.
    combining: usize,
    not_all_asked: usize,
    without_label: usize,
}

/// Rows that a target asked and that have no feedback yet, by arm.
#[derive(Debug, Default)]
struct Pending {
    rows: Vec<u64>,
    /// By decision: what was asked of whom, in the order of time.
    waiting: VecDeque<(u64, usize)>,
    asked: HashMap<usize, (Vec<usize>, u64)>,
}

struct Player<'a> {
    history: &'a History,
    judge: &'a Judge,
    models: &'a RewardModel,
    policy: &'a Policy,
    options: &'a Options,
    /// The application's own.
    own: Learned,
    contexts: HashMap<Arc<str>, Learned>,
    availability: Availability,
    /// By context; empty for policies that do not look at it.
    pending: HashMap<Arc<str>, Pending>,
    plans: HashMap<usize, Plan>,
    replay: Replay,
}

impl Replay {
    pub(super) fn run(
        history: &History,
        judge: &Judge,
        models: &RewardModel,
        target: &Target,
        options: &Options,
    ) -> Self {
        let policy = &target.policy;
        let mut player = Player {
            history,
            judge,
            models,
            policy,
            options,
            own: Learned::new(policy.init()),
            contexts: HashMap::new(),
            availability: Availability::new(history.arms().len()),
            pending: HashMap::new(),
            plans: HashMap::new(),
            replay: Self {
                rows: Rows::new(options.clip),
                hidden: history.arms().iter().map(|arm| (Arc::clone(arm), 0.0)).collect(),
                combining: 0,
                not_all_asked: 0,
                without_label: 0,
            },
        };
        for event in history.events() {
            match *event {
                Event::Decision(place) => player.decide(place),
                // Judged first: the plan is of before, and what it learns comes after.
                Event::Truth(place) => player.judge(&history.truths()[place]),
                Event::Input(place) => {
                    let (record, label) = history.input(place);
                    player.learn(record, 0, &Known::Label(label.clone()));
                }
            }
        }
        player.replay
    }

    /// The arm that lacked most chance, and the share of the target's probability that lay on
    /// arms without any.
    pub(super) fn uncovered(&self) -> Option<(String, f64)> {
        let rows = self.rows.len();
        let all: f64 = self.hidden.iter().map(|(_, share)| share).sum();
        let most = self.hidden.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (rows > 0 && all > 0.0).then(|| (most.0.to_string(), all / rows as f64))
    }

    /// Why a target that combines cannot be judged.
    pub(super) fn refusal(&self, history: &History, judge: &Judge) -> Option<Refusal> {
        if self.combining == 0 {
            return None;
        }
        if self.without_label > 0 {
            return Some(Refusal::NeedsLabels);
        }
        if self.not_all_asked > 0 {
            let share = self.not_all_asked as f64 / self.combining as f64;
            return Some(Refusal::NotAllAsked { share });
        }
        let agreement = judge.reproduces(history.decisions())?;
        (agreement < LEAST_AGREEMENT).then_some(Refusal::NotReproduced { agreement })
    }
}

impl Learned {
    fn new(state: State) -> Self {
        Self { state, prepared: None }
    }

    fn observe(
        &mut self,
        policy: &Policy,
        record: &DecisionRecord,
        row: usize,
        observation: Observation<'_>,
    ) {
        policy.observe(&mut self.state, record, row, observation);
        self.prepared = None;
    }
}

impl Player<'_> {
    fn decide(&mut self, place: usize) {
        let record = &self.history.decisions()[place];
        let places: Vec<Option<usize>> =
            record.arms.iter().map(|arm| self.history.place(&arm.arm)).collect();
        let pending = self.pending_of(record, &places);
        let arms: Vec<LiveArm<'_>> = record
            .arms
            .iter()
            .zip(&places)
            .zip(pending)
            .map(|((arm, place), pending)| LiveArm {
                arm: &arm.arm,
                live: arm.outcome != Outcome::Masked,
                availability: place.map_or(1.0, |place| self.availability.of(place)),
                pending,
            })
            .collect();
        let expected = self.history.features();
        let features = Some(record.features.as_slice()).filter(|f| f.len() == expected);
        let situation = Situation { arms: &arms, features: features.unwrap_or_default() };
        let learned = self.contexts.get_mut(&record.context).unwrap_or(&mut self.own);
        let live: Vec<bool> = arms.iter().map(|arm| arm.live).collect();
        if learned.prepared.as_ref().is_none_or(|(of, _)| *of != live) {
            learned.prepared = Some((live, self.policy.prepare(&learned.state, &arms)));
        }
        let none = Prepared::default();
        let prepared = learned.prepared.as_ref().map_or(&none, |(_, prepared)| prepared);
        let mut rng = generator(self.options.seed, record);
        let selection = self.policy.select(&learned.state, prepared, &situation, &mut rng);
        for at in asked(record) {
            if let Some(place) = places[at] {
                let in_time = record.arms[at].outcome == Outcome::Used;
                self.availability.asked(place, in_time);
            }
        }
        self.wait(place, &selection.chosen, &places);
        let plan = if selection.q.iter().sum::<f64>() > 1.0 + ROUNDING {
            Plan::Several { chosen: selection.chosen, weights: selection.weights }
        } else {
            Plan::Single(selection.q)
        };
        self.plans.insert(place, plan);
    }

    fn judge(&mut self, truth: &Truth) {
        let record = &self.history.decisions()[truth.decision];
        if let Some(plan) = self.plans.get(&truth.decision) {
            match plan {
                Plan::Single(pi) => single(
                    &mut self.replay,
                    self.history,
                    self.models,
                    truth,
                    pi,
                    &self.judge.see(record, truth),
                ),
                Plan::Several { chosen, weights } => {
                    let draws = self.policy.draws_answer();
                    several(&mut self.replay, self.judge, record, truth, chosen, weights, draws);
                }
            }
        }
        if let Some(pending) = self.pending.get_mut(&record.context) {
            pending.settle(truth.decision);
        }
        self.learn(record, truth.row, &truth.value);
    }

    /// As the service does: into the context first, and then into the application.
    fn learn(&mut self, record: &DecisionRecord, row: usize, known: &Known) {
        let losses;
        let observation = match known {
            Known::Label(label) => {
                losses = self.judge.losses(record, row, label);
                Observation::Losses(&losses)
            }
            Known::Reward(reward) if self.policy.takes_rewards() => Observation::Reward(*reward),
            Known::Reward(_) => return,
        };
        if !record.context.is_empty() {
            let prior = || Learned::new(self.policy.prior(&self.own.state));
            let context = self.contexts.entry(Arc::clone(&record.context)).or_insert_with(prior);
            context.observe(self.policy, record, row, observation);
        }
        self.own.observe(self.policy, record, row, observation);
    }

    /// By the place in the record.
    fn pending_of(&mut self, record: &DecisionRecord, places: &[Option<usize>]) -> Vec<u64> {
        if !self.policy.counts_pending() {
            return vec![0; places.len()];
        }
        let arms = self.history.arms().len();
        let pending = self.pending.entry(Arc::clone(&record.context)).or_default();
        pending.rows.resize(arms, 0);
        pending.forget(record.time_ms.saturating_sub(self.options.window_ms));
        places.iter().map(|place| place.map_or(0, |place| pending.rows[place])).collect()
    }

    fn wait(&mut self, decision: usize, chosen: &[usize], places: &[Option<usize>]) {
        let record = &self.history.decisions()[decision];
        if !self.policy.counts_pending() {
            return;
        }
        if let Some(pending) = self.pending.get_mut(&record.context) {
            let asked: Vec<usize> = chosen.iter().filter_map(|at| places[*at]).collect();
            let rows = record.answer.len() as u64;
            for arm in &asked {
                pending.rows[*arm] += rows;
            }
            pending.waiting.push_back((record.time_ms, decision));
            pending.asked.insert(decision, (asked, rows));
        }
    }
}

impl Pending {
    /// One row of a decision has its feedback.
    fn settle(&mut self, decision: usize) {
        let Some((arms, rows)) = self.asked.get_mut(&decision) else { return };
        *rows = rows.saturating_sub(1);
        for arm in arms.iter() {
            self.rows[*arm] = self.rows[*arm].saturating_sub(1);
        }
        if *rows == 0 {
            self.asked.remove(&decision);
        }
    }

    /// What was asked before that time no longer counts.
    fn forget(&mut self, before_ms: u64) {
        while let Some((_, decision)) = self.waiting.pop_front_if(|(time, _)| *time < before_ms) {
            let Some((arms, rows)) = self.asked.remove(&decision) else { continue };
            for arm in arms {
                self.rows[arm] = self.rows[arm].saturating_sub(rows);
            }
        }
    }
}

/// The same for the same seed and decision.
fn generator(seed: u64, record: &DecisionRecord) -> SmallRng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(record.id.as_bytes());
    let mut short = [0; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    SmallRng::seed_from_u64(u64::from_le_bytes(short))
}

/// A row of a target that asks one arm.
fn single(
    replay: &mut Replay,
    history: &History,
    models: &RewardModel,
    truth: &Truth,
    pi: &[f64],
    sights: &[Sight],
) {
    let record = &history.decisions()[truth.decision];
    let (mut model, mut terms) = (0.0, Vec::new());
    for ((arm, pi), sight) in
        record.arms.iter().zip(pi).zip(sights).filter(|((_, pi), _)| **pi > 0.0)
    {
        let place = history.place(&arm.arm);
        let predicted =
            place.map_or(0.0, |place| models.predict(truth.decision, place, &record.features));
        model += pi * predicted;
        match *sight {
            Sight::Seen { reward, probability } => {
                terms.push(Term { weight: pi / probability, reward, predicted });
            }
            Sight::Unseen => {}
            Sight::Hidden => {
                if let Some(place) = place {
                    replay.hidden[place].1 += pi;
                }
            }
        }
    }
    // Where it asks nobody, the client gets the default: known, and earns nothing.
    let nobody = 1.0 - pi.iter().sum::<f64>();
    if nobody > ROUNDING {
        terms.push(Term { weight: nobody, reward: 0.0, predicted: 0.0 });
    }
    replay.rows.push(truth.decision, Some(model), &terms);
}

/// A row of a target that asks several and combines them.
fn several(
    replay: &mut Replay,
    judge: &Judge,
    record: &DecisionRecord,
    truth: &Truth,
    chosen: &[usize],
    weights: &[f64],
    draws: bool,
) {
    replay.combining += 1;
    let label: &Label = match &truth.value {
        Known::Label(label) => label,
        Known::Reward(_) => {
            replay.without_label += 1;
            return;
        }
    };
    if chosen.iter().any(|place| record.arms[*place].q < 1.0 - ROUNDING) {
        replay.not_all_asked += 1;
        return;
    }
    let reward = if draws {
        judge.drawn(record, truth.row, label, chosen, weights)
    } else {
        judge.combined(record, truth.row, label, chosen, weights)
    };
    replay.rows.push(truth.decision, None, &[Term { weight: 1.0, reward, predicted: 0.0 }]);
}
