use proptest::prelude::*;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution as _, StandardNormal};

use super::*;

fn scores(scores: &[(f64, f64)]) -> Vec<Score> {
    scores.iter().map(|(mean, deviation)| Score { mean: *mean, deviation: *deviation }).collect()
}

fn below(score: Score, t: f64) -> f64 {
    Distribution::new(score).below(&TABLE, t)
}

/// For two scores the probability is known: that of their difference, which is normal.
fn of_two([(m0, s0), (m1, s1)]: [(f64, f64); 2]) -> f64 {
    below(Score { mean: 0.0, deviation: s0.hypot(s1) }, m0 - m1)
}

#[test]
fn the_distribution_function_has_the_values_of_the_tables() {
    let standard = Score { mean: 0.0, deviation: 1.0 };
    let table = [(0.0, 0.5), (1.0, 0.841_344_746), (-1.959_963_985, 0.025), (3.0, 0.998_650_102)];
    for (t, want) in table {
        let got = below(standard, t);
        assert!((got - want).abs() < 2e-6, "at {t}: {got}");
    }
    assert_eq!((below(standard, f64::INFINITY), below(standard, -50.0)), (1.0, 0.0));
    assert!(TABLE.is_sorted(), "a distribution function does not fall");
}

#[test]
fn two_scores_have_the_known_probability() {
    for pair in [
        [(0.0, 1.0), (0.0, 1.0)],
        [(0.0, 1.0), (0.3, 0.001)],
        [(0.5, 0.2), (0.4, 0.3)],
        [(0.0, 1e-8), (1.0, 1.0)],
        [(-2.0, 1.0), (2.0, 1.0)],
        [(1e6, 10.0), (1e6 + 5.0, 1e-3)],
    ] {
        let (got, want) = (best(&scores(&pair))[0], of_two(pair));
        assert!((got - want).abs() < 0.005, "{pair:?}: got {got}, want {want}");
    }
}

#[test]
fn what_cannot_win_does_not() {
    assert_eq!(best(&scores(&[(0.3, 0.1)])), [1.0]);
    assert_eq!(best(&scores(&[(0.3, 0.0), (0.7, 0.0), (0.7, 0.0)])), [0.0, 0.5, 0.5]);
    assert_eq!(best(&scores(&[(0.0, 1.0), (100.0, 1.0)])), [0.0, 1.0]);
    let even = best(&scores(&[(0.0, 1.0); 5]));
    assert!(even.iter().all(|q| (q - 0.2).abs() < 1e-12), "{even:?}");
}

/// Against a million draws, whose own error is below .002 with near certainty.
#[test]
fn several_scores_of_unlike_scales_are_drawn_alike() {
    let all = scores(&[(0.0, 1.0), (0.2, 0.1), (0.25, 0.001), (-1.0, 2.0), (0.1, 0.5)]);
    let mut rng = SmallRng::seed_from_u64(5);
    let (mut wins, draws) = ([0_u32; 5], 1_000_000);
    for _ in 0..draws {
        let mut most = (0, f64::NEG_INFINITY);
        for (place, score) in all.iter().enumerate() {
            let normal: f64 = StandardNormal.sample(&mut rng);
            let value = score.mean + score.deviation * normal;
            if value > most.1 {
                most = (place, value);
            }
        }
        wins[most.0] += 1;
    }
    for (got, wins) in best(&all).iter().zip(wins) {
        let want = f64::from(wins) / f64::from(draws);
        assert!((got - want).abs() < 0.005, "got {got}, drawn {want}, seed 5");
    }
}

/// The bound on the error that the policy's documentation states.
#[test]
fn two_scores_are_near_the_truth_everywhere() {
    let mut rng = SmallRng::seed_from_u64(6);
    let mut worst = 0.0_f64;
    for _ in 0..20_000 {
        let mut one = || {
            let exponent: f64 = rng.random_range(-4.0..1.0);
            (rng.random_range(-2.0..2.0), 10_f64.powf(exponent))
        };
        let pair = [one(), one()];
        worst = worst.max((best(&scores(&pair))[0] - of_two(pair)).abs());
    }
    assert!(worst < 0.005, "largest error {worst}, seed 6");
}

proptest! {
    #[test]
    fn any_scores_give_a_distribution(
        all in prop::collection::vec((-1e15..1e15_f64, 0.0..300.0_f64), 1..9),
    ) {
        // Deviations from 1e-150 to 1e150, and 0.
        let all: Vec<_> = all.iter().map(|(mean, exponent)| {
            let deviation = if *exponent < 10.0 { 0.0 } else { 10_f64.powf(exponent - 150.0) };
            Score { mean: *mean, deviation }
        }).collect();
        let q = best(&all);
        prop_assert!(q.iter().all(|q| *q >= 0.0 && *q <= 1.0), "{q:?}");
        prop_assert!((q.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{q:?}");
    }
}
