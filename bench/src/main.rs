//! The `skysail-bench` binary: reads the command line, and leaves the rest to the library.

use std::process::ExitCode;

use clap::Parser;
use skysail_bench::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command's own message")]
fn tell(error: &anyhow::Error) {
    eprintln!("skysail-bench: {error:#}");
}
