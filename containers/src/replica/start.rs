//! Opens a container on the thread that will own it, and tries it before it is ready.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use skysail_proto::Signature;
use tokio::sync::oneshot;

use super::{
    Replica, free_rows,
    local::{panic_message, run},
};
use crate::{
    batch::{Aimd, BatchSizer, Fixed, LatencyProfile, NoBatching, Quantile},
    config::{BatchStrategy, ModelConfig},
    container::{Container, check_answers},
    error::ContainerError,
    model::Model,
    onnx::zeros,
};

/// Makes a container; called on the thread that will own it.
pub(crate) type Factory = Arc<dyn Fn() -> Result<Box<dyn Container>, ContainerError> + Send + Sync>;

/// What a container that was opened and tried tells.
pub(crate) struct Opened {
    pub(crate) signature: Signature,
    pub(crate) profile: LatencyProfile,
}

/// A replica's thread that waits for its model, or ends when `model` is dropped.
pub(crate) struct Starting {
    pub(crate) opened: oneshot::Receiver<Result<Opened, ContainerError>>,
    pub(crate) model: mpsc::SyncSender<(Arc<Model>, Arc<Replica>)>,
    pub(crate) thread: thread::JoinHandle<()>,
}

/// Starts the thread of replica `index`.
///
/// # Errors
///
/// The system gives no thread.
pub(crate) fn start(
    config: &ModelConfig,
    index: usize,
    factory: Factory,
) -> Result<Starting, ContainerError> {
    let (opened_in, opened) = oneshot::channel();
    let (model, model_in) = mpsc::sync_channel::<(Arc<Model>, Arc<Replica>)>(1);
    let body = move || {
        let container = catch_unwind(AssertUnwindSafe(|| open(&factory)))
            .unwrap_or_else(|payload| Err(ContainerError::Panicked(panic_message(&*payload))));
        let container = match container {
            Ok((container, opened)) => {
                // Whoever loads may have gone; then `model_in` says so too.
                let _ = opened_in.send(Ok(opened));
                container
            }
            Err(error) => {
                let _ = opened_in.send(Err(error));
                return;
            }
        };
        if let Ok((model, replica)) = model_in.recv() {
            run(&model, &replica, &factory, container);
        }
    };
    let thread = thread::Builder::new()
        .name(format!("{}/{index}", config.id))
        .spawn(body)
        .map_err(|error| ContainerError::Failed(format!("no thread for a replica: {error}")))?;
    Ok(Starting { opened, model, thread })
}

pub(super) fn open(factory: &Factory) -> Result<(Box<dyn Container>, Opened), ContainerError> {
    let mut container = factory()?;
    let signature = container.signature();
    let profile = try_out(container.as_mut(), &signature)?;
    Ok((container, Opened { signature, profile }))
}

/// Runs zeros through the container: it shows a model that cannot run before anybody asks it, and
/// gives the first estimate of its time.
pub(super) fn try_out(
    container: &mut dyn Container,
    signature: &Signature,
) -> Result<LatencyProfile, ContainerError> {
    let mut profile = LatencyProfile::default();
    let outputs: Vec<Arc<str>> =
        signature.outputs.iter().map(|spec| spec.name.as_str().into()).collect();
    // Twice one row, since the first run allocates; two rows show whether outputs follow rows.
    let sizes: &[usize] = if free_rows(signature) { &[1, 2, 1] } else { &[1, 1] };
    for (run, rows) in sizes.iter().enumerate() {
        let inputs = Arc::new(zeros(&signature.inputs, *rows)?);
        let begun = Instant::now();
        let answers = container.predict_batch(std::slice::from_ref(&inputs), &outputs);
        let ended = Instant::now();
        let tried = answers
            .and_then(|answers| check_answers(&answers, std::slice::from_ref(&inputs), &outputs));
        match tried {
            Ok(()) if run + 1 == sizes.len() => {
                profile.observe(inputs.rows(), ended - begun, ended);
            }
            Ok(()) => {}
            Err(error) if has_free_trailing_dimension(signature) => {
                tracing::warn!(%error, "no warm-up: the model refuses free dimensions of 1");
                return Ok(profile);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(profile)
}

fn has_free_trailing_dimension(signature: &Signature) -> bool {
    signature.inputs.iter().any(|spec| spec.shape.iter().skip(1).any(|dimension| *dimension < 0))
}

/// A fixed first dimension means batches of one query.
pub(crate) fn sizer_for(config: &ModelConfig, signature: &Signature) -> Box<dyn BatchSizer> {
    if !free_rows(signature) {
        return Box::new(NoBatching);
    }
    match config.batch {
        BatchStrategy::Aimd => Box::new(Aimd::new(config.max_limit())),
        BatchStrategy::Quantile => Box::new(Quantile::new(config.max_limit())),
        BatchStrategy::Fixed(rows) => Box::new(Fixed::new(rows.min(config.max_limit()))),
        BatchStrategy::None => Box::new(NoBatching),
    }
}
