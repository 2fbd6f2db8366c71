//! The `skysail` binary: reads the command line, and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser;
use skysail::{
    cli::{Cli, WrongUsage},
    telemetry,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let default = if cli.is_quiet() { "warn" } else { "info" };
    telemetry::log::begin(cli.log_format(), default);
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
