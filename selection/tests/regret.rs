//! Regret against the reference values of facts/algorithms.md 5.4: five arms with mean rewards
//! .6, .5, .5, .45, .4 and 10,000 queries. Seeds are 0, 1, …, so that a failure can be replayed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, thread};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use skysail_selection::{
    ArmRecord, DecisionId, DecisionRecord, Label, Outcome, RowRecord,
    policy::{LiveArm, Observation, Policy, SelectionPolicy, Situation},
};

const MEANS: [f64; 5] = [0.6, 0.5, 0.5, 0.45, 0.4];
const QUERIES: usize = 10_000;
const SEEDS: u64 = 60;

fn arms() -> Vec<Arc<str>> {
    (0..MEANS.len()).map(|arm| format!("arm{arm}").into()).collect()
}

fn policy(name: &str, parameters: &[(&str, f64)]) -> Policy {
    let parameters: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect();
    Policy::new(name, &parameters, &arms(), 0).expect("the tests know the parameters")
}

fn record(arms: &[Arc<str>]) -> DecisionRecord {
    let arm = |arm: &Arc<str>| ArmRecord {
        arm: Arc::clone(arm),
        version: "1".into(),
        q: 0.0,
        weight: 0.0,
        outcome: Outcome::NotAsked,
        labels: Vec::new(),
        scores: Vec::new(),
    };
    DecisionRecord {
        id: DecisionId::from_bytes([0; 28]),
        time_ms: 0,
        application: "app".into(),
        context: "".into(),
        features: Vec::new(),
        policy: "".into(),
        state_version: 0,
        arms: arms.iter().map(arm).collect(),
        shadow: None,
        answer: vec![RowRecord { label: Some(Label::Int(1)), p: 1.0, arm: None, default: false }],
    }
}

/// Losses of one query, and what the policy's choice was expected to lose against the best arm.
type Draw<'a> = dyn Fn(usize, &mut dyn Rng) -> [f64; 5] + Sync + 'a;

fn run(policy: &Policy, seed: u64, draw: &Draw<'_>, regret: &mut dyn FnMut(&[f64], &[f64; 5])) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let names = arms();
    let live: Vec<_> = names
        .iter()
        .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
        .collect();
    let mut record = record(&names);
    let mut state = policy.init();
    for query in 0..QUERIES {
        let situation = Situation { arms: &live, features: &[] };
        let selection = policy.draw(&state, &situation, &mut rng);
        let losses = draw(query, &mut rng);
        // A single-arm policy pays for the arm that it drew, hedge for its weights.
        let mut played = vec![0.0; 5];
        match selection.chosen[..] {
            [arm] => played[arm] = 1.0,
            _ => played.clone_from(&selection.weights),
        }
        regret(&played, &losses);
        let mut seen = [None; 5];
        for arm in &selection.chosen {
            seen[*arm] = Some(losses[*arm]);
        }
        for (arm, q) in record.arms.iter_mut().zip(&selection.q) {
            arm.q = *q;
        }
        policy.observe(&mut state, &record, 0, Observation::Losses(&seen));
    }
}

fn bernoulli(_: usize, rng: &mut dyn Rng) -> [f64; 5] {
    MEANS.map(|mean| if rng.random::<f64>() < mean { 0.0 } else { 1.0 })
}

/// Σ of the played arms' gaps, one per seed.
fn pseudo_regrets(policy: &Policy) -> Vec<f64> {
    thread::scope(|scope| {
        let half = |seeds: std::ops::Range<u64>| {
            scope.spawn(move || {
                let one = |seed| {
                    let mut sum = 0.0;
                    let mut add = |played: &[f64], _: &[f64; 5]| {
                        sum += played.iter().zip(MEANS).map(|(p, m)| p * (0.6 - m)).sum::<f64>();
                    };
                    run(policy, seed, &bernoulli, &mut add);
                    sum
                };
                seeds.map(one).collect::<Vec<_>>()
            })
        };
        let halves = [half(0..SEEDS / 2), half(SEEDS / 2..SEEDS)];
        halves.into_iter().flat_map(|half| half.join().expect("the run ends")).collect()
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn exp3_has_the_reference_regret() {
    let (arms, queries) = (5.0_f64, QUERIES as f64);
    let eta = (2.0 * arms.ln() / (queries * arms)).sqrt();
    let regrets = pseudo_regrets(&policy("exp3", &[("eta", eta), ("floor", 0.0)]));
    let mean = mean(&regrets);
    println!("exp3: mean regret {mean:.1} over {SEEDS} seeds");
    assert!((mean - 252.0).abs() <= 0.15 * 252.0, "mean regret {mean}, reference 252 ± 15 %");
    assert!(mean <= (2.0 * queries * arms * arms.ln()).sqrt(), "the bound is 401");
}

#[test]
fn hedge_has_the_reference_regret() {
    let regrets = pseudo_regrets(&hedge());
    let (mean, most) = (mean(&regrets), regrets.iter().copied().fold(0.0, f64::max));
    println!("hedge: mean regret {mean:.1}, largest {most:.1} over {SEEDS} seeds");
    assert!((mean - 47.2).abs() <= 0.15 * 47.2, "mean regret {mean}, reference 47.2 ± 15 %");
    assert!(most <= bound(), "a run with regret {most}; the bound is {}", bound());
}

/// The bound holds in each run and for every sequence, so for one that punishes the leader too.
#[test]
fn hedge_keeps_its_bound_against_an_adversary() {
    let adversary = |query: usize, _: &mut dyn Rng| {
        let phase = query / 500 % 5;
        std::array::from_fn(|arm| if arm == phase { 1.0 } else { 0.5 * (query % 2) as f64 })
    };
    for seed in 0..3 {
        let (mut paid, mut total) = (0.0, [0.0; 5]);
        let mut add = |played: &[f64], losses: &[f64; 5]| {
            paid += played.iter().zip(losses).map(|(p, l)| p * l).sum::<f64>();
            for (total, loss) in total.iter_mut().zip(losses) {
                *total += loss;
            }
        };
        run(&hedge(), seed, &adversary, &mut add);
        let regret = paid - total.iter().copied().fold(f64::INFINITY, f64::min);
        assert!(regret <= bound(), "seed {seed}: regret {regret}; the bound is {}", bound());
    }
}

fn hedge() -> Policy {
    let eta = (8.0 * 5.0_f64.ln() / QUERIES as f64).sqrt();
    policy("hedge", &[("eta", eta), ("share", 0.0)])
}

/// √(T ln K / 2) = 89.7.
fn bound() -> f64 {
    (QUERIES as f64 * 5.0_f64.ln() / 2.0).sqrt()
}
