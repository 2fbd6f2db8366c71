//! A Redis that is lost: what queries notice of it.

use std::{process::Command, thread, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{Settings, plan};
use crate::{
    arrivals::{Arrivals, Shape},
    load::{Block, Pace, run},
    process::{RedisProcess, ServerProcess},
    workload::Workload,
};

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Lost {
    /// p99 with a Redis that is lost, the circuit open, over p99 without any; one per repeat.
    /// Every input is new.
    pub p99_ratio: Vec<f64>,
    /// Queries without an answer while Redis was killed, and while it was stopped.
    pub failed: Vec<f64>,
    /// Queries per second.
    pub rate: f64,
}

/// Half of what two cores do with new inputs, generator included, so that p99 is no queue.
const RATE: f64 = 1_000.0;
/// Longer than the circuit takes to open.
const SETTLE: Duration = Duration::from_secs(2);

pub(super) fn measure(settings: &Settings, workload: &Workload) -> anyhow::Result<Lost> {
    let redis = RedisProcess::start(&settings.redis)?;
    let more = format!("[cache]\nredis = \"redis://{}\"\n", redis.address);
    let with = ServerProcess::skysail_with(&settings.skysail, &settings.config, &more)?;
    let without = ServerProcess::skysail(&settings.skysail, &settings.config, None)?;
    let mut blocks = Blocks { settings, workload, sent: 1 << 24 };

    let mut failed = Vec::new();
    for fault in [Fault::Stopped, Fault::Killed] {
        // It works, and fails in the middle of the block.
        let struck = settings.block / 2;
        let pid = redis.pid();
        let strike = thread::spawn(move || {
            thread::sleep(struck);
            signal(pid, if fault == Fault::Stopped { "-STOP" } else { "-KILL" })
        });
        let block = blocks.run(&with, 0)?;
        strike.join().map_err(|_| anyhow::anyhow!("the thread that strikes panicked"))??;
        failed.push(block.tally.offered.saturating_sub(block.tally.good + block.tally.late) as f64);
        if fault == Fault::Stopped {
            signal(pid, "-CONT")?;
        }
        thread::sleep(SETTLE);
    }
    let mut p99_ratio = Vec::new();
    for repeat in 0..settings.repeats.max(1) {
        let order = if repeat % 2 == 0 { [&with, &without] } else { [&without, &with] };
        let first = blocks.run(order[0], repeat as u64)?.tally.latency_ms.p99;
        let second = blocks.run(order[1], repeat as u64)?.tally.latency_ms.p99;
        let (lost, none) = if repeat % 2 == 0 { (first, second) } else { (second, first) };
        if let Some((lost, none)) = lost.zip(none) {
            p99_ratio.push(lost / none);
        }
    }
    Ok(Lost { p99_ratio, failed, rate: RATE })
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Stopped,
    Killed,
}

struct Blocks<'a> {
    settings: &'a Settings,
    workload: &'a Workload,
    sent: u64,
}

impl Blocks<'_> {
    /// New inputs alone, Poisson; both sides of a repeat meet the same arrivals.
    fn run(&mut self, server: &ServerProcess, repeat: u64) -> anyhow::Result<Block> {
        self.sent += 1;
        let seed = self.settings.seed.wrapping_add(repeat);
        let pace = Pace::Open(Box::new(Arrivals::new(Shape::Poisson, RATE, 1.0, seed)?));
        let workload = self.workload.with(0, self.sent << 32);
        run(plan(self.settings, workload, server, pace)).context("with a Redis that fails")
    }
}

fn signal(pid: u32, signal: &str) -> anyhow::Result<()> {
    let done = Command::new("kill").arg(signal).arg(pid.to_string()).status()?;
    ensure!(done.success(), "cannot signal redis-server");
    Ok(())
}
