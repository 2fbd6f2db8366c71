//! A soak: queries, labels, and a container that is killed and comes back, for as long as one likes.
//! Memory, descriptors, threads and p99 must stay level, and every label must count once.

mod judge;

use std::{
    collections::HashMap,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::Serialize;
use skysail_proto::pb::v1::{self, FeedbackOutcome};
use tokio::{sync::Mutex, task::JoinSet};

pub use judge::{bars, chart, faults};

use crate::{
    process::Programs,
    recorded::Recorded,
    report::{Bar, figure, print_bars},
    resources::Held,
    selection::world::{Setup, World, answered, label, query},
};

/// How to measure.
#[derive(Debug)]
pub struct Settings {
    /// The programs.
    pub programs: Programs,
    /// How long.
    pub duration: Duration,
    /// Queries per second; each one's label follows its answer.
    pub rate: f64,
    /// What the draws begin with.
    pub seed: u64,
    /// Where the chart goes.
    pub charts: Option<PathBuf>,
}

/// The server at a moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Since the beginning.
    pub at_s: f64,
    /// What it holds.
    #[serde(flatten)]
    pub held: Held,
}

/// The queries of a twelfth of the time; in each the container is killed once.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Window {
    /// From the intended start, over all offered; null where that is a miss.
    pub p50_ms: Option<f64>,
    /// The same.
    pub p99_ms: Option<f64>,
    /// Queries.
    pub offered: usize,
    /// Those without an answer.
    pub failed: usize,
    #[serde(skip)]
    took_ms: Vec<f64>,
}

/// What became of the labels.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Labels {
    /// Decisions that were answered, and labelled.
    pub decisions: usize,
    /// Messages, one in ten of which repeats the one before it.
    pub sent: usize,
    /// Decisions of whose messages none was applied, and observations that an arm lacks.
    pub lost: f64,
    /// Decisions that were applied more than once, and observations that an arm has too many.
    pub doubled: f64,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Soak {
    /// How long.
    pub seconds: f64,
    /// Cut off at the front, for what is judged.
    pub warm_up_s: f64,
    /// Queries per second.
    pub rate: f64,
    /// How often the container was killed and came back.
    pub kills: usize,
    /// What the server held.
    pub samples: Vec<Sample>,
    /// What its clients saw.
    pub windows: Vec<Window>,
    /// Feedback.
    pub labels: Labels,
    /// Right answers of all offered.
    pub accuracy: f64,
}

/// Windows, in each of which the container is killed once.
const WINDOWS: u32 = 12;
/// Decisions wait so long for their label. With the default of an hour a soak would only show them
/// pile up.
const FEEDBACK_WINDOW: Duration = Duration::from_secs(20);
const OBJECTIVE: Duration = Duration::from_secs(1);
/// At least so long: decisions pile up for the window of feedback, and processes settle.
const WARM_UP: Duration = Duration::from_secs(30);
/// One label in so many is sent twice.
const TWICE: usize = 10;
/// Of the recording.
const MODELS: usize = 5;
const CLASSES: usize = 10;
const ROWS: usize = 2_000;

/// Runs it.
///
/// # Errors
///
/// A process did not start.
pub fn measure(settings: &Settings) -> anyhow::Result<Soak> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let soak = runtime.block_on(soak(settings))?;
    if let Some(folder) = &settings.charts {
        chart(&soak, &folder.join("soak.svg"))?;
    }
    Ok(soak)
}

/// A query from its intended start to its label.
struct Ended {
    place: usize,
    took_ms: f64,
    said: Option<Said>,
}

struct Said {
    is_right: bool,
    used: Vec<String>,
    /// Arms whose answer may have come between ours and the label.
    late: Vec<String>,
    sent: usize,
    applied: usize,
}

