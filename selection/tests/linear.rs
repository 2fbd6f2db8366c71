//! Regret of the linear policies against reference simulations. Seeds are 0, 1, …, so that a
//! failure can be replayed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::VecDeque, sync::Arc, thread};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, StandardNormal};
use skysail_selection::{
    ArmRecord, DecisionId, DecisionRecord, Label, Outcome, RowRecord,
    policy::{LiveArm, Observation, Policy, SelectionPolicy, Situation},
};

/// What the arms are good for. `reward` and `mean` are of one query and arm.
trait World: Sync {
    fn arms(&self) -> usize;
    fn features(&self) -> usize;
    fn queries(&self) -> usize;
    /// Mean rewards of all arms at a new query's features.
    fn ask(&mut self, features: &mut [f32], means: &mut [f64], rng: &mut dyn Rng);
    fn loss(&self, mean: f64, rng: &mut dyn Rng) -> f64;
}

/// Five arms whose mean rewards are the same for every query.
struct Bernoulli;

impl World for Bernoulli {
    fn arms(&self) -> usize {
        5
    }

    fn features(&self) -> usize {
        0
    }

    fn queries(&self) -> usize {
        10_000
    }

    fn ask(&mut self, _: &mut [f32], means: &mut [f64], _: &mut dyn Rng) {
        means.copy_from_slice(&[0.6, 0.5, 0.5, 0.45, 0.4]);
    }

    fn loss(&self, mean: f64, rng: &mut dyn Rng) -> f64 {
        if rng.random::<f64>() < mean { 0.0 } else { 1.0 }
    }
}

/// Four arms and five features: x and each θ uniform on the unit sphere, rewards θᵀx with normal
/// noise of deviation .3.
#[derive(Default)]
struct Linear {
    theta: Vec<[f64; 5]>,
}

/// The reference's rewards are not bounded. A sixth of them, around ½, lies in [0, 1] but for
/// seven deviations of the noise. The estimates are those of the reference divided by six, so
/// alpha and v are, too, and gamma is multiplied.
const RANGE: f64 = 6.0;

fn on_the_sphere(rng: &mut dyn Rng) -> [f64; 5] {
    let point: [f64; 5] = std::array::from_fn(|_| StandardNormal.sample(rng));
    let length = point.iter().map(|x| x * x).sum::<f64>().sqrt();
    point.map(|x| x / length)
}

impl World for Linear {
    fn arms(&self) -> usize {
        4
    }

    fn features(&self) -> usize {
        5
    }

    fn queries(&self) -> usize {
        5000
    }

    fn ask(&mut self, features: &mut [f32], means: &mut [f64], rng: &mut dyn Rng) {
        while self.theta.len() < means.len() {
            self.theta.push(on_the_sphere(rng));
        }
        let x = on_the_sphere(rng);
        for (feature, x) in features.iter_mut().zip(x) {
            *feature = x as f32;
        }
        for (mean, theta) in means.iter_mut().zip(&self.theta) {
            *mean = theta.iter().zip(x).map(|(theta, x)| theta * x).sum();
        }
    }

    fn loss(&self, mean: f64, rng: &mut dyn Rng) -> f64 {
        let noise: f64 = StandardNormal.sample(rng);
        (0.5 - (mean + 0.3 * noise) / RANGE).clamp(0.0, 1.0)
    }
}

fn record(arms: &[Arc<str>], features: &[f32], q: &[f64]) -> DecisionRecord {
    let arm = |(arm, q): (&Arc<str>, &f64)| ArmRecord {
        arm: Arc::clone(arm),
        version: "1".into(),
        q: *q,
        weight: *q,
        outcome: Outcome::Used,
        labels: Vec::new(),
        scores: Vec::new(),
    };
    DecisionRecord {
        id: DecisionId::from_bytes([0; 28]),
        time_ms: 0,
        application: "app".into(),
        context: "".into(),
        features: features.to_vec(),
        features_kept: None,
        policy: "".into(),
        state_version: 0,
        arms: arms.iter().zip(q).map(arm).collect(),
        shadow: None,
        answer: vec![RowRecord { label: Some(Label::Int(1)), p: 1.0, arm: None, default: false }],
    }
}

