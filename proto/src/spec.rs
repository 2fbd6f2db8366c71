//! What a model or an application takes and gives.

use std::fmt;

use crate::{DataType, Tensor, TensorError, pb::v1, tensor::Shape};

/// What a tensor must look like. A dimension of -1 is free; the first one is rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub datatype: DataType,
    /// Its dimensions.
    pub shape: Vec<i64>,
}

/// The inputs and outputs of a model or an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// What it takes.
    pub inputs: Vec<TensorSpec>,
    /// What it gives.
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| spec.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|spec| spec.name == name)
    }
}

impl TensorSpec {
    /// Refuses a tensor of another datatype or shape; says what was expected and what came.
    ///
    /// # Errors
    ///
    /// The datatype, the number of dimensions, or a dimension differs.
    pub fn check(&self, tensor: &Tensor) -> Result<(), TensorError> {
        if tensor.datatype() != self.datatype {
            return Err(TensorError::Datatype {
                name: self.name.clone(),
                expected: self.datatype,
                got: tensor.datatype(),
            });
        }
        let fits = tensor.shape().len() == self.shape.len()
            && self.shape.iter().zip(tensor.shape()).all(|(want, got)| *want == -1 || want == got);
        if fits {
            Ok(())
        } else {
            Err(TensorError::Shape {
                name: self.name.clone(),
                expected: Shape(self.shape.clone()),
                got: Shape(tensor.shape().to_vec()),
            })
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name, self.datatype, Shape(self.shape.clone()))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |specs: &[TensorSpec]| {
            specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        write!(f, "({}) -> ({})", list(&self.inputs), list(&self.outputs))
    }
}

impl TryFrom<v1::TensorSpec> for TensorSpec {
    type Error = TensorError;

    fn try_from(spec: v1::TensorSpec) -> Result<Self, TensorError> {
        if spec.name.is_empty() {
            return Err(TensorError::NoName);
        }
        let datatype = DataType::parse(&spec.name, &spec.datatype)?;
        if spec.shape.is_empty() || spec.shape.iter().any(|dimension| *dimension < -1) {
            return Err(TensorError::SpecShape { name: spec.name, got: Shape(spec.shape) });
        }
        Ok(Self { name: spec.name, datatype, shape: spec.shape })
    }
}

impl From<TensorSpec> for v1::TensorSpec {
    fn from(spec: TensorSpec) -> Self {
        Self { name: spec.name, datatype: spec.datatype.name().into(), shape: spec.shape }
    }
}