async fn soak(settings: &Settings) -> anyhow::Result<Soak> {
    let recorded = drawn(settings.seed)?;
    let more = format!("feedback_window = \"{}s\"", FEEDBACK_WINDOW.as_secs());
    let setup = Setup {
        policy: "{ name = \"hedge\" }",
        objective: OBJECTIVE,
        models: None,
        apart: &[0],
        delay: None,
        cache: false,
        more: &more,
    };
    let world = World::start(&settings.programs, &recorded, &setup, settings.seed).await?;
    let pid = world.server_pid();
    let (prediction, feedback) = (world.prediction(), world.feedback());
    let world = Arc::new(Mutex::new(world));
    let window = settings.duration / WINDOWS;
    let mut books = Books::new(settings.rate * window.as_secs_f64());
    let mut rng = StdRng::seed_from_u64(settings.seed);
    let mut tasks = JoinSet::new();
    let (mut samples, mut kills, mut is_gone) = (Vec::new(), 0_u32, false);
    let sample_every = (settings.duration / 180).max(Duration::from_millis(250));
    let queries = (settings.duration.as_secs_f64() * settings.rate) as usize;
    let start = Instant::now();
    for place in 0..queries {
        let at = Duration::from_secs_f64(place as f64 / settings.rate);
        tokio::time::sleep_until((start + at).into()).await;
        if at >= sample_every * u32::try_from(samples.len())? {
            samples.push(Sample { at_s: at.as_secs_f64(), held: Held::of(pid)? });
        }
        // Away from the second fifth of each window to the third.
        if !is_gone && at >= window * kills + window / 5 {
            world.lock().await.kill(0);
            (kills, is_gone) = (kills + 1, true);
        }
        if is_gone && at >= window * (kills - 1) + window * 2 / 5 {
            is_gone = false;
            let world = Arc::clone(&world);
            // Beside the queries, which do not wait for it.
            tokio::task::spawn_blocking(move || world.blocking_lock().bring_back(0));
        }
        let row = rng.random_range(0..recorded.rows());
        let truth = recorded.targets[row];
        let (prediction, feedback) = (prediction.clone(), feedback.clone());
        tasks.spawn(async move {
            let asked = Asked { place, row, truth, intended: start + at };
            asked.end(prediction, feedback).await
        });
        while let Some(ended) = tasks.try_join_next() {
            books.add(ended.context("a query's task ended early")?);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        books.add(ended.context("a query's task ended early")?);
    }
    let seconds = start.elapsed().as_secs_f64();
    let arms = world.lock().await.selection("").await?.arms;
    let observed = arms.into_iter().map(|arm| (arm.arm, arm.observations));
    let accuracy = books.right as f64 / queries.max(1) as f64;
    let (windows, labels) = books.close(observed);
    Ok(Soak {
        seconds,
        warm_up_s: (seconds / 4.0).max(WARM_UP.as_secs_f64()),
        rate: settings.rate,
        kills: kills as usize,
        samples,
        windows,
        labels,
        accuracy,
    })
}

struct Asked {
    place: usize,
    row: usize,
    truth: usize,
    intended: Instant,
}

impl Asked {
    async fn end(
        self,
        mut prediction: v1::prediction_client::PredictionClient<tonic::transport::Channel>,
        mut feedback: v1::feedback_client::FeedbackClient<tonic::transport::Channel>,
    ) -> Ended {
        let answer = prediction.predict(query(self.row, "")).await;
        let took_ms = self.intended.elapsed().as_secs_f64() * 1e3;
        let Ok(response) = answer else {
            return Ended { place: self.place, took_ms, said: None };
        };
        let response = response.into_inner();
        let arms = |outcome| {
            let of = response.contributions.iter().filter(move |one| one.outcome() == outcome);
            of.map(|one| one.arm.clone()).collect::<Vec<_>>()
        };
        let mut said = Said {
            is_right: answered(&response) == Some(self.truth),
            used: arms(v1::Outcome::Used),
            late: arms(v1::Outcome::Late),
            sent: if self.place.is_multiple_of(TWICE) { 2 } else { 1 },
            applied: 0,
        };
        for _ in 0..said.sent {
            let told = feedback.observe(label(response.decision_id.clone(), self.truth)).await;
            let outcome = told.map(|told| told.into_inner().outcome());
            said.applied += usize::from(matches!(outcome, Ok(FeedbackOutcome::Applied)));
        }
        Ended { place: self.place, took_ms, said: Some(said) }
    }
}

/// Sums of what ended.
struct Books {
    /// Queries of a window.
    per_window: f64,
    windows: Vec<Window>,
    labels: Labels,
    right: usize,
    /// By arm: labelled decisions that it answered, and those where it was late.
    expected: HashMap<String, (u64, u64)>,
}

impl Books {
    fn new(per_window: f64) -> Self {
        Self {
            per_window,
            windows: vec![Window::default(); WINDOWS as usize],
            labels: Labels::default(),
            right: 0,
            expected: HashMap::new(),
        }
    }

    fn add(&mut self, ended: Ended) {
        let at = (ended.place as f64 / self.per_window) as usize;
        let last = self.windows.len() - 1;
        let window = &mut self.windows[at.min(last)];
        window.offered += 1;
        let Some(said) = ended.said else {
            window.failed += 1;
            return;
        };
        window.took_ms.push(ended.took_ms);
        self.right += usize::from(said.is_right);
        self.labels.decisions += 1;
        self.labels.sent += said.sent;
        self.labels.lost += f64::from(u8::from(said.applied == 0));
        self.labels.doubled += said.applied.saturating_sub(1) as f64;
        if said.applied > 0 {
            for arm in said.used {
                self.expected.entry(arm).or_default().0 += 1;
            }
            for arm in said.late {
                self.expected.entry(arm).or_default().1 += 1;
            }
        }
    }

    fn close(mut self, observed: impl Iterator<Item = (String, u64)>) -> (Vec<Window>, Labels) {
        for (arm, observed) in observed {
            let (used, late) = self.expected.get(&arm).copied().unwrap_or_default();
            self.labels.lost += used.saturating_sub(observed) as f64;
            self.labels.doubled += observed.saturating_sub(used + late) as f64;
        }
        for window in &mut self.windows {
            window.took_ms.sort_unstable_by(f64::total_cmp);
            let at = |share: f64| {
                let place = (window.offered as f64 * share).ceil() as usize;
                window.took_ms.get(place.saturating_sub(1)).copied()
            };
            (window.p50_ms, window.p99_ms) = (at(0.5), at(0.99));
        }
        (self.windows, self.labels)
    }
}

/// Five models, the first the best, of which each is right as often as its place allows.
fn drawn(seed: u64) -> anyhow::Result<Recorded> {
    let mut rng = StdRng::seed_from_u64(seed);
    let targets: Vec<usize> = (0..ROWS).map(|_| rng.random_range(0..CLASSES)).collect();
    let mut scores = Vec::with_capacity(ROWS * MODELS * CLASSES);
    for target in &targets {
        for model in 0..MODELS {
            let is_right = rng.random_bool(0.92 - 0.06 * model as f64);
            let class = if is_right { *target } else { rng.random_range(0..CLASSES) };
            scores.extend((0..CLASSES).map(|at| if at == class { 0.91 } else { 0.01 }));
        }
    }
    let models = (0..MODELS).map(|number| format!("m{number}")).collect();
    Recorded::from_parts(models, CLASSES, scores, targets, Vec::new())
}

/// Prints windows and bars.
///
/// # Errors
///
/// The output is closed.
pub fn print(out: &mut impl Write, soak: &Soak, bars: &[Bar]) -> io::Result<()> {
    writeln!(
        out,
        "{:.0} s at {} /s, {} kills; {} labels of {} decisions; right {}",
        soak.seconds,
        figure(soak.rate),
        soak.kills,
        soak.labels.sent,
        soak.labels.decisions,
        figure(soak.accuracy)
    )?;
    writeln!(
        out,
        "{:>8}{:>10}{:>10}{:>10}{:>10}",
        "window", "p50 ms", "p99 ms", "offered", "failed"
    )?;
    for (number, window) in soak.windows.iter().enumerate() {
        let say = |value: Option<f64>| value.map_or_else(|| "none".into(), figure);
        let Window { p50_ms, p99_ms, offered, failed, .. } = window;
        writeln!(
            out,
            "{number:>8}{:>10}{:>10}{offered:>10}{failed:>10}",
            say(*p50_ms),
            say(*p99_ms)
        )?;
    }
    print_bars(out, bars)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(place: usize, used: &[&str], sent: usize, applied: usize) -> Ended {
        let used = used.iter().map(|arm| (*arm).to_owned()).collect();
        let said = Said { is_right: true, used, late: Vec::new(), sent, applied };
        Ended { place, took_ms: place as f64, said: Some(said) }
    }

    #[test]
    fn labels_that_count_twice_or_not_at_all_are_found() {
        let mut books = Books::new(100.0);
        books.add(ended(0, &["a", "b"], 2, 1));
        books.add(ended(1, &["a"], 1, 0));
        books.add(ended(2, &["b"], 2, 2));
        // Of three, none of arm a's one is there, and arm b has one too many.
        let counts = [("a".to_owned(), 0), ("b".to_owned(), 3)];
        let (_, labels) = books.close(counts.into_iter());
        assert_eq!((labels.decisions, labels.sent), (3, 5));
        assert_eq!((labels.lost, labels.doubled), (2.0, 2.0));
    }

    #[test]
    fn a_percentile_among_the_failed_is_none() {
        let mut books = Books::new(100.0);
        for place in 0..97 {
            books.add(ended(place, &[], 1, 1));
        }
        books.add(Ended { place: 97, took_ms: 1e3, said: None });
        let (windows, _) = books.close(std::iter::empty());
        assert_eq!(
            (windows[0].p50_ms, windows[0].p99_ms, windows[0].failed),
            (Some(48.0), None, 1)
        );
    }

    #[test]
    fn the_first_model_is_the_best_one() {
        let recorded = drawn(1).unwrap();
        assert_eq!(recorded.ranked(), [0, 1, 2, 3, 4]);
    }
}
