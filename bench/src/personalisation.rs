//! Personalisation: owners whose best model differs. How many labels an owner must give until the
//! choice made for the owner beats the one made for all.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    chart::{Chart, Line},
    process::Programs,
    recorded::Recorded,
    report::{Bar, print_bars},
    selection::world::{Setup, World, answered, label, query},
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// A recording with owners.
    pub recording: PathBuf,
    /// The policy, as TOML.
    pub policy: String,
    /// Every owner begins anew in each.
    pub trials: u64,
    /// Queries of an owner in a trial, each followed by its label.
    pub queries: usize,
    /// What the draws begin with.
    pub seed: u64,
    /// Where the chart goes.
    pub charts: Option<PathBuf>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The policy.
    pub policy: String,
    /// Owners.
    pub owners: usize,
    /// Models.
    pub models: usize,
    /// Share of right answers after so many labels of the owner, with a context per owner.
    pub by_feedbacks: Vec<f64>,
    /// The same without contexts, after as many labels in all as those queries had.
    pub global: f64,
    /// Of each owner's best model, known beforehand.
    pub own_best: f64,
    /// Of the best model for all, known beforehand.
    pub best_for_all: f64,
    /// Labels after which the choice for the owner beats the one for all, and goes on to.
    pub feedbacks_to_beat_global: Option<usize>,
}

/// Neighbouring points that are averaged before they are compared.
const SMOOTH: usize = 5;

/// Runs all of it.
///
/// # Errors
///
/// The recording is missing, or a process did not start.
pub fn measure(settings: &Settings) -> anyhow::Result<Report> {
    ensure!(
        settings.recording.is_file(),
        "there is no {}; bench/README.md says how to build it",
        settings.recording.display()
    );
    let recorded = Recorded::read(&settings.recording)?;
    ensure!(!recorded.owners.is_empty(), "the recording has no owners");
    let owners = recorded.owners.iter().max().map_or(0, |last| last + 1);
    let rows_of: Vec<Vec<usize>> = (0..owners)
        .map(|owner| (0..recorded.rows()).filter(|row| recorded.owners[*row] == owner).collect())
        .collect();
    ensure!(rows_of.iter().all(|rows| !rows.is_empty()), "an owner has no row");
    let runtime = tokio::runtime::Runtime::new()?;
    let (with, without) = runtime.block_on(async {
        let setup = Setup {
            policy: &settings.policy,
            objective: Duration::from_secs(1),
            models: None,
            apart: &[],
            delay: None,
            cache: false,
            more: "",
        };
        let world = World::start(&settings.programs, &recorded, &setup, settings.seed).await?;
        let with = pass(&world, &recorded, &rows_of, settings, true).await?;
        let without = pass(&world, &recorded, &rows_of, settings, false).await?;
        anyhow::Ok((with, without))
    })?;
    let share = |rows: &[usize], model: usize| {
        let right =
            rows.iter().filter(|row| recorded.says(**row, model) == recorded.targets[**row]);
        right.count() as f64 / rows.len() as f64
    };
    let models = recorded.models.len();
    let best = |rows: &[usize]| (0..models).map(|m| share(rows, m)).fold(0.0, f64::max);
    // Owners count alike, as they do in the passes.
    let for_all =
        |model: usize| rows_of.iter().map(|rows| share(rows, model)).sum::<f64>() / owners as f64;
    let global = without.iter().sum::<f64>() / without.len() as f64;
    let report = Report {
        policy: settings.policy.clone(),
        owners,
        models,
        feedbacks_to_beat_global: beats(&with, global),
        by_feedbacks: with,
        global,
        own_best: rows_of.iter().map(|rows| best(rows)).sum::<f64>() / owners as f64,
        best_for_all: (0..models).map(for_all).fold(0.0, f64::max),
    };
    if let Some(folder) = &settings.charts {
        report.chart(&folder.join("personalisation.svg"))?;
    }
    Ok(report)
}

/// The first count of labels from which on the smoothed share stays above `global`.
fn beats(shares: &[f64], global: f64) -> Option<usize> {
    let smooth = smooth(shares);
    let last_below = smooth.iter().rposition(|share| *share <= global);
    let first = last_below.map_or(0, |place| place + 1);
    (first < smooth.len()).then_some(first)
}

