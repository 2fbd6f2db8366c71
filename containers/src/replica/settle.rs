//! What becomes of a batch that came back, or never will.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{ModelReply, PredictError, Tensor};

use super::{Landed, Replica};
use crate::{
    error::ContainerError,
    model::{Batch, Model, Reply},
    observer::BatchReport,
    queue::Entry,
};

/// What a container answered: for each query, each output asked for.
pub(crate) type Result = std::result::Result<Vec<Vec<Tensor>>, ContainerError>;

/// Why queries that were sent to a container come back without an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Why<'a> {
    /// The container itself failed on a batch of so many queries.
    Failed { error: &'a ContainerError, queries: usize },
    /// It is lost with what it held.
    Lost(&'a str),
    /// It takes too long, and there is another.
    Overdue,
}

/// Answers a batch that came back, or passes its queries on. Tells how many batches have failed in
/// a row, this one included.
pub(crate) fn settle(model: &Model, replica: &Arc<Replica>, flight: u64, result: Result) -> u32 {
    let now = Instant::now();
    let failed = result.is_err();
    let too_long = matches!(result, Err(ContainerError::Late));
    let Some(landed) = replica.end(flight, failed, too_long, model.target(), now) else { return 0 };
    report(model, replica, &landed, failed);
    if let Some(floor) = replica.newly_infeasible(model.budget()) {
        tracing::warn!(
            model = %model.version.id, container = &*replica.id,
            "the objective of {:?} (less slack: {:?}) is infeasible: a single row takes {floor:?}; \
             raise the objective, or make the model faster",
            model.objective(), model.budget()
        );
    }
    let Landed { batch, dispatched, sample, failures, .. } = landed;
    let Some(batch) = batch else { return failures };
    match result {
        Ok(answers) => {
            let rows = u32::try_from(batch.rows).unwrap_or(u32::MAX);
            for (entry, outputs) in batch.entries.into_iter().zip(answers) {
                answer(entry, outputs, rows, dispatched, sample.service);
            }
        }
        Err(error) => {
            let queries = batch.entries.len();
            model.give_back(replica, batch.entries, Why::Failed { error: &error, queries });
        }
    }
    failures
}

fn answer(
    entry: Entry<Reply>,
    outputs: Vec<Tensor>,
    batch_rows: u32,
    dispatched: Instant,
    compute: Duration,
) {
    let queue = dispatched.saturating_duration_since(entry.queued);
    let reply = ModelReply { outputs: outputs.into(), cached: false, batch_rows, queue, compute };
    entry.payload.send(Ok(reply));
}

/// The error of a container, as those see it who asked.
pub(crate) fn failure(model: &Model, error: &ContainerError) -> PredictError {
    let id = model.version.id.clone();
    match error {
        ContainerError::Late => {
            PredictError::Late { model: id, why: skysail_proto::error::LateReason::Computing }
        }
        error => PredictError::Container { model: id, why: error.to_string().into() },
    }
}

fn report(model: &Model, replica: &Replica, landed: &Landed, failed: bool) {
    let Some(batch) = &landed.batch else { return };
    let dispatched = landed.dispatched;
    let (mean, longest) = waits(batch, dispatched);
    model.observer.batch(&BatchReport {
        model: &model.version.id,
        replica: replica.index,
        container: &replica.id,
        queries: batch.entries.len(),
        rows: batch.rows,
        limit: batch.limit,
        release: batch.release,
        queue_mean: mean,
        queue_max: longest,
        compute: landed.sample.service,
        failed,
        next_limit: landed.next_limit,
        trace: batch.trace.as_deref(),
    });
}

fn waits(batch: &Batch, dispatched: Instant) -> (Duration, Duration) {
    let waits = batch.entries.iter().map(|e| dispatched.saturating_duration_since(e.queued));
    let longest = waits.clone().max().unwrap_or_default();
    let total: Duration = waits.sum();
    (total / u32::try_from(batch.entries.len().max(1)).unwrap_or(u32::MAX), longest)
}
