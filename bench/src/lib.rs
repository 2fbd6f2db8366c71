//! Measures Skysail from outside, as a client would: a load generator, a bare gRPC echo to compare
//! with, and the measurements built on the two.
//!
//! # Layout
//!
//! - [`cli`]: the command line
//! - [`arrivals`], [`trace`]: when queries come
//! - [`workload`], [`npy`]: what they hold
//! - [`target`]: drivers that send them: our API (unary, streams), the Open Inference Protocol
//! - [`recorder`]: how they ended, and how long it took from the intended start
//! - [`cpu`]: processor time of the server, of the generator and of others
//! - [`load`]: one block of load: all of the above together
//! - [`echo`], [`process`], [`collector`]: the echo, server processes in general, a sink for traces
//! - [`overhead`]: Skysail beside the echo
//! - [`early_drop`]: the product's queue beside a lazy rule, in virtual time
//! - [`batching`], [`sleeper`]: adaptive batches beside fixed ones, and the container that waits
//! - [`mod@cache`]: what an answer from the cache costs, and throughput by the share of hits
//! - [`growth`], [`soak`], [`resources`]: how cost grows with sizes and with time; what a process holds
//! - [`labelled`]: queries and their labels, over two streams
//! - [`limits`], [`bare`]: what binds every server on this machine; a container alone
//! - [`rivals`]: other model servers on the same models
//! - [`report`], [`chart`], [`summary`]: tables and JSON, pictures, all bars of a run
//!
//! # What it does not do
//!
//! It judges nothing by itself: it prints each figure beside the bar that it must meet. It drives the
//! product over the wire; only [`early_drop`], the model seam of [`batching`], [`bare`] and
//! the store of [`mod@cache`] import a part of it.

pub mod arrivals;
pub mod bare;
pub mod batching;
pub mod cache;
pub mod chart;
pub mod cli;
pub mod collector;
pub mod cpu;
pub mod early_drop;
pub mod echo;
pub mod growth;
pub mod labelled;
pub mod limits;
pub mod load;
pub mod npy;
pub mod open_inference;
pub mod overhead;
pub mod personalisation;
pub mod process;
pub mod recorded;
pub mod recorder;
pub mod replay;
pub mod report;
pub mod resources;
pub mod rivals;
pub mod selection;
pub mod sleeper;
pub mod soak;
pub mod stragglers;
pub mod summary;
pub mod target;
pub mod trace;
pub mod workload;
