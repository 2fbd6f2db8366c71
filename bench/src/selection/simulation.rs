//! The product's policies and its combination of answers over a recording, without a network: many
//! trials of many queries.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::SmallRng};
use rand_distr::{Distribution as _, Exp1};
use skysail_proto::{DataType, Tensor, TensorSpec};
use skysail_selection::{
    Application, Arm, ArmRecord, DecisionId, DecisionRecord, Label, Loss, Outcome, Task,
    combine::{ArmAnswer, Chosen, Combiner, Got},
    policy::{LiveArm, Observation, Policy, SelectionPolicy, Situation},
};

use crate::{recorded::Recorded, replay};

/// A policy by name, with parameters.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// In tables and charts.
    pub title: &'static str,
    pub policy: &'static str,
    pub parameters: &'static [(&'static str, f64)],
}

/// When the best model answers at random, and whose answers are late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    /// Queries in all.
    pub queries: usize,
    /// The best model is broken from here
    pub broken_at: usize,
    /// to here.
    pub mended_at: usize,
    /// The worst model is late with this probability.
    pub late: f64,
}

/// One model's answer, as the combiner reads it.
struct Answer {
    read: ArmAnswer,
    tensors: Vec<Tensor>,
}

/// Everything that does not change from trial to trial.
pub(super) struct Simulation<'a> {
    recorded: &'a Recorded,
    combiner: Combiner,
    names: Vec<Arc<str>>,
    /// By row and model.
    answers: Vec<Answer>,
    /// What a broken model says.
    random: Vec<Answer>,
    best: usize,
    worst: usize,
}

/// What a broken model says is drawn from so many answers.
const RANDOM: usize = 4096;

/// One trial.
pub(super) struct Trial {
    /// By query.
    pub right: Vec<bool>,
    /// The weights at the end, by model.
    pub weights: Vec<f64>,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(recorded: &'a Recorded, seed: u64) -> anyhow::Result<Self> {
        let names: Vec<Arc<str>> =
            recorded.models.iter().map(|name| Arc::from(name.as_str())).collect();
        let combiner = Combiner::new(Arc::new(application(recorded, &names)));
        let answer = |scores: &[f32]| {
            let bytes: Vec<u8> = scores.iter().flat_map(|score| score.to_le_bytes()).collect();
            let shape = [1, scores.len() as i64];
            let tensors = vec![Tensor::new(replay::OUTPUT, DataType::Fp32, shape, bytes)?];
            let read = combiner.read(&tensors, 1).map_err(anyhow::Error::msg)?;
            anyhow::Ok(Answer { read, tensors })
        };
        let models = recorded.models.len();
        let mut answers = Vec::with_capacity(recorded.rows() * models);
        for row in 0..recorded.rows() {
            for model in 0..models {
                answers.push(answer(recorded.scores(row, model))?);
            }
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut random = Vec::with_capacity(RANDOM);
        for _ in 0..RANDOM {
            // Normalised exponentials are Dirichlet.
            let draws = (0..recorded.classes).map(|_| Exp1.sample(&mut rng));
            let draws: Vec<f32> = draws.collect();
            let sum: f32 = draws.iter().sum();
            random.push(answer(&draws.iter().map(|draw| draw / sum).collect::<Vec<_>>())?);
        }
        let ranked = recorded.ranked();
        let best = *ranked.first().context("there is no model")?;
        let worst = *ranked.last().context("there is no model")?;
        Ok(Self { recorded, combiner, names, answers, random, best, worst })
    }

    /// The model that breaks.
    pub(super) fn best(&self) -> usize {
        self.best
    }

    /// The model that is late.
    pub(super) fn worst(&self) -> usize {
        self.worst
    }

    fn answer(&self, row: usize, model: usize, broken: bool, rng: &mut SmallRng) -> &Answer {
        if broken && model == self.best {
            &self.random[rng.random_range(0..RANDOM)]
        } else {
            &self.answers[row * self.recorded.models.len() + model]
        }
    }

    /// One model alone.
    pub(super) fn alone(&self, model: usize, course: &Course, seed: u64) -> Vec<bool> {
        self.each(course, seed, |row, broken, rng| self.label(row, model, broken, rng))
    }

    /// Every model has one vote.
    pub(super) fn vote(&self, course: &Course, seed: u64) -> Vec<bool> {
        self.each(course, seed, |row, broken, rng| {
            let mut votes = vec![0; self.recorded.classes];
            for model in 0..self.names.len() {
                if let Some(class) = self.label(row, model, broken, rng) {
                    votes[class] += 1;
                }
            }
            // The first of equals.
            let most = votes.iter().max()?;
            votes.iter().position(|votes| votes == most)
        })
    }

    fn label(&self, row: usize, model: usize, broken: bool, rng: &mut SmallRng) -> Option<usize> {
        match self.answer(row, model, broken, rng).read.labels().into_iter().next().flatten()? {
            Label::Int(class) => usize::try_from(class).ok(),
            _ => None,
        }
    }

    fn each(
        &self,
        course: &Course,
        seed: u64,
        says: impl Fn(usize, bool, &mut SmallRng) -> Option<usize>,
    ) -> Vec<bool> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let query = |place: usize| {
            let row = rng.random_range(0..self.recorded.rows());
            let broken = (course.broken_at..course.mended_at).contains(&place);
            says(row, broken, &mut rng) == Some(self.recorded.targets[row])
        };
        (0..course.queries).map(query).collect()
    }

