//! The progress line and the closing table.

use std::ops::Range;

use skysail_proto::pb::v1;

use super::{
    alone::Alone,
    data::Images,
    drive::Plan,
    tally::{Phase, RETURNED, TURNED, Tally},
};
use crate::say;

/// Queries that the accuracy of a progress line is over.
const WINDOW: usize = 500;

pub(super) fn version_set(query: usize, model: &str, version: &str) {
    say!("  query {query}: SetVersion {model} {version}");
}

pub(super) fn progress(
    tally: &mut Tally,
    images: &Images,
    offered: usize,
    seconds: u64,
    phase: Phase,
    models: &v1::ListModelsResponse,
    selection: &v1::GetSelectionResponse,
) {
    let phase = match phase {
        Phase::Before => "whole ",
        Phase::Broken => "BROKEN",
        Phase::Mended => "mended",
    };
    let accuracy = tally.recent_accuracy(|image| images.label(image), offered, WINDOW);
    let p99 = milliseconds(tally.recent.value_at_quantile(0.99));
    tally.recent.reset();
    let hits = share(tally.cached, tally.used);
    let mut arms: Vec<_> = selection.arms.iter().collect();
    arms.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    let weights = arms.iter().take(4).map(|arm| format!("{} {:.2}", arm.arm, arm.weight));
    let weights = weights.collect::<Vec<_>>().join(" ");
    let limits = models.models.iter().filter_map(|model| {
        let current = model.versions.iter().find(|version| version.version == model.current)?;
        Some(format!("{} {}", model.name, current.containers.first()?.batch_limit))
    });
    let limits = limits.collect::<Vec<_>>().join(" ");
    say!(
        "{seconds:>3} s {offered:>6} {phase} accuracy {accuracy:.3} p99 {p99:.1} ms cache {hits:.0} % \
         | weights {weights} | batch limits {limits}"
    );
}

/// One stretch of the run over which accuracies are compared.
struct Stretch {
    name: String,
    queries: Range<usize>,
    /// What Skysail's accuracy must reach there, less one point: 0 the best, 1 the second best
    /// of the models that are whole.
    rank: usize,
    broken: bool,
}

/// Prints the closing table. True where Skysail held what it should.
pub(super) fn close(
    tally: &Tally,
    alone: &Alone,
    plan: &Plan,
    images: &Images,
    counted: u64,
) -> bool {
    let from = |settled: &str, or: usize| tally.settled.get(settled).copied().unwrap_or(or);
    let stretches = [
        Stretch {
            name: "before the fault".into(),
            queries: 0..plan.broken_at,
            rank: 0,
            broken: false,
        },
        Stretch {
            name: format!("from {TURNED} labels into it"),
            queries: from("broken", plan.mended_at)..plan.mended_at,
            rank: 1,
            broken: true,
        },
        Stretch {
            name: format!("from {RETURNED} labels mended"),
            queries: from("mended", plan.queries)..plan.queries,
            rank: 0,
            broken: false,
        },
    ];
    let all = 0..plan.queries;
    say!("");
    say!("share of right answers, on the same images; a query without an answer is a wrong one");
    let heads: Vec<_> = stretches.iter().map(|s| format!("{:>26}", s.name)).collect();
    say!("{:<22}{:>10}{}", "", "all", heads.concat());
    let row = |name: &str, says: &dyn Fn(usize, bool) -> Option<i64>| {
        let accuracy = |queries: Range<usize>| {
            let right = queries.clone().filter(|query| {
                let image = tally.offered[*query].image;
                says(*query, plan.phase(*query) == Phase::Broken) == Some(images.label(image))
            });
            right.count() as f64 / queries.len().max(1) as f64
        };
        let of: Vec<f64> = stretches.iter().map(|s| accuracy(s.queries.clone())).collect();
        let cells: Vec<_> = of.iter().map(|accuracy| format!("{accuracy:>26.4}")).collect();
        say!("{name:<22}{:>10.4}{}", accuracy(all.clone()), cells.concat());
        of
    };
    let image = |query: usize| tally.offered[query].image;
    let singles: Vec<Vec<f64>> = (0..alone.arms.len())
        .map(|arm| {
            let says = |query, broken| Some(alone.says(arm, image(query), broken));
            row(&alone.arms[arm].0, &says)
        })
        .collect();
    row("uniform vote", &|query, broken| Some(alone.vote(image(query), broken)));
    let best = best_in_hindsight(tally, alone, plan, images);
    row("best in hindsight", &|query, broken| {
        Some(alone.says(best[usize::from(broken)], image(query), broken))
    });
    let skysail = row("Skysail", &|query, _| tally.offered[query].answer);
    say!(
        "(best in hindsight: {} while all are whole, {} while {} is broken)",
        alone.arms[best[0]].0,
        alone.arms[best[1]].0,
        super::BROKEN.0
    );
    counts(tally, plan, counted);
    let mut held = tally.outcomes.values().sum::<u64>() == plan.queries as u64;
    if !held {
        say!("MISSED  some offered queries are not accounted for");
    }
    for (index, stretch) in stretches.iter().enumerate() {
        let mut accuracies: Vec<f64> = singles.iter().map(|single| single[index]).collect();
        accuracies.sort_by(|a, b| b.total_cmp(a));
        // The broken model is the worst of its stretch: "second best" is the best that is left.
        let rank = if stretch.broken { stretch.rank - 1 } else { stretch.rank };
        let bar = accuracies[rank] - 0.01;
        let holds = skysail[index] >= bar && !stretch.queries.is_empty();
        held &= holds;
        let word = if holds { "holds " } else { "MISSED" };
        say!(
            "{word}  {}: {:.4} ≥ {bar:.4} over {} queries",
            stretch.name,
            skysail[index],
            stretch.queries.len()
        );
    }
    held
}

/// The best arm while all are whole, and while one is broken.
fn best_in_hindsight(tally: &Tally, alone: &Alone, plan: &Plan, images: &Images) -> [usize; 2] {
    [false, true].map(|broken| {
        let right = |arm: usize| {
            let queries = (0..plan.queries).filter(|q| (plan.phase(*q) == Phase::Broken) == broken);
            let right = queries.filter(|query| {
                let image = tally.offered[*query].image;
                alone.says(arm, image, broken) == images.label(image)
            });
            right.count()
        };
        (0..alone.arms.len()).max_by_key(|arm| right(*arm)).unwrap_or_default()
    })
}

fn counts(tally: &Tally, plan: &Plan, counted: u64) {
    let percentile = |q| milliseconds(tally.latency.value_at_quantile(q));
    say!("");
    let outcomes = tally.outcomes.iter().map(|(name, count)| format!("{name} {count}"));
    say!("queries   offered {} = {}", plan.queries, outcomes.collect::<Vec<_>>().join(", "));
    say!(
        "          the server counted {counted} replies to them; in time {:.2} %",
        share(tally.in_time, plan.queries as u64)
    );
    say!(
        "latency   from the intended start, all offered: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
        percentile(0.5),
        percentile(0.9),
        percentile(0.99),
        percentile(0.999),
        milliseconds(tally.latency.max())
    );
    say!(
        "cache     {} of {} model answers were kept ones ({:.1} %)",
        tally.cached,
        tally.used,
        share(tally.cached, tally.used)
    );
    let feedback = tally.feedback.iter().map(|(name, count)| format!("{name} {count}"));
    say!("feedback  {}", feedback.collect::<Vec<_>>().join(", "));
    say!("");
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e3
}

/// In percent.
fn share(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
