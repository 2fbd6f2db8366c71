//! `skysail demo`: the main job on real data.
//!
//! It starts the real server in a process of its own, with its embedded defaults, and is a client
//! like any other: everything that it shows was seen over gRPC.
//!
//! # Layout
//!
//! - `data`: the test images
//! - `process`: the server's process
//! - `drive`: offers queries as they arrive, feeds labels back late, breaks and mends a model
//! - `tally`: what the client counted
//! - `alone`: what each model says of the same images
//! - `report`: the progress line and the closing table
//! - `chart`: the curve

mod alone;
mod chart;
mod data;
mod drive;
mod process;
mod report;
mod tally;

use std::path::PathBuf;

use anyhow::Context;

use crate::say;

/// Serve real models on real images, learn from late labels, and say how it went.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Seeds arrivals, images and delays.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Queries to offer, in all.
    #[arg(long, default_value_t = 10_500, value_parser = clap::value_parser!(u64).range(1_000..))]
    queries: u64,
    /// Queries per second, arriving as a Poisson process.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    rate: f64,
    /// Mean time until a query's label is known, in milliseconds.
    #[arg(long, default_value_t = 500)]
    label_delay_ms: u64,
    /// Folder of the models and their skysail.toml [default: looked for in the checkout].
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Folder of the Fashion-MNIST test images [default: where `cargo xtask setup` puts them].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the curve is written.
    #[arg(long, value_name = "FILE.svg", default_value = "skysail-demo.svg")]
    svg: PathBuf,
    /// Leave the server up afterwards, until Ctrl-C, so that its page can be looked at.
    #[arg(long)]
    keep: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("expected queries per second, above 0".into()),
    }
}

/// The application that the models' skysail.toml declares.
const APPLICATION: &str = "fashion";
/// The model that is broken and mended, its good build and its bad one.
const BROKEN: (&str, &str, &str) = ("cnn", "1", "2");

/// Runs the demo.
///
/// # Errors
///
/// Models or data are missing, or the server failed.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let models =
        data::find("models", args.models.as_deref(), "models/fashion-mnist", "skysail.toml")?;
    let data = data::find("data", args.data.as_deref(), "setup/fashion-mnist", data::IMAGES)?;
    let images = data::Images::read(&data)?;
    let started = std::time::Instant::now();
    let server = process::Server::start(&models.join("skysail.toml")).await?;
    say!(
        "serving {} with the models of {} (grpc {}, http {}), {} test images of Fashion-MNIST",
        APPLICATION,
        models.display(),
        server.grpc,
        server.http,
        images.len()
    );
    say!("its page is at http://{}/", server.http);
    let plan = drive::Plan::new(&args);
    say!("{plan}");
    let tally = drive::run(&server, &images, &plan).await?;
    let alone = alone::ask(&server, &images, tally.images()).await?;
    let counted = process::replies_counted(&server).await?;
    let kept = if args.keep {
        Some(server)
    } else {
        server.stop().await?;
        None
    };
    let held = report::close(&tally, &alone, &plan, &images, counted);
    chart::write(&args.svg, &tally, &alone, &plan, &images)
        .with_context(|| format!("cannot write {}", args.svg.display()))?;
    say!(
        "the curve is in {}; it took {:.0} s",
        args.svg.display(),
        started.elapsed().as_secs_f64()
    );
    if let Some(server) = kept {
        say!("the server stays up for its page, http://{}/; Ctrl-C ends it", server.http);
        tokio::signal::ctrl_c().await.context("cannot listen for Ctrl-C")?;
        server.stop().await?;
    }
    anyhow::ensure!(held, "Skysail fell short of what the table above promises");
    Ok(())
}