    /// A policy, with feedback at once.
    ///
    /// # Errors
    ///
    /// There is no such policy.
    pub(super) fn policy(
        &self,
        named: &Named,
        course: &Course,
        seed: u64,
    ) -> anyhow::Result<Trial> {
        let parameters: Vec<_> =
            named.parameters.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let policy = Policy::new(named.policy, &parameters, &self.names, 0)?;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut state = policy.init();
        let mut right = Vec::with_capacity(course.queries);
        let mut availability = vec![1.0; self.names.len()];
        for place in 0..course.queries {
            let row = rng.random_range(0..self.recorded.rows());
            let broken = (course.broken_at..course.mended_at).contains(&place);
            let arms = self.arms(&availability);
            let situation = Situation { arms: &arms, features: &[] };
            let selection = policy.draw(&state, &situation, &mut rng);
            let mut heard = Vec::with_capacity(selection.chosen.len());
            for model in &selection.chosen {
                let answer = self.answer(row, *model, broken, &mut rng);
                let late =
                    *model == self.worst && course.late > 0.0 && rng.random_bool(course.late);
                let share = &mut availability[*model];
                *share += AVAILABILITY_RATE * (if late { 0.0 } else { 1.0 } - *share);
                if !late {
                    heard.push((*model, answer));
                }
            }
            let got: Vec<_> = heard
                .iter()
                .map(|(model, answer)| Got {
                    arm: *model,
                    weight: selection.weights[*model],
                    answer: &answer.read,
                    tensors: &answer.tensors,
                })
                .collect();
            let chosen = Chosen {
                arms: selection.chosen.len(),
                weight: selection.chosen.iter().map(|model| selection.weights[*model]).sum(),
            };
            let draws = policy.draws_answer().then_some(&mut rng as &mut dyn Rng);
            let combined = self.combiner.combine(1, &got, chosen, draws);
            let truth = Label::Int(self.recorded.targets[row] as i64);
            right.push(combined.answers.first().is_some_and(|a| a.label.as_ref() == Some(&truth)));
            let arm = |(model, name): (usize, &Arc<str>)| {
                let answer = heard.iter().find(|(heard, _)| *heard == model);
                ArmRecord {
                    arm: Arc::clone(name),
                    version: Arc::default(),
                    q: selection.q[model],
                    weight: selection.weights[model],
                    outcome: match (answer, selection.chosen.contains(&model)) {
                        (Some(_), _) => Outcome::Used,
                        (None, true) => Outcome::Late,
                        (None, false) => Outcome::NotAsked,
                    },
                    labels: answer.map(|(_, answer)| answer.read.labels()).unwrap_or_default(),
                    scores: Vec::new(),
                }
            };
            let record = DecisionRecord {
                id: DecisionId::from_bytes([0; 28]),
                time_ms: 0,
                application: Arc::default(),
                context: Arc::default(),
                features: Vec::new(),
                features_kept: None,
                policy: policy.name().into(),
                state_version: 0,
                arms: self.names.iter().enumerate().map(arm).collect(),
                shadow: None,
                answer: combined.answers,
            };
            let losses = self.combiner.losses(&record, 0, &truth).by_arm;
            policy.observe(&mut state, &record, 0, Observation::Losses(&losses));
        }
        let weights = policy.weights(&state, &self.arms(&availability));
        Ok(Trial { right, weights })
    }

    /// By row: whether the answer of all models with these weights is right, and how many of them
    /// say the same.
    pub(super) fn agreement(&self, weights: &[f64]) -> Vec<(bool, usize)> {
        let models = self.names.len();
        let chosen = Chosen { arms: models, weight: weights.iter().sum() };
        let row = |(answers, target): (&[Answer], &usize)| {
            let got: Vec<_> = answers
                .iter()
                .zip(weights)
                .enumerate()
                .map(|(arm, (answer, weight))| Got {
                    arm,
                    weight: *weight,
                    answer: &answer.read,
                    tensors: &answer.tensors,
                })
                .collect();
            let combined = self.combiner.combine(1, &got, chosen, None);
            let said = combined.answers.into_iter().next().and_then(|answer| answer.label);
            let same = |answer: &&Answer| answer.read.labels().into_iter().next().flatten() == said;
            let right = said == Some(Label::Int(*target as i64));
            (right, answers.iter().filter(same).count())
        };
        self.answers.chunks(models.max(1)).zip(&self.recorded.targets).map(row).collect()
    }

