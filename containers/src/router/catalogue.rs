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
    /// What the bare name stands for. It may be gone for the moment.
    pub(super) current: ModelId,
    /// `current` was set and did not come about by itself.
    pub(super) pinned: bool,
}

impl Catalogue {
    pub(super) fn add(&mut self, model: Arc<Model>) {
        let id = model.version.id.clone();
        self.arms.insert(id.to_string().into(), Arc::clone(&model.version));
        self.name(&id);
        for named in self.names.iter_mut().filter(|named| named.name == id.name) {
            if !named.versions.contains(&id) {
                named.versions.push(id.clone());
            }
            if named.current == id {
                self.arms.insert(Arc::clone(&id.name), Arc::clone(&model.version));
            }
        }
        self.models.insert(id, model);
    }

    /// Makes an entry for a name that has none; it stands for that version.
    fn name(&mut self, id: &ModelId) {
        if !self.names.iter().any(|named| named.name == id.name) {
            self.names.push(Named {
                name: Arc::clone(&id.name),
                versions: Vec::new(),
                current: id.clone(),
                pinned: false,
            });
        }
    }

    /// That very object serves its version.
    pub(super) fn is(&self, model: &Arc<Model>) -> bool {
        self.models.get(&model.version.id).is_some_and(|known| Arc::ptr_eq(known, model))
    }

    /// Forgets a version. What its bare name stands for does not move to another one by itself.
    pub(super) fn remove(&mut self, id: &ModelId) {
        self.models.remove(id);
        self.arms.remove(id.to_string().as_str());
        for named in self.names.iter_mut().filter(|named| named.name == id.name) {
            named.versions.retain(|version| version != id);
            if named.current == *id {
                self.arms.remove(&named.name);
            }
        }
        self.names.retain(|named| named.pinned || !named.versions.is_empty());
    }

    /// What a bare name stands for once that version is there.
    pub(super) fn pin(&mut self, id: ModelId) {
        let model = self.models.get(&id).map(|model| Arc::clone(&model.version));
        self.name(&id);
        for named in self.names.iter_mut().filter(|named| named.name == id.name) {
            (named.current, named.pinned) = (id.clone(), true);
        }
        match model {
            Some(version) => self.arms.insert(id.name, version),
            None => self.arms.remove(&id.name),
        };
    }

    pub(super) fn set_version(&mut self, model: &str, version: &str) -> Result<(), ContainerError> {
        let known: Vec<&str> = self.names.iter().map(|named| &*named.name).collect();
        let known = known.join(", ");
        let Some(named) = self.names.iter().find(|named| &*named.name == model) else {
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
        self.pin(id);
        Ok(())
    }
}
