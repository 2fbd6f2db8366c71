//! Batch sizers in simulated surroundings: each file of `scenarios/` holds a container, a load and
//! the ranges in which limit, goodput and latency must lie.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use simulation::{Expect, Outcome, Scenario, run};
use skysail_containers::{
    BatchSizer,
    batch::{Aimd, Quantile},
};

mod simulation;

fn judge(expect: &Expect, outcome: &Outcome, wrong: &mut Vec<String>) {
    let mut hold = |name: &str, range: Option<(f64, f64)>, least: f64, most: f64| {
        if let Some((low, high)) = range
            && !(least >= low && most <= high)
        {
            wrong.push(format!("{name} {least:.4}..{most:.4}, expected {low}..{high}"));
        }
    };
    hold("limit", expect.limit, outcome.limit, outcome.limit);
    hold("limit_always", expect.limit_always, outcome.limit_least, outcome.limit_most);
    hold("goodput_ratio", expect.goodput_ratio, outcome.goodput_ratio, outcome.goodput_ratio);
    hold("goodput_per_s", expect.goodput_per_s, outcome.goodput_per_s, outcome.goodput_per_s);
    hold("p99_ms", expect.p99_ms, outcome.p99_ms, outcome.p99_ms);
    hold("late_ratio", expect.late_ratio, outcome.late_ratio, outcome.late_ratio);
    hold("settled_s", expect.settled_s, outcome.settled_s, outcome.settled_s);
}

fn sizers(max: usize) -> [(&'static str, Box<dyn BatchSizer>); 2] {
    [("aimd", Box::new(Aimd::new(max))), ("quantile", Box::new(Quantile::new(max)))]
}

#[test]
fn every_scenario_stays_in_its_ranges() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario: Scenario = toml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for seed in &scenario.seeds {
            for (strategy, sizer) in sizers(scenario.max_limit) {
                let outcomes = run(&scenario, sizer, *seed);
                for (at, (phase, outcome)) in scenario.phase.iter().zip(&outcomes).enumerate() {
                    let own = if strategy == "aimd" { &phase.aimd } else { &phase.quantile };
                    let mut here = Vec::new();
                    for expect in phase.expect.iter().chain(own) {
                        judge(expect, outcome, &mut here);
                    }
                    if !here.is_empty() {
                        let about = &scenario.about;
                        wrong.push(format!(
                            "{name} ({about}), phase {at}, {strategy}, seed {seed}: {here:?} in {outcome:?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
