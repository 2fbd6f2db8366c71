//! `skysail-bench rivals`.

use std::{io, path::PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::json;

use super::{Common, default_threads};
use crate::{
    process::Programs,
    report::Report,
    rivals::{Settings, measure, print},
};

/// Options of `rivals`.
#[derive(Debug, Args)]
pub struct RivalsArgs {
    #[command(flatten)]
    common: Common,
    /// The `skysail` binary; the one beside this program unless given.
    #[arg(long, value_name = "PATH")]
    skysail: Option<PathBuf>,
    /// Rivals by name, comma-separated; unless given, all that are installed in --peers.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    rivals: Vec<String>,
    /// Queries under way; 16 and 64 with --quick, else also 1.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    depths: Vec<usize>,
    /// Alternations; 3 with --quick, else 5. With --quick the second and third have only Skysail
    /// and Triton on m1.
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,
    /// Length of a block; 1 with --quick, 5 with --full, else 3.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

impl RivalsArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let peers = self.common.peers.clone().context(
            "the rivals need --peers DIR, a folder where their install.sh laid them out",
        )?;
        let depths = if self.depths.is_empty() {
            self.common.choose(vec![16, 64], vec![1, 16, 64], vec![1, 16, 64])
        } else {
            self.depths
        };
        let settings = Settings {
            skysail: Programs::find(self.skysail)?.skysail,
            peers,
            rivals: self.rivals,
            repeats: self.repeats.unwrap_or_else(|| self.common.choose(3, 5, 5)),
            thorough: self.common.choose(false, false, true),
            seconds: self.seconds.unwrap_or_else(|| self.common.choose(1, 3, 5)).max(1),
            depths,
            threads: default_threads(),
            seed: self.common.seed,
        };
        let rivals = measure(&settings)?;
        let bars = rivals.bars();
        print(&mut io::stdout().lock(), &rivals, &bars)?;
        self.common.write("rivals", &Report::new(self.common.seed, json!(rivals), bars))
    }
}
