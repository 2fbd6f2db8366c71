//! `[telemetry]`.

use super::raw::Telemetry;
use crate::telemetry::{LogFormat, TraceConfig};

/// Field, what would do, and what stands there.
type Wrong = (&'static str, &'static str, String);

impl Telemetry {
    /// Where traces go, and how many.
    ///
    /// # Errors
    ///
    /// The ratio is none.
    pub fn traces(&self) -> Result<TraceConfig, Wrong> {
        let default = TraceConfig::default();
        let ratio = self.trace_ratio.unwrap_or(default.ratio);
        check_ratio(ratio)
            .map_err(|expected| ("telemetry.trace_ratio", expected, ratio.to_string()))?;
        let otlp_endpoint = self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty());
        Ok(TraceConfig { otlp_endpoint, ratio, ..default })
    }

    /// How the log is written; `None`: the file does not say.
    ///
    /// # Errors
    ///
    /// There is no such format.
    pub fn log_format(&self) -> Result<Option<LogFormat>, Wrong> {
        let format = self.log_format.as_deref().map(str::parse).transpose();
        format.map_err(|_| {
            let got = self.log_format.clone().unwrap_or_default();
            ("telemetry.log_format", "\"text\" or \"json\"", got)
        })
    }
}

/// A share of queries.
///
/// # Errors
///
/// What would do, where it is none.
pub fn check_ratio(ratio: f64) -> Result<f64, &'static str> {
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("a number in [0, 1]") }
}
