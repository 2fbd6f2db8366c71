//! Selection: what each policy loses while a model fails, in simulation and through the live
//! system; what a draw costs; and feedback that counts once.
//!
//! The failure experiment is that of Clipper (NSDI 2017, figure 8): the best of five models answers
//! at random for a quarter of the queries, and comes back.

mod confidence;
mod feedback;
mod live;
mod simulation;
pub(crate) mod world;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context as _;
use serde::Serialize;

pub use confidence::{Agreement, Ensemble};
pub use feedback::{Feedbacks, Labelled};
pub use live::Live;

use self::simulation::{Course, Named, Simulation, draw_us};
use crate::{
    chart::{Chart, Line},
    process::Programs,
    recorded::Recorded,
    report::{Bar, Limit, figure, median, print_bars},
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// Folder of Clipper's recorded scores; without it the bars on them are not measured.
    pub data: Option<PathBuf>,
    /// Folder of ONNX models of Fashion-MNIST, and of its test images.
    pub fashion: (PathBuf, PathBuf),
    /// Where the charts go.
    pub charts: Option<PathBuf>,
    /// Trials of the simulation.
    pub trials: u64,
    /// Decisions that get feedback, per repeat.
    pub feedbacks: usize,
    /// Repeats of what is timed.
    pub repeats: usize,
    /// Queries of the live experiment, and how many a second.
    pub live: (usize, f64),
    /// What the draws begin with.
    pub seed: u64,
}

/// One policy or baseline in the failure experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub name: String,
    /// Wrong answers over all queries, mean over the trials.
    pub cumulative_error: f64,
    /// The same in each eighth of the queries.
    pub segments: Vec<f64>,
    #[serde(skip)]
    curve: Vec<(f64, f64)>,
}

/// The failure experiment on one recording.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Which recording.
    pub recording: &'static str,
    /// Error of each model on the whole recording, best first.
    pub models: Vec<(String, f64)>,
    /// Policies, then baselines.
    pub rows: Vec<Row>,
    /// Weight of the worst model under `hedge`, late nine times in ten; median over the trials.
    pub late_arm_weight: f64,
    /// All models together, and how sure they are.
    pub ensemble: Ensemble,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// By recording.
    pub failure: Vec<Failure>,
    /// The same through the live system.
    pub live: Vec<Live>,
    /// Microseconds per draw at 8 arms, by policy; one entry per repeat.
    pub select_us_8_arms: Vec<(String, Vec<f64>)>,
    /// One entry per repeat.
    pub feedback: Vec<Feedbacks>,
    /// Queries with labels, with and without the cache; one entry per repeat.
    pub labelled: Vec<Labelled>,
    /// What a reader must know.
    pub notes: Vec<&'static str>,
}

const POLICIES: [Named; 8] = [
    Named { title: "hedge", policy: "hedge", parameters: &[("eta", 0.2), ("share", 0.01)] },
    Named { title: "exp3", policy: "exp3", parameters: &[("eta", 0.05), ("floor", 0.0)] },
    Named { title: "exp4", policy: "exp4", parameters: &[("eta", 0.2), ("floor", 0.0)] },
    Named { title: "thompson", policy: "thompson", parameters: &[] },
    Named {
        title: "thompson, discount .999",
        policy: "thompson",
        parameters: &[("discount", 0.999)],
    },
    Named { title: "ucb1", policy: "ucb1", parameters: &[] },
    Named { title: "epsilon_greedy", policy: "epsilon_greedy", parameters: &[] },
    Named { title: "squarecb", policy: "squarecb", parameters: &[] },
];

/// Of the policies, those in the chart.
const SHOWN: [&str; 4] = ["hedge", "exp3", "exp4", "thompson, discount .999"];

/// Queries of a trial; a quarter before, a quarter broken, half after.
const COURSE: Course = Course { queries: 20_000, broken_at: 5_000, mended_at: 10_000, late: 0.0 };

const NOTES: [&str; 3] = [
    "feedback follows each answer at once; figures are means over the trials, and medians of repeats",
    "hedge, exp3 and exp4 have the rates of Clipper's notebook and no floor; the others their defaults",
    "in the live experiment the container is killed (nobody answers), in the simulation it answers \
     at random",
];

