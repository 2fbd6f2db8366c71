//! All bars of a run of `all`, as one Markdown table.

use std::{
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use anyhow::Context as _;
use serde::Deserialize;

use crate::report::figure;

/// What is read back of a subcommand's JSON.
#[derive(Clone, Debug, Deserialize)]
pub struct Reported {
    machine: Machine,
    commit: Option<String>,
    bars: Vec<Judged>,
}

#[derive(Clone, Debug, Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: Option<u64>,
    kernel: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Judged {
    name: String,
    value: Option<f64>,
    unit: String,
    bar: Option<f64>,
    holds: Option<bool>,
    // An infinite one is null.
    repeats: Vec<Option<f64>>,
}

impl Reported {
    /// Reads a subcommand's JSON.
    ///
    /// # Errors
    ///
    /// The file is missing or is no report.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("reading {}", path.display());
        let text = fs::read_to_string(path).with_context(context)?;
        serde_json::from_str(&text).with_context(context)
    }
}

/// A subcommand and what came of it.
#[derive(Debug)]
pub struct Part {
    /// The subcommand.
    pub name: &'static str,
    /// Its JSON, or why there is none. A measurement that fails by its own bars has both.
    pub reported: Option<Reported>,
    /// What went wrong.
    pub fault: Option<String>,
}

/// A whole run.
#[derive(Debug)]
pub struct Summary {
    /// The command line.
    pub command: String,
    /// What the draws began with.
    pub seed: u64,
    /// When it began, RFC 3339.
    pub began: String,
    /// In the order in which they ran.
    pub parts: Vec<Part>,
    /// What was not run, and why.
    pub left_out: Vec<String>,
}

/// Figures of others beside ours, by bar. Clipper's are those of its paper (NSDI 2017) and of the
/// figure data that its authors published.
const BESIDE: [(&str, &str); 15] = [
    ("p99_over_objective", "Clipper: 1.01 to 1.44, queue wait left out"),
    ("ramp_s", "Clipper: 2.7 to 6.3"),
    ("gain_over_none", "Clipper: 25.5 (linear SVM)"),
    ("forest_vs_best_fixed", "Clipper: 72 x none (forest)"),
    ("replicas_gain_4_threads", "Clipper: 3.96 (GPU, 10 Gbit/s)"),
    ("replicas_gain_4_processes", "Clipper: 3.96 (GPU, 10 Gbit/s)"),
    ("batch_wait_gain", "Clipper: 3.35 (scikit-learn SVM, 2 ms)"),
    ("feedback_cache_gain", "Clipper: 1.63"),
    ("exp3_cumulative_error", "Clipper's rule, replicated: .1525"),
    ("exp4_cumulative_error", "Clipper's rule, replicated: .1467"),
    ("confident_error_4_agree", "Clipper: .0610 of 80.4 %"),
    ("confident_error_5_agree", "Clipper: .0235 of 40.5 %"),
    ("feedbacks_per_s", "Clipper: 10,929 (4 models, cached)"),
    ("feedbacks_to_beat_global", "Clipper: 1 (speech, 168 users)"),
    ("p99_over_objective_16_arms", "Clipper: 1.15"),
];

impl Summary {
    /// Bars that hold, that do not, and that were not measured though something is asked of them.
    pub fn counts(&self) -> (usize, usize, usize) {
        let bars = || {
            let reported = self.parts.iter().filter_map(|part| part.reported.as_ref());
            reported.flat_map(|reported| &reported.bars)
        };
        let held = bars().filter(|bar| bar.holds == Some(true)).count();
        let missed = bars().filter(|bar| bar.holds == Some(false)).count();
        let unmeasured = bars().filter(|bar| bar.bar.is_some() && bar.value.is_none()).count();
        (held, missed, unmeasured)
    }

