//! What a sampled query notes in its trace. All others pay for the question whether there is one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use skysail_proto::{
    ModelCall, ModelReply, PredictError, Trace,
    call::ModelResult,
    trace::{Step, Value, Within},
};
use tower::{Service, ServiceExt};

/// A part of a query that has begun.
pub(crate) struct Noted(Option<(Arc<Trace>, Instant)>);

impl Noted {
    pub(crate) fn begin(trace: Option<&Arc<Trace>>) -> Self {
        Self(trace.map(|trace| (Arc::clone(trace), Instant::now())))
    }

    pub(crate) fn end(self, name: &'static str) {
        if let Some((trace, begun)) = self.0 {
            trace.part(name, begun);
        }
    }
}

/// Asks one arm. Its span ends with its answer, or when it is not waited for any longer.
pub(super) async fn ask<M>(trace: Arc<Trace>, models: M, mut call: ModelCall) -> ModelResult
where
    M: Service<ModelCall, Response = ModelReply, Error = PredictError>,
{
    let within = Within { span: trace.next(), trace };
    let arm =
        Arm { within: within.clone(), name: call.model.id.to_string(), begun: Instant::now() };
    call.trace = Some(within);
    let mut unheard = Unheard(Some(arm));
    let result = models.oneshot(call).await;
    if let Some(arm) = unheard.0.take() {
        arm.heard(&result);
    }
    result
}

struct Arm {
    within: Within,
    name: String,
    begun: Instant,
}

impl Arm {
    fn heard(self, result: &ModelResult) {
        let ended = Instant::now();
        match result {
            Err(error) => self.end(ended, Vec::new(), Some(error.to_string())),
            Ok(reply) => {
                if !reply.cached {
                    self.stages(reply, ended);
                }
                let attributes = vec![
                    ("skysail.cached", reply.cached.into()),
                    ("skysail.batch_rows", Value::Number(reply.batch_rows.into())),
                ];
                self.end(ended, attributes, None);
            }
        }
    }

    /// Backwards from the answer: who joined a call that was under way has waited in the queue for
    /// a part of its time only.
    fn stages(&self, reply: &ModelReply, ended: Instant) {
        let earlier = |then: Instant, by: Duration| {
            then.checked_sub(by).map_or(self.begun, |at| at.max(self.begun))
        };
        let dispatched = earlier(ended, reply.compute);
        let queued = earlier(dispatched, reply.queue);
        self.within.note("queue", queued, dispatched, Vec::new());
        self.within.note("compute", dispatched, ended, Vec::new());
    }

    fn end(self, ended: Instant, attributes: Vec<(&'static str, Value)>, failed: Option<String>) {
        let Within { trace, span } = self.within;
        trace.note(Step {
            name: format!("arm {}", self.name).into(),
            span,
            parent: trace.root().span,
            begun: self.begun,
            ended,
            attributes,
            failed,
        });
    }
}

/// An arm that has not answered.
struct Unheard(Option<Arm>);

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(arm) = self.0.take() {
            arm.end(Instant::now(), Vec::new(), Some("no answer at the deadline".into()));
        }
    }
}
