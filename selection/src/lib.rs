//! Which models to ask, how their answers become one, and what feedback teaches.
//!
//! On the request path this crate sits between the front door, which gives it a [`Query`], and
//! the prediction cache, to which it gives one `ModelCall` per chosen arm.
//!
//! # Layout
//!
//! - [`application`]: an application as the selection sees it
//! - [`query`]: [`Query`], [`Prediction`], [`Feedback`] and their parts
//! - [`policy`]: the policies: pure, given a generator and returning values
//! - [`combine`]: one answer out of several arms' answers
//! - [`label`], [`record`]: what a decision leaves behind, so that feedback can find it
//! - [`store`]: [`SelectionStore`] and [`DecisionLog`], the seams to what survives
//! - [`service`]: asks, gathers until the deadline, combines, records
//! - [`evaluate`]: what another policy would have earned, out of the decision log: pure
//! - [`observe`]: applies feedback in grouped compare-and-swap
//!
//! # What it does not do
//!
//! It opens no file and no socket, knows of no batch and no replica, and maps no error to a
//! status of a protocol.

pub mod application;
pub mod combine;
pub mod evaluate;
pub mod label;
pub mod observe;
pub mod policy;
pub mod query;
pub mod record;
pub mod service;
pub mod store;

pub use application::{Application, Arm, Loss, PolicyParameters, Task};
pub use label::Label;
pub use query::{
    Acknowledgement, Contribution, Feedback, FeedbackValue, InputFeedback, Outcome, Prediction,
    Query, RowStatus, Status,
};
pub use record::{ArmRecord, DecisionId, DecisionRecord, RowRecord, ShadowRecord};
pub use service::{OpenError, Selector};
pub use store::{DecisionLog, ModelDirectory, SelectionStore};