    /// Names of the parts that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        self.parts.iter().filter(|part| part.fault.is_some()).map(|part| part.name).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Results\n")?;
        if let Some(first) = self.parts.iter().find_map(|part| part.reported.as_ref()) {
            let Machine { cpu, cores, memory_bytes, kernel } = &first.machine;
            let memory = memory_bytes.map_or(0, |bytes| bytes >> 30);
            writeln!(f, "- machine: {cpu}, {cores} processors, {memory} GiB, {kernel}")?;
            writeln!(f, "- commit: {}", first.commit.as_deref().unwrap_or("none"))?;
        }
        writeln!(f, "- command: `{}`", self.command)?;
        writeln!(f, "- seed: {}\n- began: {}", self.seed, self.began)?;
        let (held, missed, unmeasured) = self.counts();
        writeln!(f, "- bars: {held} hold, {missed} do not, {unmeasured} were not measured")?;
        for reason in &self.left_out {
            writeln!(f, "- left out: {reason}")?;
        }
        for part in &self.parts {
            if let Some(fault) = &part.fault {
                writeln!(f, "- failed: {}: {fault}", part.name)?;
            }
        }
        writeln!(
            f,
            "\n| subcommand | bar | value | unit | asked | holds | repeats | beside |\n\
             |---|---|--:|---|---|---|---|---|"
        )?;
        for part in &self.parts {
            for bar in part.reported.iter().flat_map(|reported| &reported.bars) {
                writeln!(f, "{}", row(part.name, bar)?)?;
            }
        }
        Ok(())
    }
}

fn row(subcommand: &str, bar: &Judged) -> Result<String, fmt::Error> {
    let value = bar.value.map_or_else(|| "unmeasured".into(), figure);
    let holds = bar.holds.map_or("", |holds| if holds { "yes" } else { "**no**" });
    // The JSON has the bare number: which side of it is right follows from the verdict.
    let asked = match (bar.bar, bar.value, bar.holds) {
        (Some(limit), Some(value), Some(holds)) => {
            format!("{} {limit}", if (value <= limit) == holds { "≤" } else { "≥" })
        }
        (Some(limit), ..) => limit.to_string(),
        _ => String::new(),
    };
    let mut repeats = String::new();
    for (at, repeat) in bar.repeats.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        write!(repeats, "{space}{}", repeat.map_or_else(|| "∞".into(), figure))?;
    }
    let beside = BESIDE.iter().find(|(name, _)| *name == bar.name).map_or("", |(_, said)| said);
    Ok(format!(
        "| {subcommand} | `{}` | {value} | {} | {asked} | {holds} | {repeats} | {beside} |",
        bar.name, bar.unit
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Bar, Limit, Report};

    #[test]
    fn a_report_comes_back_as_a_row_with_the_right_side_of_its_bar() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("x.json");
        let at_most = |limit| Some(Limit::AtMost(limit));
        let bars = vec![
            Bar::new("ramp_s", "s", at_most(0.5), vec![0.25, 0.5, 0.75]),
            Bar::new("served", "ratio", Some(Limit::AtLeast(0.9)), vec![0.5]),
            Bar::new("fast", "ratio", Some(Limit::AtLeast(0.9)), vec![1.5]),
            Bar::new("open", "us", None, vec![3.0]),
            Bar::new("never", "ratio", at_most(1.0), Vec::new()),
            Bar::new("endless", "ratio", at_most(1.0), vec![f64::INFINITY]),
        ];
        Report::new(7, serde_json::json!({}), bars).write(&path).unwrap();
        let part = Part {
            name: "batching",
            reported: Some(Reported::read(&path).unwrap()),
            fault: Some("it broke".into()),
        };
        let summary = Summary {
            command: "skysail-bench all --quick".into(),
            seed: 7,
            began: "2026-01-01".into(),
            parts: vec![part],
            left_out: vec!["rivals".into()],
        };
        let text = summary.to_string();
        for line in [
            "| batching | `ramp_s` | 0.500 | s | ≤ 0.5 | yes | 0.250 0.500 0.750 | Clipper: 2.7 to 6.3 |",
            "| batching | `served` | 0.500 | ratio | ≥ 0.9 | **no** | 0.500 |  |",
            "| batching | `fast` | 1.500 | ratio | ≥ 0.9 | yes | 1.500 |  |",
            "| batching | `open` | 3.000 | us |  |  | 3.000 |  |",
            "| batching | `never` | unmeasured | ratio | 1 |  |  |  |",
            "- left out: rivals",
            "- failed: batching: it broke",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert_eq!(summary.failed(), ["batching"]);
        assert_eq!(summary.counts().0, 2);
    }
}
