//! What computes a batch.

use std::sync::Arc;

use skysail_proto::{Inputs, Signature, Tensor};

use crate::error::ContainerError;

/// Computes batches for one model version. Blocking, and used by one thread at a time.
pub trait Container: Send + 'static {
    /// What the model takes and gives.
    fn signature(&self) -> Signature;

    /// Whether another thread than the one that opened it may compute with it, and what a batch
    /// takes follows from its size. Then a call that comes while it is idle and takes next to no
    /// time is computed where it was made, which spares waking a thread twice. `false` unless it
    /// says otherwise.
    fn computes_anywhere(&self) -> bool {
        false
    }

    /// Computes one batch: queries whose inputs agree in names, datatypes and trailing
    /// dimensions. Answers for each query, in order, the `outputs` asked for, in order, each with
    /// the query's rows.
    ///
    /// # Errors
    ///
    /// The model failed on the batch. The container must be usable afterwards; one that is not
    /// should panic, which ends its replica.
    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError>;
}

/// Refuses answers that do not have the form that was asked for.
pub(crate) fn check_answers(
    answers: &[Vec<Tensor>],
    batch: &[Arc<Inputs>],
    outputs: &[Arc<str>],
) -> Result<(), ContainerError> {
    let wrong = |output: &str, expected: String, got: String| ContainerError::Output {
        output: output.into(),
        expected,
        got,
    };
    if answers.len() != batch.len() {
        return Err(wrong(
            "*",
            format!("answers to {} queries", batch.len()),
            format!("{}", answers.len()),
        ));
    }
    for (answer, inputs) in answers.iter().zip(batch) {
        if answer.len() != outputs.len() {
            return Err(wrong(
                "*",
                format!("{} outputs", outputs.len()),
                format!("{}", answer.len()),
            ));
        }
        for (tensor, name) in answer.iter().zip(outputs) {
            let rows = tensor.rows()?;
            if tensor.name() != &**name || rows != inputs.rows() {
                return Err(wrong(
                    name,
                    format!("{} rows", inputs.rows()),
                    format!("{rows} rows of '{}'", tensor.name()),
                ));
            }
        }
    }
    Ok(())
}