/// Runs all of it.
///
/// # Errors
///
/// A recording or a program is missing, or a process did not start.
pub fn measure(settings: &Settings) -> anyhow::Result<Report> {
    let fashion = Recorded::fashion(&settings.fashion.0, &settings.fashion.1)?;
    let clipper = settings.data.as_deref().map(|data| Recorded::clipper(Some(data))).transpose()?;
    let mut failure = Vec::new();
    for (recording, recorded) in [("cifar10", clipper.as_ref()), ("fashion-mnist", Some(&fashion))]
    {
        if let Some(recorded) = recorded {
            failure.push(simulate(recording, recorded, settings)?);
        }
    }
    let mut costs = Vec::new();
    for policy in skysail_selection::policy::KNOWN_POLICIES {
        let features = if matches!(policy, "linucb" | "lin_thompson") { 16 } else { 0 };
        let draw = || draw_us(policy, &[], 8, features, 20_000);
        let repeats = (0..settings.repeats).map(|_| draw()).collect::<anyhow::Result<Vec<_>>>();
        costs.push((policy.to_owned(), repeats.with_context(|| policy.to_owned())?));
    }
    let recorded = clipper.as_ref().unwrap_or(&fashion);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lives = Vec::new();
    let plan = live::Plan::new(settings.live.0, settings.live.1);
    let policy = "{ name = \"hedge\" }";
    let live = live::run(&settings.programs, recorded, policy, plan, settings.seed);
    lives.push(runtime.block_on(live)?);
    if let Some(folder) = &settings.charts {
        for failure in &failure {
            failure.chart(&folder.join(format!("selection-failure-{}.svg", failure.recording)))?;
        }
        for live in &lives {
            live.chart(recorded, &folder.join("selection-live.svg"))?;
        }
    }
    let (mut feedbacks, mut labelled) = (Vec::new(), Vec::new());
    for repeat in 0..settings.repeats {
        let seed = settings.seed.wrapping_add(repeat as u64);
        let run = feedback::run(&settings.programs, recorded, settings.feedbacks, seed);
        feedbacks.push(runtime.block_on(run)?);
        let pairs = settings.feedbacks / 2;
        let run = feedback::labelled(&settings.programs, recorded, pairs, seed);
        labelled.push(runtime.block_on(run)?);
    }
    Ok(Report {
        failure,
        live: lives,
        select_us_8_arms: costs,
        feedback: feedbacks,
        labelled,
        notes: NOTES.to_vec(),
    })
}

fn simulate(
    recording: &'static str,
    recorded: &Recorded,
    settings: &Settings,
) -> anyhow::Result<Failure> {
    let simulation = Simulation::new(recorded, settings.seed)?;
    let seeds = || (0..settings.trials).map(|trial| settings.seed.wrapping_add(trial));
    let mut rows = Vec::new();
    for named in &POLICIES {
        let trials = seeds().map(|seed| Ok(simulation.policy(named, &COURSE, seed)?.right));
        rows.push(Row::new(named.title, trials.collect::<anyhow::Result<_>>()?));
    }
    let ranked = recorded.ranked();
    for model in &ranked {
        let trials = seeds().map(|seed| simulation.alone(*model, &COURSE, seed)).collect();
        rows.push(Row::new(&format!("{} alone", recorded.models[*model]), trials));
    }
    rows.push(Row::new(
        "uniform vote",
        seeds().map(|seed| simulation.vote(&COURSE, seed)).collect(),
    ));
    let oracle = seeds().map(|seed| {
        let best = simulation.alone(simulation.best(), &COURSE, seed);
        let second = simulation.alone(ranked[1.min(ranked.len() - 1)], &COURSE, seed);
        let broken = COURSE.broken_at..COURSE.mended_at;
        let pick = |place: usize| if broken.contains(&place) { second[place] } else { best[place] };
        (0..COURSE.queries).map(pick).collect()
    });
    rows.push(Row::new("oracle (switches models)", oracle.collect()));
    let late = Course { broken_at: 0, mended_at: 0, late: 0.9, ..COURSE };
    let weights = seeds()
        .take(5)
        .map(|seed| Ok(simulation.policy(&POLICIES[0], &late, seed)?.weights[simulation.worst()]));
    let weights = weights.collect::<anyhow::Result<Vec<_>>>()?;
    let models = ranked.iter().map(|at| (recorded.models[*at].clone(), recorded.error(*at)));
    let calm = Course { broken_at: 0, mended_at: 0, ..COURSE };
    let learned = simulation.policy(&POLICIES[0], &calm, settings.seed)?.weights;
    let best = ranked.first().map_or(f64::NAN, |best| recorded.error(*best));
    let agreeing = simulation.agreement(&learned);
    let is_clippers = recording == "cifar10";
    let ensemble = Ensemble::new(&agreeing, recorded.models.len(), best, is_clippers);
    Ok(Failure {
        recording,
        models: models.collect(),
        rows,
        late_arm_weight: median(&weights).unwrap_or(f64::NAN),
        ensemble,
    })
}