    fn arms<'b>(&'b self, availability: &[f64]) -> Vec<LiveArm<'b>> {
        let arm = |(arm, availability): (&'b Arc<str>, &f64)| LiveArm {
            arm,
            live: true,
            availability: *availability,
            pending: 0,
        };
        self.names.iter().zip(availability).map(arm).collect()
    }
}

/// As in the service: an average over the last hundred or so times an arm was asked.
const AVAILABILITY_RATE: f64 = 0.02;

fn application(recorded: &Recorded, names: &[Arc<str>]) -> Application {
    let arm =
        |name: &Arc<str>| Arm { name: Arc::clone(name), inputs: Vec::new(), outputs: Vec::new() };
    Application {
        name: "recorded".into(),
        inputs: Vec::new(),
        outputs: vec![TensorSpec {
            name: replay::OUTPUT.into(),
            datatype: DataType::Fp32,
            shape: vec![-1, recorded.classes as i64],
        }],
        objective: Duration::from_millis(20),
        slack: Duration::from_millis(1),
        task: Task::Classification,
        label_output: None,
        scores_output: Some(replay::OUTPUT.into()),
        class_labels: Vec::new(),
        loss: Loss::ZeroOne,
        loss_cap: 1.0,
        policy_name: "static".into(),
        policy_parameters: Vec::new(),
        shadow: None,
        confidence_threshold: 0.0,
        default_output: Vec::new(),
        arms: names.iter().map(arm).collect(),
        max_age: None,
        feedback_window: Duration::from_secs(1),
        context_features_dim: 0,
    }
}

/// Microseconds of processor per draw over `arms` arms, a warm state behind them.
///
/// # Errors
///
/// There is no such policy.
pub(super) fn draw_us(
    policy: &str,
    parameters: &[(String, f64)],
    arms: usize,
    features: usize,
    draws: usize,
) -> anyhow::Result<f64> {
    let names: Vec<Arc<str>> = (0..arms).map(|arm| format!("arm{arm}").into()).collect();
    let policy = Policy::new(policy, parameters, &names, features)?;
    let mut rng = SmallRng::seed_from_u64(1);
    let live: Vec<_> = names
        .iter()
        .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
        .collect();
    let mut state = policy.init();
    let mut x = vec![0.0_f32; features];
    let fill = |x: &mut [f32], rng: &mut SmallRng| {
        x.iter_mut().for_each(|x| *x = rng.random_range(-1.0..1.0));
    };
    for _ in 0..500 {
        fill(&mut x, &mut rng);
        let record = record(&names, &policy, &state, &live, &x, &mut rng);
        let losses: Vec<_> = record
            .arms
            .iter()
            .map(|arm| (arm.outcome == Outcome::Used).then(|| rng.random_range(0.0..1.0)))
            .collect();
        policy.observe(&mut state, &record, 0, Observation::Losses(&losses));
    }
    let prepared = policy.prepare(&state, &live);
    let start = std::time::Instant::now();
    for _ in 0..draws {
        fill(&mut x, &mut rng);
        let situation = Situation { arms: &live, features: &x };
        std::hint::black_box(policy.select(&state, &prepared, &situation, &mut rng));
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / draws as f64)
}

fn record(
    names: &[Arc<str>],
    policy: &Policy,
    state: &skysail_selection::policy::State,
    live: &[LiveArm<'_>],
    features: &[f32],
    rng: &mut dyn Rng,
) -> DecisionRecord {
    let selection = policy.draw(state, &Situation { arms: live, features }, rng);
    let arm = |(place, name): (usize, &Arc<str>)| {
        let asked = selection.chosen.contains(&place);
        ArmRecord {
            arm: Arc::clone(name),
            version: Arc::default(),
            q: selection.q[place],
            weight: selection.weights[place],
            outcome: if asked { Outcome::Used } else { Outcome::NotAsked },
            labels: if asked { vec![Some(Label::Int(0))] } else { Vec::new() },
            scores: Vec::new(),
        }
    };
    DecisionRecord {
        id: DecisionId::from_bytes([0; 28]),
        time_ms: 0,
        application: Arc::default(),
        context: Arc::default(),
        features: features.to_vec(),
        features_kept: None,
        policy: policy.name().into(),
        state_version: 0,
        arms: names.iter().enumerate().map(arm).collect(),
        shadow: None,
        answer: vec![skysail_selection::RowRecord {
            label: Some(Label::Int(0)),
            p: 1.0,
            arm: None,
            default: false,
        }],
    }
}