/// What the choices of one run lost against the best arm, in expectation. Feedback comes so many
/// queries late.
fn regret<W: World>(
    mut world: W,
    name: &str,
    given: &[(&str, f64)],
    delay: usize,
    seed: u64,
) -> f64 {
    let arms: Vec<Arc<str>> = (0..world.arms()).map(|arm| format!("arm{arm}").into()).collect();
    let given: Vec<_> = given.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    let policy = Policy::new(name, &given, &arms, world.features()).unwrap();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut live: Vec<_> =
        arms.iter().map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 }).collect();
    let (mut features, mut means) = (vec![0.0; world.features()], vec![0.0; arms.len()]);
    let (mut state, mut under_way, mut sum) = (policy.init(), VecDeque::new(), 0.0);
    for _ in 0..world.queries() {
        world.ask(&mut features, &mut means, &mut rng);
        let situation = Situation { arms: &live, features: &features };
        let selection = policy.draw(&state, &situation, &mut rng);
        let arm = selection.chosen[0];
        sum += means.iter().copied().fold(f64::NEG_INFINITY, f64::max) - means[arm];
        let mut losses = vec![None; arms.len()];
        losses[arm] = Some(world.loss(means[arm], &mut rng));
        live[arm].pending += 1;
        under_way.push_back((arm, record(&arms, &features, &selection.q), losses));
        if under_way.len() > delay {
            let (arm, record, losses) = under_way.pop_front().unwrap();
            live[arm].pending -= 1;
            policy.observe(&mut state, &record, 0, Observation::Losses(&losses));
        }
    }
    sum
}

/// The mean over `seeds` runs, on two threads.
fn mean<W: World>(
    world: fn() -> W,
    name: &str,
    given: &[(&str, f64)],
    delay: usize,
    seeds: u64,
) -> f64 {
    let sum: f64 = thread::scope(|scope| {
        let half = |first: u64| {
            let seeds = (first..seeds).step_by(2);
            scope.spawn(move || -> f64 {
                seeds.map(|seed| regret(world(), name, given, delay, seed)).sum()
            })
        };
        let halves = [half(0), half(1)];
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    });
    sum / seeds as f64
}

fn linear(name: &str, parameter: (&str, f64), seeds: u64) -> f64 {
    let given = [parameter, ("intercept", 0.0), ("standardise", 0.0), ("floor", 0.0)];
    mean(Linear::default, name, &given, 0, seeds)
}

fn near(got: f64, want: f64) {
    assert!((got - want).abs() <= 0.15 * want, "mean regret {got}, reference {want} ± 15 %");
}

#[test]
fn linucb_has_the_reference_regret() {
    for (alpha, want) in [(0.3, 22.0), (1.0, 23.0), (0.0, 26.0)] {
        let got = linear("linucb", ("alpha", alpha / RANGE), 60);
        println!("linucb, alpha {alpha}: mean regret {got:.1} over 60 seeds");
        near(got, want);
    }
}

#[test]
fn lin_thompson_has_the_reference_regret() {
    for (v, want) in [(0.3, 35.0), (1.0, 123.0)] {
        let got = linear("lin_thompson", ("v", v / RANGE), 60);
        println!("lin_thompson, v {v}: mean regret {got:.1} over 60 seeds");
        near(got, want);
    }
}

#[test]
fn squarecb_has_the_reference_regret_with_features() {
    for (scale, want) in [(10.0, 59.0), (1.0, 314.0)] {
        let got = linear("squarecb", ("gamma_scale", scale * RANGE), 60);
        println!("squarecb, {scale} √t: mean regret {got:.1} over 60 seeds");
        near(got, want);
    }
}

#[test]
fn squarecb_has_the_reference_regret_without() {
    for (delay, want) in [(0, 88.0), (100, 97.0), (500, 133.0)] {
        let got = mean(|| Bernoulli, "squarecb", &[("floor", 0.0)], delay, 60);
        println!("squarecb, feedback {delay} queries late: mean regret {got:.1} over 60 seeds");
        near(got, want);
    }
}

/// What an operator gets who sets nothing: intercept, standardisation and floor cost little.
#[test]
fn the_defaults_beat_the_uniform_draw_by_far() {
    for name in ["linucb", "lin_thompson", "squarecb"] {
        let got = mean(Linear::default, name, &[], 0, 10);
        println!("{name} as it is: mean regret {got:.1} over 10 seeds; uniform 2303");
        assert!(got < 2303.0 / 4.0, "{name}: mean regret {got}");
    }
}