impl Row {
    fn new(name: &str, trials: Vec<Vec<bool>>) -> Self {
        let error = |from: usize, to: usize| {
            let wrong: usize =
                trials.iter().map(|right| right[from..to].iter().filter(|r| !**r).count()).sum();
            wrong as f64 / (trials.len() * (to - from)) as f64
        };
        let part = COURSE.queries / 8;
        let curves: Vec<_> = trials.iter().map(|right| live::cumulative(right)).collect();
        let points = curves.first().map_or(0, Vec::len);
        let mean = |at: usize| {
            let sum: f64 = curves.iter().map(|curve| curve[at].1).sum();
            (curves[0][at].0, sum / curves.len() as f64)
        };
        Self {
            name: name.to_owned(),
            cumulative_error: error(0, COURSE.queries),
            segments: (0..8).map(|at| error(at * part, (at + 1) * part)).collect(),
            curve: (0..points).map(mean).collect(),
        }
    }
}

impl Failure {
    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn chart(&self, path: &std::path::Path) -> anyhow::Result<()> {
        let shown: Vec<_> = self.rows.iter().filter(|row| self.is_shown(&row.name)).collect();
        let most = shown.iter().map(|row| row.cumulative_error).fold(0.0, f64::max);
        Chart {
            title: "Cumulative error while the best model answers at random (shaded)",
            x: "queries",
            y: "share of wrong answers so far",
            range: (0.0, (most * 1.3).min(1.0)),
            logarithmic: false,
            shaded: Some((COURSE.broken_at as f64, COURSE.mended_at as f64)),
            lines: shown
                .into_iter()
                .map(|row| Line { name: row.name.clone(), points: row.curve.clone() })
                .collect(),
        }
        .write(path)
    }

    /// Some of the policies, the best two models, and the other baselines.
    fn is_shown(&self, name: &str) -> bool {
        let best = || self.models.iter().take(2).any(|(model, _)| name == format!("{model} alone"));
        let is_policy = POLICIES.iter().any(|policy| policy.title == name);
        SHOWN.contains(&name) || best() || !(is_policy || name.ends_with(" alone"))
    }
}

impl Live {
    fn chart(&self, recorded: &Recorded, path: &std::path::Path) -> anyhow::Result<()> {
        let ranked = recorded.ranked();
        let gone = self.plan.killed_at..self.plan.back_at;
        let alone = |model: usize| -> Vec<bool> {
            let says = |(place, row): (usize, &usize)| {
                !(model == ranked[0] && gone.contains(&place))
                    && recorded.says(*row, model) == recorded.targets[*row]
            };
            self.rows.iter().enumerate().map(says).collect()
        };
        let mut lines =
            vec![Line { name: "Skysail, hedge".into(), points: live::cumulative(&self.right) }];
        for model in ranked.iter().take(3) {
            let name = format!("{} alone", recorded.models[*model]);
            lines.push(Line { name, points: live::cumulative(&alone(*model)) });
        }
        Chart {
            title: "Live: the best model's container is killed (shaded) and brought back",
            x: "queries",
            y: "share of wrong answers so far",
            range: (0.0, 0.5),
            logarithmic: false,
            shaded: Some((self.plan.killed_at as f64, self.plan.back_at as f64)),
            lines,
        }
        .write(path)
    }
}

/// A value that must be within `by` of `of`, as how far it is off.
fn within(name: &str, value: Option<f64>, of: f64, by: f64) -> Bar {
    let mut bar =
        Bar::new(name, "ratio", Some(Limit::AtMost(of + by)), value.into_iter().collect());
    bar.holds = value.map(|value| (value - of).abs() <= by);
    bar
}

