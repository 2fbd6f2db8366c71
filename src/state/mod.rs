//! What must survive a restart and is changed in place: one transactional file, and for selection
//! state a Redis where one is given.
//!
//! # Layout
//!
//! - [`mod@file`]: the file, and the one thread that writes to it in groups
//! - [`selection`]: selection state and marks, behind `SelectionStore`
//! - [`redis`]: the same in a Redis that front ends share, with the decision records for it
//! - [`applications`]: applications put over the wire, and the current version of each model
//! - [`cursors`]: how far the decision log was read for default rewards
//! - [`key`]: how names become keys
//!
//! # What it does not do
//!
//! The file keeps no decision records; those are appended, never changed
//! ([`record`](crate::record)).

pub mod applications;
#[cfg(test)]
pub(crate) mod child;
pub mod cursors;
pub mod file;
pub mod key;
pub mod redis;
pub mod selection;

pub use file::{StateError, StateFile, StateStats};
pub use redis::{RedisState, RedisStateError, RedisStateStats};
pub use selection::EmbeddedStore;
