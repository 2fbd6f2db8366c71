//! The estimators on real logs: the small Open Bandit Dataset (Saito et al., "Open Bandit Dataset
//! and Pipeline", arXiv 2008.07146), 10,000 rows for each of three campaigns, logged by Thompson
//! sampling and judged for a uniform target. The expected numbers are those of the estimators'
//! own papers' formulas, computed apart from this code.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::PathBuf;

use skysail_selection::evaluate::{Diagnostics, Estimates, Refusal, Rows, Term};

struct Log {
    diagnostics: Diagnostics,
    estimates: Estimates,
}

/// Judges a uniform target by the log of a campaign with so many arms.
fn judge(campaign: &str, arms: usize) -> Log {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |d| root.join(d));
    let path = target.join(format!("setup/obp/bts/{campaign}.csv"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; run `cargo xtask setup`, which fetches it", path.display())
    });
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| names.iter().position(|n| *n == name).unwrap();
    let (click, propensity) = (column("click"), column("propensity_score"));
    let mut rows = Rows::new(10.0);
    for (decision, line) in lines.enumerate() {
        let fields: Vec<&str> = line.split(',').collect();
        let (reward, p): (f64, f64) =
            (fields[click].parse().unwrap(), fields[propensity].parse().unwrap());
        let weight = 1.0 / arms as f64 / p;
        rows.push(decision, None, &[Term { weight, reward, predicted: 0.0 }]);
    }
    let diagnostics = rows.diagnostics(10_000, None);
    assert_eq!(diagnostics.rows, 10_000);
    Log { diagnostics, estimates: rows.estimates(0.95) }
}

#[track_caller]
fn near(got: f64, want: f64, within: f64) {
    assert!((got - want).abs() <= within, "got {got}, want {want}");
}

struct Golden {
    ips: f64,
    error: f64,
    snips: f64,
    mean_weight: f64,
    largest: f64,
    effective: f64,
    cressie_read: f64,
    clipped: f64,
    sub_gaussian: f64,
}

fn check(log: &Log, golden: &Golden) {
    let Log { diagnostics, estimates } = log;
    near(estimates.ips.value, golden.ips, 5e-11);
    near(estimates.ips.error.unwrap(), golden.error, 5e-7);
    near(estimates.snips.unwrap().value, golden.snips, 5e-11);
    near(diagnostics.mean_weight, golden.mean_weight, 5e-6);
    near(diagnostics.largest_weight, golden.largest, golden.largest * 5e-4);
    near(diagnostics.effective, golden.effective, golden.effective * 1e-3);
    near(estimates.cressie_read.unwrap(), golden.cressie_read, 5e-11);
    near(estimates.clipped.value, golden.clipped, 5e-8);
    near(estimates.sub_gaussian.value, golden.sub_gaussian, 5e-9);
    assert_eq!((estimates.direct, estimates.doubly_robust), (None, None));
}

fn interval(estimates: &Estimates, from: f64, to: f64) {
    let got = estimates.ips.interval.unwrap();
    near(got.0, from, 5e-9);
    near(got.1, to, 5e-9);
}

#[test]
fn all_campaigns() {
    let log = judge("all", 80);
    check(
        &log,
        &Golden {
            ips: 0.002_359_639_5,
            error: 0.000_871,
            snips: 0.002_333_713_9,
            mean_weight: 1.011_11,
            largest: 277.8,
            effective: 340.4,
            cressie_read: 0.002_357_428_3,
            clipped: 0.002_359_6,
            sub_gaussian: 0.002_058_27,
        },
    );
    interval(&log.estimates, 0.000_652_47, 0.004_066_81);
    assert_eq!(log.diagnostics.refusal(), None);
}

#[test]
fn the_men_s_campaign() {
    let log = judge("men", 34);
    check(
        &log,
        &Golden {
            ips: 0.003_008_626_3,
            error: 0.000_774,
            snips: 0.003_189_423_2,
            mean_weight: 0.943_31,
            largest: 178.3,
            effective: 655.7,
            cressie_read: 0.003_399_762_3,
            clipped: 0.003_008_6,
            sub_gaussian: 0.002_800_50,
        },
    );
    interval(&log.estimates, 0.001_491_74, 0.004_525_51);
    assert_eq!(log.diagnostics.refusal(), None);
}

/// One row has a propensity of one in a million: it alone makes the mean weight 3.
#[test]
fn the_women_s_campaign_is_refused() {
    let log = judge("women", 46);
    check(
        &log,
        &Golden {
            ips: 0.007_437_577_5,
            error: 0.004_118,
            snips: 0.002_373_046_1,
            mean_weight: 3.134_19,
            largest: 21_739.0,
            effective: 2.077_8,
            cressie_read: 0.007_430_227_3,
            clipped: 0.004_383_7,
            sub_gaussian: 0.003_577_13,
        },
    );
    let Some(Refusal::FewEffective { effective, joined: 10_000 }) = log.diagnostics.refusal()
    else {
        panic!("not refused: {:?}", log.diagnostics);
    };
    near(effective, 2.08, 0.01);
}
