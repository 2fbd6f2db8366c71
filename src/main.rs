//! The `skysail` binary: reads the command line, and leaves the rest to the library.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use skysail::cli::{Cli, WrongUsage};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    // Standard output belongs to what the commands answer; the log goes to standard error.
    let default = if cli.is_quiet() { "warn" } else { "info" };
    let filter = EnvFilter::try_from_env("SKYSAIL_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match cli.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::debug!(?error, "failed");
            cli_error(&error);
            if error.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command's own message, also where the log is off")]
fn cli_error(error: &anyhow::Error) {
    eprintln!("skysail: {error:#}");
}
