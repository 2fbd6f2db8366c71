use std::time::Duration;

use proptest::prelude::*;

use super::{
    pinball::{Line, fit, loss},
    *,
};

const TARGET: Duration = Duration::from_millis(50);

fn brute_force(points: &[(f64, f64)], tau: f64) -> f64 {
    let mut least = f64::INFINITY;
    for a in points {
        for b in points.iter().filter(|b| b.0 != a.0) {
            let slope = (b.1 - a.1) / (b.0 - a.0);
            least = least.min(loss(points, Line { intercept: a.1 - slope * a.0, slope }, tau));
        }
    }
    least
}

proptest! {
    /// Some best line passes through two points, so that all of those can be tried.
    #[test]
    fn the_fit_is_the_best_of_all_lines(
        points in proptest::collection::vec((1_u32..40, 1_u32..1_000), 2..60),
        tau in prop_oneof![Just(0.5), Just(0.9), Just(0.99)],
    ) {
        let points: Vec<_> =
            points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y) * 1e-3)).collect();
        let Some(line) = fit(&points, tau) else {
            prop_assert!(points.iter().all(|point| point.0 == points[0].0));
            return Ok(());
        };
        let (got, least) = (loss(&points, line, tau), brute_force(&points, tau));
        prop_assert!(got <= least * (1.0 + 1e-9) + 1e-12, "loss {got}, the least is {least}");
    }

    /// Coarse values make many equal points and many lines through three.
    #[test]
    fn the_fit_is_the_best_among_ties(
        points in proptest::collection::vec((1_u32..5, 1_u32..6), 2..40),
    ) {
        let points: Vec<_> =
            points.into_iter().map(|(x, y)| (f64::from(x), f64::from(y))).collect();
        if let Some(line) = fit(&points, 0.9) {
            let (got, least) = (loss(&points, line, 0.9), brute_force(&points, 0.9));
            prop_assert!(got <= least * (1.0 + 1e-9) + 1e-12, "loss {got}, the least is {least}");
        }
    }

    #[test]
    fn the_limit_stays_in_bounds(
        max in 1_usize..5_000,
        samples in proptest::collection::vec((1_usize..6_000, any::<bool>(), 0_u64..200), 0..500),
    ) {
        let mut sizer = Quantile::new(max);
        for (rows, limited, ms) in samples {
            let (limit, service) = (sizer.limit(), Duration::from_millis(ms));
            sizer.observe(&BatchSample { rows, limit, limited, service, target: TARGET });
            prop_assert!((1..=max).contains(&sizer.limit()));
        }
    }

    #[test]
    fn light_load_and_over_limit_queries_never_lower_it(
        warm in 0_usize..300,
        samples in proptest::collection::vec((0.0_f64..0.49, 0_u64..200, any::<bool>()), 1..200),
    ) {
        let mut sizer = Quantile::new(4_096);
        saturate(&mut sizer, warm, line(500e-6, 5e-3));
        let before = sizer.limit();
        let mut light = 0;
        for (share, ms, over) in samples {
            light += usize::from(!over);
            // Five late ones in a row would be another container.
            let ms = if light % 4 == 0 { 1 } else { ms };
            let rows = (share * before as f64) as usize;
            let rows = if over { 8_000 + rows } else { rows.max(1) };
            let (limit, service) = (sizer.limit(), Duration::from_millis(ms));
            if rows * 2 >= limit && !over {
                light = 0;
                continue;
            }
            sizer.observe(&BatchSample { rows, limit, limited: false, service, target: TARGET });
            prop_assert!(sizer.limit() >= before);
        }
    }
}

fn line(alpha: f64, beta: f64) -> impl Fn(usize, usize) -> f64 {
    move |rows, _| alpha * rows as f64 + beta
}

/// A container under load that fills every batch; `seconds` of rows and batch.
fn saturate(sizer: &mut Quantile, batches: usize, seconds: impl Fn(usize, usize) -> f64) {
    for batch in 0..batches {
        let limit = sizer.limit();
        let service = Duration::from_secs_f64(seconds(limit, batch));
        sizer.observe(&BatchSample { rows: limit, limit, limited: true, service, target: TARGET });
    }
}

#[test]
fn no_points_and_one_size_have_no_line() {
    assert_eq!(fit(&[], 0.99), None);
    assert_eq!(fit(&[(3.0, 1.0), (3.0, 2.0)], 0.99), None);
    let points: Vec<_> = (1..50).map(|x| (f64::from(x), 5e-3 + 5e-4 * f64::from(x))).collect();
    let got = fit(&points, 0.99).unwrap();
    assert!((got.intercept - 5e-3).abs() < 1e-9 && (got.slope - 5e-4).abs() < 1e-9, "{got:?}");
}

/// Every twentieth batch takes half as long again: the line is through those.
fn with_outliers(rows: usize, batch: usize) -> f64 {
    let usual = 5e-3 + 500e-6 * rows as f64;
    if batch.is_multiple_of(20) { usual * 1.5 } else { usual }
}

#[test]
fn it_keeps_the_slow_batches_in_time() {
    let mut sizer = Quantile::new(4_096);
    saturate(&mut sizer, 1_500, with_outliers);
    // 1.5 · (5 ms + n · 0.5 ms) is 50 ms at 56.7.
    assert!((50..=58).contains(&sizer.limit()), "{}", sizer.limit());
    let before = sizer.limit();
    saturate(&mut sizer, 5_000, with_outliers);
    assert!(sizer.limit().abs_diff(before) <= 3, "{before}, then {}", sizer.limit());
}

#[test]
fn it_follows_a_change_of_speed_both_ways() {
    let mut sizer = Quantile::new(4_096);
    saturate(&mut sizer, 400, line(500e-6, 5e-3));
    assert!((88..=90).contains(&sizer.limit()), "{}", sizer.limit());
    saturate(&mut sizer, 300, line(2e-3, 20e-3));
    assert!((13..=15).contains(&sizer.limit()), "{}", sizer.limit());
    saturate(&mut sizer, 600, line(500e-6, 5e-3));
    assert!((85..=90).contains(&sizer.limit()), "{}", sizer.limit());
}

#[test]
fn a_tighter_target_holds_at_once() {
    let mut sizer = Quantile::new(4_096);
    saturate(&mut sizer, 400, line(500e-6, 5e-3));
    let (limit, target) = (sizer.limit(), Duration::from_millis(25));
    let service = Duration::from_millis(24);
    sizer.observe(&BatchSample { rows: limit, limit, limited: true, service, target });
    assert!((38..=40).contains(&sizer.limit()), "{}", sizer.limit());
}
