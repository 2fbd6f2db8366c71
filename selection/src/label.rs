//! What a model says of one row.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A label or a value. Labels are compared after a cast to the application's label output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// Any integer or boolean datatype.
    Int(i64),
    /// Any floating-point datatype; never NaN.
    Real(f64),
    /// An element of a BYTES tensor that is UTF-8.
    Text(Arc<str>),
}
