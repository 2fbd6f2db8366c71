//! One block of load against one server, from connecting to the last answer.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use serde::Serialize;

use crate::{
    arrivals::Arrivals,
    cpu::Snapshot,
    recorder::{Tally, Window},
    target::{Driver, Run, RunConfig, TargetConfig},
    workload::Workload,
};

/// Who decides when the next query comes.
#[derive(Debug)]
pub enum Pace {
    /// The clock: a slow server meets as many queries as a quick one.
    Open(Box<Arrivals>),
    /// The answers: so many queries are under way all the time. It finds the most that a server
    /// does; its latencies say little.
    Closed(usize),
}

/// A block of load.
#[derive(Debug)]
pub struct Plan {
    /// Where to.
    pub target: TargetConfig,
    /// What is asked.
    pub workload: Workload,
    /// When.
    pub pace: Pace,
    /// Cut off at the front, by intended start.
    pub warm_up: Duration,
    /// What counts, after the warm-up.
    pub duration: Duration,
    /// How long answers are waited for afterwards; then they count as none.
    pub drain: Duration,
    /// An answer later than this is late.
    pub objective: Duration,
    /// Beyond as many under way, an arrival is not sent and counts as a miss.
    pub max_in_flight: usize,
    /// The server's process, whose processor time is read.
    pub server_pid: Option<u32>,
    /// Threads of the generator, besides the one that keeps the time.
    pub threads: usize,
}

/// What a block came to.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// Counts and latencies.
    #[serde(flatten)]
    pub tally: Tally,
    /// The most that were under way.
    pub in_flight_peak: usize,
    /// Responses that no query waited for; a fault of the server.
    pub unmatched_responses: u64,
    /// Processor time.
    pub cpu: Cpu,
}

/// Processor time within the window, per reply that came in it, answer or refusal.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// Replies within the window.
    pub replies: u64,
    /// Of the server's process; null without its pid.
    pub server_us_per_reply: Option<f64>,
    /// Of the server's process, in processors.
    pub server_cores: Option<f64>,
    /// Of this process.
    pub generator_us_per_reply: f64,
    /// Of this process, in processors.
    pub generator_cores: f64,
    /// The generator had no time left: its figures are its own, not the server's.
    pub generator_saturated: bool,
    /// Of everybody else, in processors; null without the server's pid.
    pub foreign_cores: Option<f64>,
    /// Taken by the hypervisor, in processors.
    pub stolen_cores: f64,
}

/// Runs a block, on a runtime of its own, so that nothing of it outlives it.
///
/// # Errors
///
/// The server cannot be reached, there is no such process, or the plan is empty.
pub fn run(plan: Plan) -> anyhow::Result<Block> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads.max(1))
        .thread_name("generator")
        .enable_all()
        .build()?;
    let block = runtime.block_on(block(plan));
    runtime.shutdown_timeout(Duration::from_secs(1));
    block
}

async fn block(plan: Plan) -> anyhow::Result<Block> {
    // Connections take their time; the clock starts a moment later than that.
    let usual = Instant::now() + CONNECTING;
    let channels = plan.target.connect().await?;
    let start = usual.max(Instant::now() + OPENING);
    let from = start + plan.warm_up;
    let window = Window { from, until: from + plan.duration };
    let config = RunConfig {
        window,
        objective: plan.objective,
        max_in_flight: plan.max_in_flight,
        closed: matches!(plan.pace, Pace::Closed(_)),
    };
    let run = Arc::new(Run::new(plan.workload, config)?);
    let driver = Driver::over(channels, &plan.target, &run);
    let lanes = plan.target.lanes();
    let pacing = {
        let run = Arc::clone(&run);
        thread::Builder::new().name("pacing".into()).spawn(move || {
            match plan.pace {
                Pace::Open(arrivals) => pace(arrivals, start, window.until, &run, &driver, lanes),
                Pace::Closed(depth) => begin(depth, start, &run, &driver, lanes),
            }
            driver
        })?
    };
    until(window.from).await;
    let (before, replies_before) = (Snapshot::take(plan.server_pid)?, run.completed());
    let began = Instant::now();
    until(window.until).await;
    let used = Snapshot::take(plan.server_pid)?.since(&before);
    let (replies, lasted) = (run.completed() - replies_before, began.elapsed());
    // It has sent its last query; the driver is kept until all is answered.
    let driver = pacing.join().map_err(|_| anyhow!("the pacing thread panicked"))?;
    let limit = Instant::now() + plan.drain;
    while run.in_flight() > 0 && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(driver);
    Ok(Block {
        tally: run.finish().context("closing the books")?,
        in_flight_peak: run.in_flight_peak(),
        unmatched_responses: run.unmatched_responses(),
        cpu: cpu(&used, replies, lasted, plan.threads.max(1), plan.server_pid.is_some()),
    })
}

/// From the beginning of a run to its first arrival, unless there is more to connect than that.
pub const CONNECTING: Duration = Duration::from_millis(250);

/// Streams open once there are connections; it takes a moment.
const OPENING: Duration = Duration::from_millis(50);

async fn until(instant: Instant) {
    tokio::time::sleep_until(instant.into()).await;
}

/// Submits each query at its time. It never waits for an answer.
fn pace(
    arrivals: Box<Arrivals>,
    start: Instant,
    end: Instant,
    run: &Run,
    driver: &Driver,
    lanes: usize,
) {
    sharpen_sleep();
    for offset in arrivals {
        let intended = start + offset;
        if intended >= end {
            break;
        }
        let wait = intended.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        if let Some(job) = run.admit(intended, lanes) {
            driver.submit(job);
        }
    }
}

fn begin(depth: usize, start: Instant, run: &Run, driver: &Driver, lanes: usize) {
    thread::sleep(start.saturating_duration_since(Instant::now()));
    for _ in 0..depth {
        if let Some(job) = run.admit(Instant::now(), lanes) {
            driver.submit(job);
        }
    }
}

/// Linux may wake a sleeper up to 50 µs late to save power; a thread may ask for less.
/// Where that is not allowed, the lag is merely a little longer, and it is reported.
fn sharpen_sleep() {
    if let Ok(thread) = std::fs::read_link("/proc/thread-self")
        && let Some(id) = thread.file_name()
    {
        let slack = std::path::Path::new("/proc").join(id).join("timerslack_ns");
        let _ = std::fs::write(slack, "1000");
    }
}

/// A generator that uses this much of its threads is late because of itself.
const SATURATED: f64 = 0.9;

fn cpu(used: &Snapshot, replies: u64, lasted: Duration, threads: usize, pid: bool) -> Cpu {
    let seconds = lasted.as_secs_f64();
    let per_reply = |time: Duration| time.as_secs_f64() * 1e6 / replies.max(1) as f64;
    let cores = |time: Duration| time.as_secs_f64() / seconds;
    let known = used.own + used.server.unwrap_or_default();
    Cpu {
        replies,
        server_us_per_reply: used.server.filter(|_| replies > 0).map(per_reply),
        server_cores: used.server.map(cores),
        generator_us_per_reply: per_reply(used.own),
        generator_cores: cores(used.own),
        generator_saturated: cores(used.own) >= SATURATED * threads as f64,
        foreign_cores: pid.then(|| cores(used.machine.saturating_sub(known))),
        stolen_cores: cores(used.stolen),
    }
}
