use proptest::prelude::*;

use super::*;

const TARGET: Duration = Duration::from_millis(50);

/// A container under load that fills every batch.
fn saturate(aimd: &mut Aimd, batches: usize, seconds: impl Fn(usize) -> f64) -> Vec<usize> {
    (0..batches)
        .map(|_| {
            let limit = aimd.limit();
            let service = Duration::from_secs_f64(seconds(limit));
            aimd.observe(&BatchSample {
                rows: limit,
                limit,
                limited: true,
                service,
                target: TARGET,
            });
            aimd.limit()
        })
        .collect()
}

fn line(alpha: f64, beta: f64) -> impl Fn(usize) -> f64 {
    move |rows| alpha * rows as f64 + beta
}

fn best(alpha: f64, beta: f64) -> f64 {
    (TARGET.as_secs_f64() - beta) / alpha
}

/// Slower per row from 256 rows on: 154 K rows per second there, 112 K at 1,024.
fn forest(rows: usize) -> f64 {
    let rows = rows as f64;
    let rate =
        if rows <= 256.0 { 90e3 + 8e3 * rows.log2() } else { 154e3 - 21e3 * (rows / 256.0).log2() };
    rows / rate
}

#[test]
fn it_finds_the_largest_batch_in_time_and_stays_there() {
    for (alpha, beta) in [(500e-6, 5e-3), (12.5e-6, 1e-3), (350e-6, 1e-4), (2e-3, 10e-3)] {
        let mut aimd = Aimd::new(4_096);
        saturate(&mut aimd, 400, line(alpha, beta));
        let tail = saturate(&mut aimd, 200, line(alpha, beta));
        let want = best(alpha, beta).min(4_096.0);
        let mean = tail.iter().sum::<usize>() as f64 / tail.len() as f64;
        assert!(
            mean > 0.88 * want && mean < 1.03 * want,
            "alpha {alpha} beta {beta}: mean limit {mean}, the largest in time is {want}"
        );
    }
}

#[test]
fn noise_that_ends_the_search_too_low_costs_a_few_batches() {
    let (alpha, beta) = (105e-6, 0.5e-3);
    let mut aimd = Aimd::new(4_096);
    // Slow start reaches 64 and meets a machine that is busy with something else.
    saturate(&mut aimd, 6, line(alpha, beta));
    saturate(&mut aimd, 12, |rows| if rows > 32 { 0.06 } else { line(alpha, beta)(rows) });
    assert!(aimd.limit() <= 40, "{}", aimd.limit());
    let limits = saturate(&mut aimd, 20, line(alpha, beta));
    let there = limits.iter().position(|limit| *limit as f64 >= 0.9 * best(alpha, beta));
    assert!(there.is_some_and(|batches| batches < 20), "{limits:?}");
    let seconds: f64 =
        limits.iter().take(there.unwrap()).map(|rows| line(alpha, beta)(*rows)).sum();
    assert!(seconds < 0.5, "{seconds} s of the container's time: {limits:?}");
}

#[test]
fn a_batch_that_was_cut_short_by_a_large_query_shows_nothing() {
    let mut aimd = Aimd::steady(100, 4_096);
    let sample =
        BatchSample { rows: 20, limit: 100, limited: true, service: TARGET / 5, target: TARGET };
    for _ in 0..50 {
        aimd.observe(&sample);
    }
    assert_eq!(aimd.limit(), 100);
}

#[test]
fn it_doubles_from_cold() {
    let mut aimd = Aimd::new(4_096);
    let limits = saturate(&mut aimd, 12, line(12.5e-6, 1e-3));
    assert_eq!(limits[..11], [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]);
}

#[test]
fn slow_start_ends_with_the_largest_limit_that_was_in_time() {
    let mut aimd = Aimd::new(4_096);
    let limits = saturate(&mut aimd, 12, line(500e-6, 5e-3));
    // 128 rows take 69 ms: late twice. 90 take 50 ms, and that is where the line leads at once.
    assert_eq!(limits, [2, 4, 8, 16, 32, 64, 128, 128, 90, 91, 90, 91]);
}

/// The time that a container spends from cold until the limit stays at nine tenths of its last
/// mean or above.
fn ramp(alpha: f64, beta: f64, noise: impl Fn(usize) -> f64) -> f64 {
    let mut aimd = Aimd::new(4_096);
    let (mut clock, mut times) = (0.0, Vec::new());
    for batch in 0..400 {
        let rows = aimd.limit();
        let seconds = line(alpha, beta)(rows) * noise(batch);
        saturate(&mut aimd, 1, |_| seconds);
        clock += seconds;
        times.push((clock, aimd.limit()));
    }
    let last = &times[200..];
    let last = last.iter().map(|(_, limit)| *limit as f64).sum::<f64>() / last.len() as f64;
    let below = times[..200].iter().rfind(|(_, limit)| (*limit as f64) < 0.85 * last);
    below.map_or(0.0, |below| times[times.partition_point(|t| t.0 <= below.0)].0)
}

#[test]
fn it_is_there_within_half_a_second_of_the_containers_time() {
    for (alpha, beta) in [(500e-6, 5e-3), (1e-3, 1e-3), (12.5e-6, 1e-3), (2e-3, 10e-3)] {
        let took = ramp(alpha, beta, |_| 1.0);
        assert!(took < 0.5, "alpha {alpha}, beta {beta}: {took} s");
    }
    // A tenth longer now and then.
    let took = ramp(500e-6, 5e-3, |batch| if batch % 7 == 3 { 1.1 } else { 1.0 });
    assert!(took < 0.5, "{took} s");
}