impl Report {
    /// Each figure beside the bar that it must meet.
    pub fn bars(&self) -> Vec<Bar> {
        let cifar = self.failure.iter().find(|failure| failure.recording == "cifar10");
        let error = |name: &str| Some(cifar?.row(name)?.cumulative_error);
        // Queries 12,500 to 15,000, against the best model in the same part.
        let recovery = || {
            let cifar = cifar?;
            let best = cifar.row(&format!("{} alone", cifar.models.first()?.0))?;
            Some(cifar.row("hedge")?.segments.get(5)? - best.segments.get(5)?)
        };
        let at_most = |name: &str, unit, limit: f64, repeats: Vec<f64>| {
            Bar::new(name, unit, Some(Limit::AtMost(limit)), repeats)
        };
        let costs = |except: &str| {
            let worst = |repeat: usize| {
                let costs = self.select_us_8_arms.iter().filter(|(policy, _)| policy != except);
                costs.filter_map(|(_, repeats)| repeats.get(repeat)).copied().fold(0.0, f64::max)
            };
            let repeats = self.select_us_8_arms.first().map_or(0, |(_, repeats)| repeats.len());
            (0..repeats).map(worst).collect::<Vec<_>>()
        };
        let linear = self.select_us_8_arms.iter().find(|(policy, _)| policy == "lin_thompson");
        let of = |what: fn(&Feedbacks) -> f64| self.feedback.iter().map(what).collect::<Vec<_>>();
        let mut bars = vec![
            within("exp3_cumulative_error", error("exp3"), 0.1525, 0.01),
            within("exp4_cumulative_error", error("exp4"), 0.1467, 0.01),
            at_most("hedge_cumulative_error", "ratio", 0.13, error("hedge").into_iter().collect()),
            at_most("hedge_recovery_error", "ratio", 0.01, recovery().into_iter().collect()),
            at_most(
                "late_arm_weight",
                "ratio",
                0.2,
                cifar.map(|cifar| cifar.late_arm_weight).into_iter().collect(),
            ),
            at_most("select_us_8_arms", "us", 5.0, costs("lin_thompson")),
        ];
        if let Some((_, repeats)) = linear {
            bars.push(at_most("select_us_8_arms_lin_thompson", "us", 50.0, repeats.clone()));
        }
        bars.push(Bar::new(
            "feedbacks_per_s",
            "1/s",
            Some(Limit::AtLeast(20_000.0)),
            of(|feedback| feedback.per_s),
        ));
        bars.push(at_most("feedback_lost", "decisions", 0.0, of(|feedback| feedback.lost)));
        bars.push(at_most("feedback_doubled", "decisions", 0.0, of(|feedback| feedback.doubled)));
        let gain = |one: &Labelled| one.cached_per_s / one.uncached_per_s;
        let gains = self.labelled.iter().map(gain).collect();
        bars.push(Bar::new("feedback_cache_gain", "ratio", None, gains));
        for one in cifar.iter().flat_map(|cifar| &cifar.ensemble.agreement) {
            let name = format!("confident_error_{}_agree", one.models);
            bars.push(Bar::new(&name, "ratio", None, one.confident_error.into_iter().collect()));
        }
        bars
    }
}

/// Prints the tables and the bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, report: &Report, bars: &[Bar]) -> io::Result<()> {
    for failure in &report.failure {
        writeln!(out, "{}: error over all queries, and in each eighth", failure.recording)?;
        for row in &failure.rows {
            let segments: Vec<_> = row.segments.iter().map(|part| format!("{part:.3}")).collect();
            writeln!(out, "{:>28}{:>9.4}  {}", row.name, row.cumulative_error, segments.join(" "))?;
        }
        let Ensemble { error, best_model_error, relative_cut, agreement } = &failure.ensemble;
        writeln!(
            out,
            "ensemble without a failure: {error:.4}, the best model alone {best_model_error:.4}: cut \
             by {:.1} %",
            relative_cut * 100.0
        )?;
        for one in agreement {
            let say = |value: Option<f64>| value.map_or_else(|| "none".into(), figure);
            let (confident, unsure) = (say(one.confident_error), say(one.unsure_error));
            let share = one.confident * 100.0;
            writeln!(
                out,
                "{:>5} or more agree on {share:.1} %: wrong {confident}, of the others {unsure}",
                one.models
            )?;
        }
    }
    for live in &report.live {
        writeln!(
            out,
            "live: {:.4} ({:.4} {:.4} {:.4}: before, without, after); {} alone {:.4}, the second \
             best alone {:.4}; {} queries and {} feedbacks failed",
            live.cumulative_error,
            live.segments[0],
            live.segments[1],
            live.segments[2],
            live.killed,
            live.killed_alone,
            live.second_alone,
            live.failed,
            live.feedback_failed,
        )?;
    }
    for (policy, repeats) in &report.select_us_8_arms {
        let us = median(repeats).map_or_else(|| "none".into(), figure);
        writeln!(out, "{policy:>28}{us:>9}  us per draw at 8 arms")?;
    }
    print_bars(out, bars)?;
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}
