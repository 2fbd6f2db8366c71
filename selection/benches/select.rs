//! What a draw costs with its distribution prepared, and what preparing and learning cost.
//!
//! `cargo bench -p skysail-selection`

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use skysail_selection::{
    ArmRecord, DecisionId, DecisionRecord, Label, Outcome, RowRecord,
    policy::{LiveArm, Observation, Policy, SelectionPolicy, Situation, State},
};

const ARMS: usize = 8;

/// Rows learned before anything is measured.
const ROWS: usize = 400;

/// Policies, and the numbers of features with which each is measured.
const POLICIES: [(&str, &[usize]); 9] = [
    ("epsilon_greedy", &[0]),
    ("ucb1", &[0]),
    ("thompson", &[0]),
    ("exp4", &[0]),
    ("exp3", &[0]),
    ("hedge", &[0]),
    ("squarecb", &[0, 16, 64]),
    ("linucb", &[16, 64, 128]),
    ("lin_thompson", &[16, 64]),
];

fn record(arms: &[Arc<str>], features: usize) -> DecisionRecord {
    let arm = |arm: &Arc<str>| ArmRecord {
        arm: Arc::clone(arm),
        version: "1".into(),
        q: 1.0 / ARMS as f64,
        weight: 1.0 / ARMS as f64,
        outcome: Outcome::Used,
        labels: Vec::new(),
        scores: Vec::new(),
    };
    DecisionRecord {
        id: DecisionId::from_bytes([0; 28]),
        time_ms: 0,
        application: "app".into(),
        context: "".into(),
        features: vec![0.0; features],
        features_kept: None,
        policy: "".into(),
        state_version: 0,
        arms: arms.iter().map(arm).collect(),
        shadow: None,
        answer: vec![RowRecord { label: Some(Label::Int(1)), p: 1.0, arm: None, default: false }],
    }
}

/// One row: arms are better the nearer their place is to the first feature.
fn learn(policy: &Policy, state: &mut State, record: &mut DecisionRecord, rng: &mut SmallRng) {
    for feature in &mut record.features {
        *feature = rng.random();
    }
    let x = record.features.first().map_or(0.3, |x| f64::from(*x));
    let arm = rng.random_range(0..ARMS);
    let mut losses = [None; ARMS];
    losses[arm] = Some((x - arm as f64 / ARMS as f64).abs());
    policy.observe(state, record, 0, Observation::Losses(&losses));
}

fn select(criterion: &mut Criterion) {
    let names: Vec<Arc<str>> = (0..ARMS).map(|arm| format!("arm{arm}").into()).collect();
    let arms: Vec<_> = names
        .iter()
        .map(|arm| LiveArm { arm, live: true, availability: 1.0, pending: 0 })
        .collect();
    for (name, features) in
        POLICIES.iter().flat_map(|(name, all)| all.iter().map(move |f| (*name, *f)))
    {
        let policy = Policy::new(name, &[], &names, features).expect("it has that policy");
        let mut rng = SmallRng::seed_from_u64(1);
        let (mut state, mut record) = (policy.init(), record(&names, features));
        for _ in 0..ROWS {
            learn(&policy, &mut state, &mut record, &mut rng);
        }
        let prepared = policy.prepare(&state, &arms);
        let situation = Situation { arms: &arms, features: &record.features.clone() };
        let label = format!("{name}, {features} features");
        criterion.bench_with_input(BenchmarkId::new("select", &label), &state, |bench, state| {
            bench.iter(|| black_box(policy.select(state, &prepared, &situation, &mut rng)));
        });
        criterion.bench_with_input(BenchmarkId::new("prepare", &label), &state, |bench, state| {
            bench.iter(|| black_box(policy.prepare(state, &arms)));
        });
        criterion.bench_with_input(BenchmarkId::new("observe", &label), &state, |bench, state| {
            let mut state = state.clone();
            let mut rng = SmallRng::seed_from_u64(2);
            bench.iter(|| learn(&policy, &mut state, &mut record, &mut rng));
        });
    }
}

criterion_group!(benches, select);
criterion_main!(benches);
