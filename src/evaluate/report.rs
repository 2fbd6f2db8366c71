//! The table for people, and the JSON for programs.

use serde_json::{Value, json};
use skysail_selection::evaluate::{
    Check, Diagnostics, Estimate, Estimates, History, Options, Report,
};

use super::read::Read;
use crate::say;

/// What reading found, for the heading.
#[derive(Debug)]
pub(super) struct Told {
    application: String,
    files: usize,
    broken: usize,
}

impl Told {
    pub(super) fn new(read: &Read) -> Self {
        Self { application: read.application.clone(), files: read.files, broken: read.broken }
    }
}

/// Prints it.
pub(super) fn show(told: &Told, history: &History, report: &Report, options: &Options) {
    heading(told, history, report);
    say!("");
    for check in &report.audit.checks {
        say!("audit {} {check}", if check.passed { "PASS" } else { "FAIL" });
    }
    match report.audit.failed() {
        None => say!("The log's probabilities look like those that were drawn from."),
        Some(_) => say!(
            "The log's probabilities are not those that were drawn from: choices are overridden, or \
             others are recorded. No number below would mean anything."
        ),
    }
    say!("");
    table(report, options);
    for judged in &report.policies {
        if let Err(refusal) = &judged.estimates {
            say!("");
            say!("{}: refused: {refusal}", judged.name);
        }
    }
}

fn heading(told: &Told, history: &History, report: &Report) {
    say!(
        "application {}: {} decisions in {} files, {} rows with feedback",
        told.application,
        report.decisions,
        told.files,
        report.rows
    );
    for (count, what) in [
        (told.broken, "lines could not be read"),
        (history.unjoined(), "lines of feedback are for decisions that are not here"),
        (history.unfit(), "rows of feedback do not fit their decision"),
    ] {
        if count > 0 {
            say!("{count} {what}");
        }
    }
}

const COLUMNS: [&str; 11] = [
    "policy", "reward", "interval", "by", "IPS", "clipped", "SNIPS", "DR", "DM", "worth", "mean w",
];

fn table(report: &Report, options: &Options) {
    let mut rows: Vec<[String; 11]> = vec![COLUMNS.map(str::to_owned)];
    let mut logged: [String; 11] = std::array::from_fn(|_| String::new());
    logged[0] = "(as logged)".into();
    logged[1] = report.logged.map_or_else(|| "-".into(), |estimate| number(estimate.value));
    logged[2] = interval(report.logged);
    logged[3] = "mean".into();
    rows.push(logged);
    for judged in &report.policies {
        rows.push(match &judged.estimates {
            Ok(estimates) => row(&judged.name, &judged.diagnostics, estimates),
            Err(_) => refused(&judged.name, &judged.diagnostics),
        });
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 11] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        say!("{}", line.trim_end());
    }
    say!("");
    say!(
        "reward: mean per row, with an interval that holds {} % of the time (normal, clustered by \
         decision); clipped at {}; worth: in decisions of the policy's own; DM is as wrong as its \
         model and has no interval",
        options.confidence * 100.0,
        options.clip
    );
}

fn row(name: &str, diagnostics: &Diagnostics, estimates: &Estimates) -> [String; 11] {
    let (by, best) = estimates.best();
    let optional = |estimate: Option<Estimate>| estimate.map_or("-".into(), |e| number(e.value));
    [
        name.into(),
        number(best.value),
        interval(Some(best)),
        by.into(),
        number(estimates.ips.value),
        number(estimates.clipped.value),
        optional(estimates.snips),
        optional(estimates.doubly_robust),
        optional(estimates.direct),
        format!("{:.0}", diagnostics.effective),
        format!("{:.3}", diagnostics.mean_weight),
    ]
}

fn refused(name: &str, diagnostics: &Diagnostics) -> [String; 11] {
    let mut row: [String; 11] = std::array::from_fn(|_| "-".into());
    row[0] = name.into();
    row[1] = "refused".into();
    // None for a target that combines: no row of it could be weighed.
    if diagnostics.rows > 0 {
        row[9] = format!("{:.0}", diagnostics.effective);
        row[10] = format!("{:.3}", diagnostics.mean_weight);
    }
    row
}

fn number(value: f64) -> String {
    format!("{value:.4}")
}

fn interval(estimate: Option<Estimate>) -> String {
    let interval = estimate.and_then(|estimate| estimate.interval);
    interval.map_or("-".into(), |(from, to)| format!("[{from:.4}, {to:.4}]"))
}

/// All of it. What is no number is null.
pub(super) fn json(told: &Told, history: &History, report: &Report, options: &Options) -> Value {
    let policies: Vec<Value> = report
        .policies
        .iter()
        .map(|judged| {
            json!({
                "policy": judged.name,
                "diagnostics": diagnostics(&judged.diagnostics),
                "estimates": judged.estimates.as_ref().ok().map(estimates),
                "refusal": judged.estimates.as_ref().err().map(ToString::to_string),
            })
        })
        .collect();
    json!({
        "application": told.application,
        "decisions": report.decisions,
        "rows": report.rows,
        "broken_lines": told.broken,
        "unjoined_feedback": history.unjoined(),
        "unfit_rows": history.unfit(),
        "clip": options.clip,
        "confidence_ratio": options.confidence,
        "seed": options.seed,
        "logged": report.logged.map(estimate),
        "audit": report.audit.checks.iter().map(check).collect::<Vec<_>>(),
        "policies": policies,
    })
}

fn estimate(estimate: Estimate) -> Value {
    json!({
        "value": estimate.value,
        "standard_error": estimate.error,
        "interval": estimate.interval.map(|(from, to)| [from, to]),
    })
}

fn estimates(estimates: &Estimates) -> Value {
    json!({
        "best": estimates.best().0,
        "IPS": estimate(estimates.ips),
        "clipped": estimate(estimates.clipped),
        "SNIPS": estimates.snips.map(estimate),
        "sub_gaussian": estimate(estimates.sub_gaussian),
        "cressie_read": estimates.cressie_read,
        "DM": estimates.direct.map(estimate),
        "DR": estimates.doubly_robust.map(estimate),
    })
}

fn diagnostics(of: &Diagnostics) -> Value {
    json!({
        "decisions_with_feedback": of.joined,
        "rows": of.rows,
        "effective_decisions": of.effective,
        "mean_weight": of.mean_weight,
        "mean_weight_error": of.mean_weight_error,
        "largest_weight": of.largest_weight,
        "uncovered_ratio": of.uncovered.as_ref().map_or(0.0, |(_, share)| *share),
    })
}

fn check(check: &Check) -> Value {
    json!({
        "what": check.what,
        "got": check.got,
        "expected": check.expected,
        "z": check.z,
        "passed": check.passed,
    })
}