fn smooth(shares: &[f64]) -> Vec<f64> {
    shares.windows(SMOOTH.min(shares.len().max(1))).map(mean).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Share of right answers by the owner's place in its queries, mean over owners and trials.
async fn pass(
    world: &World,
    recorded: &Recorded,
    rows_of: &[Vec<usize>],
    settings: &Settings,
    contexts: bool,
) -> anyhow::Result<Vec<f64>> {
    let mut right = vec![0_usize; settings.queries];
    for trial in 0..settings.trials {
        world.reset().await?;
        let mut owners = JoinSet::new();
        for (owner, rows) in rows_of.iter().enumerate() {
            let seed = settings.seed.wrapping_add(trial).wrapping_mul(1000) + owner as u64;
            let mut rng = StdRng::seed_from_u64(seed);
            let drawn: Vec<_> = (0..settings.queries)
                .map(|_| rows[rng.random_range(0..rows.len())])
                .map(|row| (row, recorded.targets[row]))
                .collect();
            let context = if contexts { format!("{trial}-{owner}") } else { String::new() };
            let (mut prediction, mut feedback) = (world.prediction(), world.feedback());
            owners.spawn(async move {
                let mut said = Vec::with_capacity(drawn.len());
                for (row, truth) in drawn {
                    let response = prediction.predict(query(row, &context)).await?.into_inner();
                    said.push(answered(&response) == Some(truth));
                    feedback.observe(label(response.decision_id, truth)).await?;
                }
                anyhow::Ok(said)
            });
        }
        while let Some(said) = owners.join_next().await {
            let said = said.context("an owner's task ended early")??;
            for (right, said) in right.iter_mut().zip(said) {
                *right += usize::from(said);
            }
        }
    }
    let of = (rows_of.len() as u64 * settings.trials) as f64;
    Ok(right.into_iter().map(|right| right as f64 / of).collect())
}

impl Report {
    /// The one bar, without a bound.
    pub fn bars(&self) -> Vec<Bar> {
        let first = self.feedbacks_to_beat_global.map(|n| n as f64).into_iter().collect();
        vec![Bar::new("feedbacks_to_beat_global", "labels", None, first)]
    }

    fn chart(&self, path: &Path) -> anyhow::Result<()> {
        let smooth = smooth(&self.by_feedbacks);
        let flat = |name: &str, share: f64| Line {
            name: name.to_owned(),
            points: vec![(0.0, share), (smooth.len() as f64 - 1.0, share)],
        };
        let low = smooth.iter().copied().fold(self.global.min(self.best_for_all), f64::min);
        let points = smooth.iter().enumerate().map(|(place, share)| (place as f64, *share));
        Chart {
            title: "Right answers by the labels that an owner has given",
            x: "labels of the owner",
            y: "share of right answers",
            range: ((low - 0.03).max(0.0), 1.0),
            logarithmic: false,
            shaded: None,
            lines: vec![
                Line { name: "a context per owner".into(), points: points.collect() },
                flat("one choice for all, learned", self.global),
                flat("the best model for all", self.best_for_all),
                flat("each owner's best model", self.own_best),
            ],
        }
        .write(path)
    }
}

/// Prints what was found.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, report: &Report, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{} owners, {} models, policy {}: right answers",
        report.owners, report.models, report.policy
    )?;
    for (count, share) in smooth(&report.by_feedbacks).iter().enumerate().step_by(SMOOTH) {
        writeln!(out, "{count:>8} labels {share:>8.4}")?;
    }
    writeln!(
        out,
        "without contexts {:.4}; the best model for all {:.4}; each owner's best {:.4}",
        report.global, report.best_for_all, report.own_best
    )?;
    print_bars(out, bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_must_stay_above() {
        let rising: Vec<f64> = (0..20).map(|n| n as f64 / 20.0).collect();
        assert_eq!(beats(&rising, 0.5), Some(9));
        assert_eq!(beats(&rising, 2.0), None);
        assert_eq!(beats(&rising, -1.0), Some(0));
    }
}
