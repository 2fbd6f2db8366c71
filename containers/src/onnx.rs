//! The container that runs an ONNX model in this process.

use std::{borrow::Cow, fmt, sync::Arc};

use ort::{
    ep::{self, ExecutionProviderDispatch},
    session::{
        HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue,
        builder::SessionBuilder,
    },
};
use skysail_proto::{Inputs, Signature, Tensor, TensorSpec};

use crate::{config::Device, container::Container, error::ContainerError, runtime};

use buffer::Buffer;

mod buffer;
mod output;
mod signature;

/// One session of ONNX Runtime, with the buffers that its batches are put together in.
pub struct OnnxContainer {
    session: Session,
    signature: Signature,
    /// One per input of the model, in its order; kept between batches, so that a batch allocates
    /// only its outputs.
    buffers: Vec<Buffer>,
    /// For sets of outputs that are not all of the model's: what is not asked for is not computed.
    selected: Vec<Selected>,
    /// It computes on the thread that asks alone, and its time follows from the rows.
    anywhere: bool,
}

impl fmt::Debug for OnnxContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxContainer").field("signature", &self.signature).finish_non_exhaustive()
    }
}

struct Selected {
    names: Arc<[Arc<str>]>,
    options: RunOptions<HasSelectedOutputs>,
}

/// Sets of outputs whose run options are kept.
const SELECTIONS: usize = 16;

impl OnnxContainer {
    /// Opens the model in `file` (the bytes of an ONNX file) for one thread to run.
    ///
    /// `threads` share one operation; spinning is off, since replicas are many and cores are few.
    ///
    /// # Errors
    ///
    /// No library, no such provider in it, a file that is no model, or inputs or outputs that are
    /// no tensors of rows.
    pub fn open(file: &[u8], device: Device, threads: usize) -> Result<Self, ContainerError> {
        let environment = runtime::environment()?;
        let builder = Session::builder(environment).map_err(failed)?;
        let builder = builder.with_intra_threads(threads).map_err(failed)?;
        let builder = builder.with_inter_threads(1).map_err(failed)?;
        let builder =
            builder.with_config_entry("session.intra_op.allow_spinning", "0").map_err(failed)?;
        let mut builder = with_device(builder, device)?;
        let session = builder.commit_from_memory(file).map_err(failed)?;
        let signature = signature::of_session(&session)?;
        let buffers = signature.inputs.iter().map(|spec| Buffer::new(spec.datatype)).collect();
        let anywhere = device == Device::Cpu && threads == 1 && rows_are_alike(&signature);
        Ok(Self { session, signature, buffers, selected: Vec::new(), anywhere })
    }

    /// Where in `selected` the options for `outputs` are; `None` where all outputs are wanted.
    fn selection(&mut self, outputs: &[Arc<str>]) -> Result<Option<usize>, ContainerError> {
        if outputs.len() == self.signature.outputs.len() {
            return Ok(None);
        }
        if let Some(at) = self.selected.iter().position(|known| *known.names == *outputs) {
            return Ok(Some(at));
        }
        let selector = outputs
            .iter()
            .fold(OutputSelector::no_default(), |all, name| all.with(name.to_string()));
        let options = RunOptions::new().map_err(failed)?.with_outputs(selector);
        if self.selected.len() == SELECTIONS {
            self.selected.remove(0);
        }
        self.selected.push(Selected { names: outputs.into(), options });
        Ok(Some(self.selected.len() - 1))
    }
}

impl Container for OnnxContainer {
    fn signature(&self) -> Signature {
        self.signature.clone()
    }

    fn computes_anywhere(&self) -> bool {
        self.anywhere
    }

    fn predict_batch(
        &mut self,
        batch: &[Arc<Inputs>],
        outputs: &[Arc<str>],
    ) -> Result<Vec<Vec<Tensor>>, ContainerError> {
        let selection = self.selection(outputs)?;
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
            Vec::with_capacity(self.buffers.len());
        for (spec, buffer) in self.signature.inputs.iter().zip(&mut self.buffers) {
            values.push((Cow::Borrowed(&spec.name), buffer.fill(&spec.name, batch)?));
        }
        let results = match selection.and_then(|at| self.selected.get(at)) {
            Some(selected) => self.session.run_with_options(values, &selected.options),
            None => self.session.run(values),
        }
        .map_err(failed)?;
        let mut answers: Vec<Vec<Tensor>> =
            batch.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
        for name in outputs {
            let value = results.get(name).ok_or_else(|| ContainerError::Output {
                output: name.to_string(),
                expected: "an output of that name".into(),
                got: "none".into(),
            })?;
            output::split(name, value, batch, &mut answers)?;
        }
        Ok(answers)
    }
}

/// Every row has as many numbers as any other: no free dimension but the rows, no strings.
fn rows_are_alike(signature: &Signature) -> bool {
    signature.inputs.iter().all(|spec| {
        spec.datatype.size().is_some() && spec.shape.iter().skip(1).all(|dimension| *dimension >= 0)
    })
}

/// Of ort's errors only the text is kept: some carry the builder that failed.
fn failed<R>(error: ort::Error<R>) -> ContainerError {
    ContainerError::Failed(error.message().trim().to_owned())
}

fn with_device(builder: SessionBuilder, device: Device) -> Result<SessionBuilder, ContainerError> {
    let (provider, library): (ExecutionProviderDispatch, _) = match device {
        Device::Cpu => return Ok(builder),
        Device::Cuda => (ep::CUDA::default().build(), "libonnxruntime_providers_cuda.so"),
        Device::TensorRt => {
            (ep::TensorRT::default().build(), "libonnxruntime_providers_tensorrt.so")
        }
    };
    builder.with_execution_providers([provider.error_on_failure()]).map_err(|error| {
        ContainerError::Device {
            device,
            why: format!(
                "this ONNX Runtime library lacks the provider ({}); take libonnxruntime.so and \
                 {library} out of the Python package `onnxruntime-gpu`, which also needs the CUDA \
                 and cuDNN libraries, or use the device cpu",
                error.message().trim()
            ),
        }
    })
}

/// Zeros of the least shape that fits `specs`, for the warm-up: a free dimension is 1 and a string
/// is empty.
///
/// # Errors
///
/// The specs agree on no number of rows.
pub(crate) fn zeros(specs: &[TensorSpec], rows: usize) -> Result<Inputs, ContainerError> {
    let mut tensors = Vec::with_capacity(specs.len());
    for spec in specs {
        let rows = i64::try_from(rows).unwrap_or(1);
        let mut shape: Vec<i64> = spec.shape.iter().map(|d| if *d < 0 { 1 } else { *d }).collect();
        if let (Some(first), Some(-1)) = (shape.first_mut(), spec.shape.first()) {
            *first = rows;
        }
        let elements: usize =
            shape.iter().map(|dimension| usize::try_from(*dimension).unwrap_or(1)).product();
        // A string of no bytes is its length, four bytes of zero.
        let data = vec![0_u8; elements * spec.datatype.size().unwrap_or(4)];
        tensors.push(Tensor::new(spec.name.clone(), spec.datatype, shape, data)?);
    }
    Ok(Inputs::new(tensors)?)
}
