//! The front end of Skysail: the doors, the applications, and what survives a restart.
//!
//! # Layout
//!
//! - [`config`]: the configuration file
//! - [`application`]: checks an application that a client or a file declares
//! - [`applications`]: those that are served, each with its stack
//! - [`stack`]: the layers of a query, put together in one place
//! - [`admit`]: bounded concurrency, and the deadline
//! - [`container`]: a process that serves one model to front ends
//! - [`registrar`]: keeps a container registered with a front end
//! - [`predict`]: one query by whichever door: checked, admitted, answered, counted once
//! - [`open_inference`]: applications as the models of the Open Inference Protocol
//! - [`grpc`]: the services of the gRPC port
//! - [`http`]: metrics and health over HTTP
//! - [`page`]: the page for a browser, and what it is fed with
//! - [`status`]: the one map from errors to codes
//! - [`metrics`]: every metric by name
//! - [`recent`]: what is counted for the page
//! - [`telemetry`]: traces, and the log
//! - [`state`], [`record`]: the transactional file, and the decision log
//! - [`registrations`]: containers that registered, between the wire, the models and the file
//! - [`server`]: starts and ends all of it
//! - [`cli`]: the command line
//! - [`demo`]: the main job on real data
//! - [`evaluate`]: what another policy would have earned
//!
//! # What it does not do
//!
//! It holds no policy, no cache and no batcher; it composes the crates that do.

pub mod admit;
pub mod application;
pub mod applications;
pub mod cli;
pub mod config;
pub mod container;
pub mod default_rewards;
pub mod demo;
pub mod evaluate;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod open_inference;
pub mod page;
pub mod predict;
pub mod recent;
pub mod record;
pub mod refresh;
pub mod registrar;
pub mod registrations;
pub mod server;
pub mod stack;
pub mod state;
pub mod status;
pub mod stores;
pub mod telemetry;
