//! `skysail evaluate`: what another policy would have earned, out of the decision log.
//!
//! # Layout
//!
//! - `read`: the log's files, which a server may be writing
//! - `report`: the table and the JSON
//!
//! The arithmetic is in [`skysail_selection::evaluate`], which reads no file.

mod read;
mod report;

use std::path::PathBuf;

use anyhow::{Context, bail};
use skysail_proto::pb::v1;
use skysail_selection::{
    Loss,
    evaluate::{History, Judge, Options, Scoring, Target, evaluate},
    policy::{KNOWN_POLICIES, Policy},
};

use crate::{cli::WrongUsage, config::parse_applications};

/// Say what other policies would have earned, out of the decision log.
///
/// The server may be running. Exit code 1: a policy was refused, or the log failed its own audit.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The folder of decisions-*.jsonl, or the data folder that has it.
    #[arg(long, value_name = "DIR")]
    log: PathBuf,
    /// A policy to judge, with its parameters; may be given several times.
    #[arg(long, value_name = "NAME[,PARAMETER=VALUE…]", required = true, value_parser = wanted)]
    policy: Vec<Wanted>,
    /// The application, where the log has several.
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Decisions of this context id alone; "": of none [default: all].
    #[arg(long, value_name = "ID")]
    context: Option<String>,
    /// A file that declares the application, as `skysail app put` takes it: its loss, loss_cap,
    /// class_labels and feedback_window [default: the zero-one loss, and one hour].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// No decision before this time: RFC 3339, or milliseconds since the Unix epoch.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<u64>,
    /// No decision from this time on.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<u64>,
    /// Weights above this are cut for the clipped estimate.
    #[arg(long, value_name = "M", default_value_t = 10.0, value_parser = positive)]
    clip: f64,
    /// How often the intervals are to hold.
    #[arg(long, value_name = "RATIO", default_value_t = 0.95, value_parser = ratio)]
    confidence: f64,
    /// Seeds the draws of policies that combine arms or count what is pending.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write all of it there as well, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A policy as it was typed.
#[derive(Clone, Debug)]
struct Wanted {
    text: String,
    name: String,
    parameters: Vec<(String, f64)>,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    let mut parts = text.split(',').map(str::trim);
    let name = parts.next().unwrap_or_default();
    if !KNOWN_POLICIES.contains(&name) {
        return Err(format!("unknown policy '{name}'; known: {}", KNOWN_POLICIES.join(", ")));
    }
    let parameter = |part: &str| {
        // The last one: an arm's name may hold one.
        let (name, value) = part.rsplit_once('=').ok_or("expected PARAMETER=VALUE")?;
        let value = value.trim().parse().map_err(|_| format!("'{value}' is no number"))?;
        Ok::<_, String>((name.trim().to_owned(), value))
    };
    let parameters = parts
        .map(|part| parameter(part).map_err(|why| format!("parameter '{part}': {why}")))
        .collect::<Result<_, _>>()?;
    Ok(Wanted { text: text.into(), name: name.into(), parameters })
}

fn time(text: &str) -> Result<u64, String> {
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(
        |_| "expected a time such as 2026-02-03T04:05:06Z, or milliseconds since the Unix epoch",
    )?;
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| *n > 0.0).ok_or_else(|| "expected a number above 0".into())
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|n| *n > 0.0 && *n < 1.0);
    ratio.ok_or_else(|| "expected a number between 0 and 1, such as 0.95".into())
}

/// Reads, judges, shows.
///
/// # Errors
///
/// The log cannot be read, has no such decisions, or cannot be judged; a policy's parameter is
/// none; or, when all is shown, a policy was refused or the log failed its audit.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let read = read::read(&args.log, &args.wanted())?;
    let (scoring, window_ms) = args.scoring(&read.application)?;
    let judge = Judge::new(scoring, &read.decisions)
        .context("give --config FILE with the application's `loss`")?;
    let told = report::Told::new(&read);
    let history = History::new(read.decisions, read.feedback, &judge);
    let targets = args.targets(&history)?;
    let options =
        Options { clip: args.clip, confidence: args.confidence, window_ms, seed: args.seed };
    let report = evaluate(&history, &judge, &targets, &options);
    if let Some(path) = &args.json {
        let json = report::json(&told, &history, &report, &options);
        let text = serde_json::to_string_pretty(&json)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    report::show(&told, &history, &report, &options);
    let refused = report.policies.iter().filter(|judged| judged.estimates.is_err()).count();
    if report.audit.failed().is_some() {
        bail!("the log failed its audit");
    }
    if refused > 0 {
        bail!("{refused} of {} policies could not be judged", report.policies.len());
    }
    Ok(())
}

impl Args {
    fn wanted(&self) -> read::Wanted<'_> {
        read::Wanted {
            application: self.application.as_deref(),
            context: self.context.as_deref(),
            since_ms: self.since.unwrap_or(0),
            until_ms: self.until.unwrap_or(u64::MAX),
        }
    }

    fn targets(&self, history: &History) -> Result<Vec<Target>, WrongUsage> {
        let target = |wanted: &Wanted| {
            let (name, parameters) = (&wanted.name, &wanted.parameters);
            let policy = Policy::new(name, parameters, history.arms(), history.features());
            let policy =
                policy.map_err(|why| WrongUsage(format!("--policy {}: {why}", wanted.text)));
            Ok(Target { name: wanted.text.clone(), policy: policy? })
        };
        self.policy.iter().map(target).collect()
    }

    /// How the application judges, and for how long it waits for feedback.
    fn scoring(&self, application: &str) -> anyhow::Result<(Scoring, u64)> {
        let window_ms = Options::default().window_ms;
        let Some(path) = &self.config else { return Ok((Scoring::default(), window_ms)) };
        let declared = parse_applications(path)?;
        let names: Vec<_> = declared.iter().map(|a| a.name.clone()).collect();
        let Some(declared) = declared.into_iter().find(|a| a.name == application) else {
            bail!(
                "{} declares no application '{application}'; it declares: {}",
                path.display(),
                names.join(", ")
            );
        };
        let loss = match v1::Loss::try_from(declared.loss).unwrap_or_default() {
            v1::Loss::Unspecified => None,
            v1::Loss::ZeroOne => Some(Loss::ZeroOne),
            v1::Loss::Log => Some(Loss::Log),
            v1::Loss::Squared => Some(Loss::Squared),
            v1::Loss::Absolute => Some(Loss::Absolute),
        };
        let window = declared.feedback_window.and_then(|d| std::time::Duration::try_from(d).ok());
        let scoring = Scoring {
            loss,
            loss_cap: declared.loss_cap.unwrap_or(0.0),
            class_labels: declared.class_labels.into_iter().map(Into::into).collect(),
        };
        let window = window.and_then(|window| u64::try_from(window.as_millis()).ok());
        Ok((scoring, window.unwrap_or(window_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_typed() {
        let read = wanted("static,sep:1=2, a=b=0.5").unwrap();
        assert_eq!(read.name, "static");
        assert_eq!(read.parameters, [("sep:1".to_owned(), 2.0), ("a=b".to_owned(), 0.5)]);
        for (text, says) in [
            ("best", "known: static"),
            ("exp3,eta", "PARAMETER=VALUE"),
            ("exp3,eta=much", "'much' is no number"),
        ] {
            assert!(wanted(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn a_time_is_a_date_or_a_number() {
        assert_eq!(time("1700000000000"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert!(time("yesterday").is_err());
    }
}
