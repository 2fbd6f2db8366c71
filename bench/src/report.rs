//! What a measurement hands over: JSON for programs, a table for people.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::Command,
};

use anyhow::Context;
use serde::Serialize;

use crate::{
    load::Block,
    recorder::{Percentiles, Tally},
};

/// The JSON of a subcommand.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// Of the working directory's repository, `-dirty` where files differ; null outside one.
    pub commit: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// What the draws began with.
    pub seed: u64,
    /// The subcommand's own.
    pub results: serde_json::Value,
    /// What it is judged by.
    pub bars: Vec<Bar>,
}

/// One figure, and what it must be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// Its fixed name.
    pub name: String,
    /// The median of the repeats; null where it was not measured.
    pub value: Option<f64>,
    /// Its unit; `ratio` for none.
    pub unit: &'static str,
    /// What is asked for; null where it is only reported.
    pub bar: Option<Limit>,
    /// Whether it is met; null without a bar or a value.
    pub holds: Option<bool>,
    /// The value of each repeat.
    pub repeats: Vec<f64>,
}

/// A bound on a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The value may not be above.
    AtMost(f64),
    /// The value may not be below.
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "<= {limit}"),
            Self::AtLeast(limit) => write!(f, ">= {limit}"),
        }
    }
}

impl Serialize for Limit {
    /// As the bare number; `holds` tells which side of it is right.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (Self::AtMost(limit) | Self::AtLeast(limit)) = self;
        serializer.serialize_f64(*limit)
    }
}

impl Bar {
    /// The median of `repeats`, judged by `limit`.
    pub fn new(name: &str, unit: &'static str, limit: Option<Limit>, repeats: Vec<f64>) -> Self {
        let value = median(&repeats);
        let holds = limit.zip(value).map(|(limit, value)| limit.holds(value));
        Self { name: name.into(), value, unit, bar: limit, holds, repeats }
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let above = sorted.get(sorted.len() / 2)?;
    let below = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*above, *below))
}

/// The machine that measured.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many the process may use.
    pub cores: usize,
    /// In bytes.
    pub memory_bytes: Option<u64>,
    /// The operating system's kernel.
    pub kernel: String,
    /// Of the processors, in the last minute, when the measurement ended.
    pub load_average: Option<f64>,
}

impl Machine {
    /// Looks at this machine.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned());
        let memory = read("/proc/meminfo").lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        let load_average =
            read("/proc/loadavg").split_ascii_whitespace().next().and_then(|one| one.parse().ok());
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.map(|kilobytes| kilobytes * 1024),
            kernel: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease"))
                .trim()
                .to_owned(),
            load_average,
        }
    }
}

impl Report {
    /// A report of this process on this machine.
    pub fn new(seed: u64, results: serde_json::Value, bars: Vec<Bar>) -> Self {
        Self {
            machine: Machine::here(),
            commit: commit(),
            command: std::env::args().collect(),
            seed,
            results,
            bars,
        }
    }

    /// Writes the JSON; the folder is made.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let context = || format!("writing {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(context)?;
        }
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(context)
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let hash = git(&["rev-parse", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { hash } else { format!("{hash}-dirty") })
}

/// Prints the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print_bars(out: &mut impl Write, bars: &[Bar]) -> io::Result<()> {
    writeln!(out, "{:<36}{:>12}  {:<10}{:<10}holds", "bar", "value", "unit", "asked")?;
    for bar in bars {
        let holds = bar.holds.map_or("-", |holds| if holds { "yes" } else { "NO" });
        let asked = bar.bar.map_or_else(|| "-".into(), |limit| limit.to_string());
        let value = bar.value.map_or_else(|| "unmeasured".into(), figure);
        writeln!(out, "{:<36}{value:>12}  {:<10}{asked:<10}{holds}", bar.name, bar.unit)?;
    }
    Ok(())
}