#[test]
fn a_batch_formed_before_the_last_change_does_not_change_it_again() {
    let mut aimd = Aimd::new(4_096);
    saturate(&mut aimd, 6, line(1e-6, 1e-3));
    let old = |rows: usize, ms: u64| BatchSample {
        rows,
        limit: rows,
        limited: true,
        service: Duration::from_millis(ms),
        target: TARGET,
    };
    aimd.observe(&old(32, 1));
    assert_eq!(aimd.limit(), 64);
    saturate(&mut aimd, 4, |_| 0.06);
    let limit = aimd.limit();
    aimd.observe(&old(limit + 10, 60));
    assert_eq!(aimd.limit(), limit);
}

#[test]
fn what_is_late_with_few_rows_is_late_with_many() {
    let mut aimd = Aimd::new(4_096);
    saturate(&mut aimd, 300, line(500e-6, 5e-3));
    let limit = aimd.limit();
    let small = |limit| BatchSample {
        rows: 30,
        limit,
        limited: false,
        service: Duration::from_millis(80),
        target: TARGET,
    };
    for _ in 0..4 {
        aimd.observe(&small(limit));
    }
    assert_eq!(aimd.limit(), limit);
    aimd.observe(&small(limit));
    assert_eq!(aimd.limit(), 27);
}

#[test]
fn a_verdict_against_larger_batches_that_was_chance_is_taken_back() {
    let mut aimd = Aimd::new(4_096);
    saturate(&mut aimd, 300, line(500e-6, 5e-3));
    // The container becomes a little slower just while the limit is above its best.
    let slower = line(550e-6, 5.5e-3);
    let tail = saturate(&mut aimd, 150, slower);
    let mean = tail[50..].iter().sum::<usize>() as f64 / 100.0;
    assert!(mean > 0.88 * best(550e-6, 5.5e-3), "{mean}");
}

#[test]
fn it_follows_a_container_that_changes_its_speed() {
    let mut aimd = Aimd::new(4_096);
    saturate(&mut aimd, 300, line(500e-6, 5e-3));
    saturate(&mut aimd, 40, line(2_000e-6, 5e-3));
    let slow = aimd.limit() as f64;
    assert!(slow <= 1.03 * best(2_000e-6, 5e-3), "{slow}");
    saturate(&mut aimd, 400, line(100e-6, 5e-3));
    let fast = aimd.limit() as f64;
    assert!(fast > 0.85 * best(100e-6, 5e-3), "{fast}");
}

#[test]
fn it_stops_where_a_larger_batch_is_slower() {
    let mut aimd = Aimd::new(4_096);
    saturate(&mut aimd, 60, forest);
    let tail = saturate(&mut aimd, 1_000, forest);
    let mean = tail.iter().map(|rows| *rows as f64 / forest(*rows)).sum::<f64>() / 1_000.0;
    assert!(mean > 0.9 * 154e3, "{mean} rows per second at limits {:?}", &tail[..20]);
}

#[test]
fn an_objective_below_the_floor_ends_at_one_row() {
    let mut aimd = Aimd::new(64);
    let limits = saturate(&mut aimd, 50, |_| 0.2);
    assert!(limits.iter().all(|limit| *limit == 1));
}

#[test]
fn one_hiccup_in_slow_start_costs_nothing() {
    let mut aimd = Aimd::new(64);
    saturate(&mut aimd, 3, line(1e-6, 1e-3));
    saturate(&mut aimd, 1, |_| 0.2);
    assert_eq!(aimd.limit(), 8);
    saturate(&mut aimd, 1, line(1e-6, 1e-3));
    assert_eq!(aimd.limit(), 16);
}

#[test]
fn a_query_larger_than_the_limit_never_lowers_it() {
    let mut aimd = Aimd::new(64);
    saturate(&mut aimd, 4, line(1e-6, 1e-3));
    for _ in 0..10 {
        let service = Duration::from_secs(1);
        let limit = aimd.limit();
        aimd.observe(&BatchSample { rows: 500, limit, limited: false, service, target: TARGET });
    }
    assert_eq!(aimd.limit(), 16);
}

proptest! {
    #[test]
    fn the_limit_stays_in_bounds(
        max in 1_usize..5_000,
        samples in proptest::collection::vec((1_usize..6_000, any::<bool>(), 0_u64..200), 0..300),
    ) {
        let mut aimd = Aimd::new(max);
        for (rows, limited, ms) in samples {
            let limit = aimd.limit();
            aimd.observe(&BatchSample {
                rows,
                limit,
                limited,
                service: Duration::from_millis(ms),
                target: TARGET,
            });
            prop_assert!((1..=max).contains(&aimd.limit()));
        }
    }

    #[test]
    fn light_load_never_moves_it(
        warm in 0_usize..200,
        samples in proptest::collection::vec((0.0_f64..0.49, 0_u64..200), 1..300),
    ) {
        let mut aimd = Aimd::new(4_096);
        saturate(&mut aimd, warm, line(500e-6, 5e-3));
        let before = aimd.limit();
        let mut light = 0;
        for (share, ms) in samples {
            let rows = (share * before as f64) as usize;
            if rows == 0 {
                continue;
            }
            light += 1;
            // Five late ones in a row would be another container.
            let ms = if light % 4 == 0 { 1 } else { ms };
            aimd.observe(&BatchSample {
                rows,
                limit: before,
                limited: false,
                service: Duration::from_millis(ms),
                target: TARGET,
            });
        }
        prop_assert_eq!(aimd.limit(), before);
    }
}
