//! Throughput by the share of hits.

use anyhow::Context;
use serde::Serialize;

use super::{DEPTH, Settings, plan};
use crate::{
    load::{Block, Pace, run},
    process::ServerProcess,
    report::median,
    workload::Workload,
};

/// One share of popular inputs; medians of the repeats.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Of the queries that draw from the popular inputs; the others are unique.
    pub share: f64,
    /// What the server's counters say was answered from the cache.
    pub hit_rate: f64,
    /// Over a stream, closed loop.
    pub answered_per_s: f64,
    /// The same over that of the first step.
    pub gain: f64,
    /// Clipper's gain at this share, with a Spark SVM that answered 7,800 a second uncached and its
    /// generator in the same process (the authors' published figure data).
    pub clipper_gain: f64,
    /// Latency in the closed loop, of answers.
    pub p50_ms: Option<f64>,
    /// The same.
    pub p99_ms: Option<f64>,
    /// Of the whole server.
    pub cpu_us_per_reply: Option<f64>,
}

const SHARES: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];

/// What Clipper answered at these shares, in thousands of queries per second.
const CLIPPER: [f64; 6] = [7.8, 9.4, 13.0, 19.1, 38.2, 106.0];

pub(super) fn measure(
    settings: &Settings,
    workload: &Workload,
    server: &ServerProcess,
) -> anyhow::Result<Vec<Step>> {
    let mut blocks: Vec<Vec<(Block, f64)>> = SHARES.iter().map(|_| Vec::new()).collect();
    let mut sent = 1_u64 << 20;
    for repeat in 0..settings.repeats.max(1) {
        let mut order: Vec<usize> = (0..SHARES.len()).collect();
        if repeat % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let (Some(share), Some(of)) = (SHARES.get(at), blocks.get_mut(at)) else { continue };
            sent += 1;
            let before = counters(&server.http)?;
            let asked = workload.popular(*share, sent << 32);
            let block = run(plan(settings, asked, server, Pace::Closed(DEPTH)))
                .context("the sweep over hit rates")?;
            let after = counters(&server.http)?;
            let (hits, misses) = (after.0 - before.0, after.1 - before.1);
            of.push((block, hits / (hits + misses).max(1.0)));
        }
    }
    let per_s = |blocks: &[(Block, f64)]| {
        let all: Vec<_> = blocks.iter().map(|(block, _)| block.tally.answered_per_s).collect();
        median(&all).unwrap_or_default()
    };
    let first = blocks.first().map_or(0.0, |blocks| per_s(blocks));
    let steps = SHARES.iter().zip(CLIPPER).zip(&blocks).map(|((share, clipper), blocks)| {
        let over = |value: &dyn Fn(&Block) -> Option<f64>| {
            median(&blocks.iter().filter_map(|(block, _)| value(block)).collect::<Vec<_>>())
        };
        let hits: Vec<f64> = blocks.iter().map(|(_, hits)| *hits).collect();
        Step {
            share: *share,
            hit_rate: median(&hits).unwrap_or_default(),
            answered_per_s: per_s(blocks),
            gain: per_s(blocks) / first,
            clipper_gain: clipper / CLIPPER[0],
            p50_ms: over(&|b| b.tally.answered_from_sent_ms.p50),
            p99_ms: over(&|b| b.tally.answered_from_sent_ms.p99),
            cpu_us_per_reply: over(&|b| b.cpu.server_us_per_reply),
        }
    });
    Ok(steps.collect())
}

/// Hits and misses so far, of all tiers.
fn counters(http: &str) -> anyhow::Result<(f64, f64)> {
    let text = crate::process::metrics(http)?;
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Ok((sum("skysail_cache_hits_total"), sum("skysail_cache_misses_total")))
}