/// Prints one block of load.
///
/// # Errors
///
/// The output is closed.
pub fn print_block(out: &mut impl Write, block: &Block) -> io::Result<()> {
    let tally = &block.tally;
    writeln!(
        out,
        "offered   {:>10}  {:>12} /s over {:.1} s",
        tally.offered,
        figure(tally.offered_per_s),
        tally.window_s
    )?;
    writeln!(
        out,
        "answered  {:>10}  {:>12} /s",
        tally.good + tally.late,
        figure(tally.answered_per_s)
    )?;
    writeln!(
        out,
        "in time   {:>10}  {:>12} /s  {:.2} % of offered",
        tally.good,
        figure(tally.goodput_per_s),
        tally.goodput_ratio * 100.0
    )?;
    for (name, count) in &tally.outcomes {
        writeln!(out, "  {name:<32}{count:>10}")?;
    }
    for (code, message) in &tally.refusals {
        writeln!(out, "  first {code}: {message}")?;
    }
    print_latencies(out, tally)?;
    print_cpu(out, block)
}

fn print_latencies(out: &mut impl Write, tally: &Tally) -> io::Result<()> {
    writeln!(
        out,
        "{:<34}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "p50", "p90", "p99", "p99.9", "max"
    )?;
    let rows: [(&str, &Percentiles); 5] = [
        ("latency, all offered", &tally.latency_ms),
        ("latency, answered", &tally.answered_ms),
        ("from sending, answered", &tally.answered_from_sent_ms),
        ("lag of the generator's clock", &tally.pacing_lag_ms),
        ("lag until the transport took it", &tally.sending_lag_ms),
    ];
    for (name, percentiles) in rows {
        let Percentiles { p50, p90, p99, p99_9, max } = percentiles;
        write!(out, "{name:<34}")?;
        for value in [p50, p90, p99, p99_9, max] {
            write!(out, "{:>10}", value.map_or_else(|| "none".into(), |v| format!("{v:.3}")))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn print_cpu(out: &mut impl Write, block: &Block) -> io::Result<()> {
    let cpu = &block.cpu;
    if let (Some(per_reply), Some(cores)) = (cpu.server_us_per_reply, cpu.server_cores) {
        writeln!(out, "server CPU     {per_reply:>8.1} us a reply, {cores:.2} cores")?;
    }
    writeln!(
        out,
        "generator CPU  {:>8.1} us a reply, {:.2} cores; at most {} in flight",
        cpu.generator_us_per_reply, cpu.generator_cores, block.in_flight_peak
    )?;
    if let Some(foreign) = cpu.foreign_cores {
        writeln!(out, "others' CPU    {foreign:>8.2} cores, stolen {:.2}", cpu.stolen_cores)?;
    }
    if cpu.generator_saturated {
        writeln!(out, "NOTE: the generator was saturated; these are its limits, not the server's")?;
    }
    if block.unmatched_responses > 0 {
        writeln!(out, "FAULT: {} responses belong to no query", block.unmatched_responses)?;
    }
    Ok(())
}

/// A number with about four digits that matter.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_bar_is_judged_by_its_median_and_has_the_fixed_fields() {
        let bar = Bar::new("x", "ratio", Some(Limit::AtMost(1.25)), vec![9.0, 1.0, 1.25]);
        let json = serde_json::to_value(&bar).unwrap();
        let expected = serde_json::json!({
            "name": "x", "value": 1.25, "unit": "ratio", "bar": 1.25, "holds": true,
            "repeats": [9.0, 1.0, 1.25],
        });
        assert_eq!(json, expected);
        let open = Bar::new("y", "ms", None, vec![2.0]);
        assert_eq!((open.bar, open.holds), (None, None));
        let unmeasured = Bar::new("z", "ratio", Some(Limit::AtLeast(0.9)), vec![]);
        assert_eq!((unmeasured.value, unmeasured.holds), (None, None));
    }
}
