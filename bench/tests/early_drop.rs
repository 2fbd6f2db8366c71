//! Early against lazy drop, with few queries: the order of the rules, and the names of the bars.

#![allow(clippy::unwrap_used, reason = "tests")]

use skysail_bench::early_drop::{Settings, bars, measure};

#[test]
fn early_drop_beats_lazy_drop_and_equal_seeds_give_equal_figures() {
    let settings = Settings { alphas: vec![1.0, 1.4], queries: 3_000, seeds: 3, seed: 1 };
    let comparisons = measure(&settings).unwrap();
    let found = bars(&comparisons);
    for name in ["early_over_lazy_alpha_1_0", "early_over_lazy_alpha_1_4"] {
        let bar = found.iter().find(|bar| bar.name == name).unwrap();
        assert_eq!(bar.repeats.len(), 3);
        assert!(bar.value.unwrap() > 1.05, "{bar:?}");
    }
    assert_eq!(bars(&measure(&settings).unwrap()), found);
}
