//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod admin;
mod client;
mod container;
mod feedback;
mod model;
mod npy;
mod predict;
mod serve;
mod telemetry;

use clap::{Parser, Subcommand};

pub use client::ServerAddress;

use crate::telemetry::LogFormat;

/// Model-selection middleware: one prediction API in front of many machine-learning models.
#[derive(Debug, Parser)]
#[command(name = "skysail", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve real models on real images, learn from late labels, and say how it went.
    Demo(crate::demo::Args),
    /// Run the server.
    Serve(serve::Args),
    /// Say what other policies would have earned, out of the decision log.
    Evaluate(Box<crate::evaluate::Args>),
    /// Serve one ONNX model to front ends, as a process of its own.
    Container(Box<container::Args>),
    /// Ask an application for a prediction.
    Predict(predict::Args),
    /// Send a truth label or a reward for a decision.
    Feedback(feedback::Args),
    /// Put, show, list and delete applications.
    App(admin::AppArgs),
    /// Register, deregister and list models, and set versions.
    Model(model::Args),
}

impl Cli {
    /// Whether the log would stand in the way of what the command shows.
    pub fn is_quiet(&self) -> bool {
        !matches!(self.command, Command::Serve(_) | Command::Container(_))
    }

    /// How the log is written.
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Serve(args) => args.log_format(),
            Command::Container(args) => args.log_format(),
            _ => LogFormat::default(),
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being done, in words for the person who typed it.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Demo(args) => crate::demo::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Evaluate(args) => crate::evaluate::run(&args),
            Command::Container(args) => container::run(*args).await,
            Command::Predict(args) => predict::run(args).await,
            Command::Feedback(args) => feedback::run(args).await,
            Command::App(args) => admin::app(args).await,
            Command::Model(args) => model::run(args).await,
        }
    }
}

/// What was typed makes no sense, which only showed once it was looked at.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub String);

/// Writes a line to standard output; a reader that has gone is no error of ours.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout().lock(), $($part)*);
    }};
}
