//! An application as the selection sees it; checked before it gets here.

use std::{sync::Arc, time::Duration};

use skysail_proto::{Tensor, TensorSpec};

/// A policy's parameters, by name.
pub type PolicyParameters = Vec<(String, f64)>;

/// Signature, objective, policy and arms of one application.
#[derive(Clone, Debug)]
pub struct Application {
    /// Its name.
    pub name: Arc<str>,
    /// What a query must bring.
    pub inputs: Vec<TensorSpec>,
    /// What an answer holds, in this order.
    pub outputs: Vec<TensorSpec>,
    /// The latency within which an answer is due.
    pub objective: Duration,
    /// Kept back for the way out.
    pub slack: Duration,
    /// What kind of answer it is.
    pub task: Task,
    /// The output that holds labels (classification) or values (regression).
    pub label_output: Option<Arc<str>>,
    /// The output that holds a score per class.
    pub scores_output: Option<Arc<str>>,
    /// From the index of the largest score to a label.
    pub class_labels: Vec<Arc<str>>,
    /// How an arm's answer is judged by a truth label.
    pub loss: Loss,
    /// Losses are cut here and divided by it; 1 for the zero-one loss.
    pub loss_cap: f64,
    /// The policy's name, as it was asked for.
    pub policy_name: Arc<str>,
    /// Its parameters.
    pub policy_parameters: PolicyParameters,
    /// A policy that learns beside it and decides nothing: its name and parameters.
    pub shadow: Option<(Arc<str>, PolicyParameters)>,
    /// A row below this confidence gets the default.
    pub confidence_threshold: f32,
    /// One row per output; empty: there is no default.
    pub default_output: Vec<Tensor>,
    /// The models it may ask.
    pub arms: Vec<Arm>,
    /// How old a kept answer may be; `None`: the cache is off.
    pub max_age: Option<Duration>,
    /// How long after a decision its feedback counts.
    pub feedback_window: Duration,
    /// Dimension of the context features; 0: there are none.
    pub context_features_dim: usize,
}

/// One entry of an application's models, known by its string.
#[derive(Clone, Debug)]
pub struct Arm {
    /// `name` or `name:version`, as the application links it.
    pub name: Arc<str>,
    /// From the application's input name to the model's; equal names need none.
    pub inputs: Vec<(String, String)>,
    /// From the application's output name to the model's; equal names need none.
    pub outputs: Vec<(String, String)>,
}

impl Arm {
    /// The model's name of an input of the application.
    pub fn model_input<'a>(&'a self, name: &'a str) -> &'a str {
        find(&self.inputs, name)
    }

    /// The model's name of an output of the application.
    pub fn model_output<'a>(&'a self, name: &'a str) -> &'a str {
        find(&self.outputs, name)
    }
}

fn find<'a>(map: &'a [(String, String)], name: &'a str) -> &'a str {
    map.iter().find(|(from, _)| from == name).map_or(name, |(_, to)| to)
}

/// What kind of answer an application gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// A label per row.
    Classification,
    /// A number per row.
    Regression,
    /// Anything: the best-weighted arm's answer is passed on.
    Opaque,
}

/// How an arm's answer is judged by a truth label; always in [0, 1] after the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// 0 where the label is right, else 1.
    ZeroOne,
    /// −ln of the true class's probability.
    Log,
    /// The squared difference.
    Squared,
    /// The absolute difference.
    Absolute,
}
