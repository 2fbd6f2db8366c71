//! What the hot path reads to find a model; replaced as a whole.

use std::{collections::HashMap, sync::Arc};

use skysail_proto::{ModelId, ModelVersion};

use crate::{error::ContainerError, model::Model};

#[derive(Clone, Default)]
pub(super) struct Catalogue {
    /// `name:version`, and bare names as they resolve now.
    pub(super) arms: HashMap<Arc<str>, Arc<ModelVersion>>,
    pub(super) models: HashMap<ModelId, Arc<Model>>,
    /// By name, in the order of registration.
    pub(super) names: Vec<Named>,
}

#[derive(Clone)]
pub(super) struct Named {
    pub(super) name: Arc<str>,
    pub(super) versions: Vec<ModelId>,
    /// What the bare name stands for.
    pub(super) current: ModelId,
}

impl Catalogue {
    pub(super) fn add(&mut self, model: Arc<Model>) {
        let id = model.version.id.clone();
        self.arms.insert(id.to_string().into(), Arc::clone(&model.version));
        match self.names.iter_mut().find(|named| named.name == id.name) {
            Some(named) => named.versions.push(id.clone()),
            None => {
                self.arms.insert(Arc::clone(&id.name), Arc::clone(&model.version));
                self.names.push(Named {
                    name: Arc::clone(&id.name),
                    versions: vec![id.clone()],
                    current: id.clone(),
                });
            }
        }
        self.models.insert(id, model);
    }

    pub(super) fn set_version(&mut self, model: &str, version: &str) -> Result<(), ContainerError> {
        let known: Vec<&str> = self.names.iter().map(|named| &*named.name).collect();
        let known = known.join(", ");
        let Some(named) = self.names.iter_mut().find(|named| &*named.name == model) else {
            return Err(ContainerError::Unknown { kind: "model", name: model.into(), known });
        };
        let Some(id) = named.versions.iter().find(|id| &*id.version == version).cloned() else {
            let known: Vec<&str> = named.versions.iter().map(|id| &*id.version).collect();
            return Err(ContainerError::Unknown {
                kind: "version",
                name: format!("{model}:{version}"),
                known: known.join(", "),
            });
        };
        if let Some(model) = self.models.get(&id) {
            self.arms.insert(Arc::clone(&named.name), Arc::clone(&model.version));
        }
        named.current = id;
        Ok(())
    }
}
