//! Applications that came through Admin, the current version of each model, and containers that
//! registered.

use prost::Message;
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use skysail_proto::pb::v1;

use super::{StateError, StateFile};

/// Name to the encoded `skysail.v1.Application`.
const APPLICATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("applications");

/// Model to the version that `SetVersion` set.
const VERSIONS: TableDefinition<'_, &str, &str> = TableDefinition::new("versions");

/// Container id to the encoded `skysail.v1.RegisterRequest`.
const REGISTRATIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registrations");

pub(super) fn create(transaction: &WriteTransaction) -> Result<(), StateError> {
    transaction.open_table(APPLICATIONS).map_err(StateError::disk)?;
    transaction.open_table(VERSIONS).map_err(StateError::disk)?;
    transaction.open_table(REGISTRATIONS).map_err(StateError::disk)?;
    Ok(())
}

impl StateFile {
    /// Keeps an application, in place of one of that name.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn put_application(&self, application: v1::Application) -> Result<(), StateError> {
        self.submit(move |transaction| {
            let mut table = transaction.open_table(APPLICATIONS).map_err(StateError::disk)?;
            let encoded = application.encode_to_vec();
            table.insert(&*application.name, &*encoded).map_err(StateError::disk)?;
            Ok(())
        })
        .await
    }

    /// The application of that name.
    ///
    /// # Errors
    ///
    /// The state file failed, or what it holds there is no application.
    pub fn application(&self, name: &str) -> Result<Option<v1::Application>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(APPLICATIONS).map_err(StateError::disk)?;
            let entry = table.get(name).map_err(StateError::disk)?;
            entry.map(|entry| decode(name, entry.value())).transpose()
        })
    }

    /// All applications, by name.
    ///
    /// # Errors
    ///
    /// The state file failed, or an entry of it is no application.
    pub fn applications(&self) -> Result<Vec<v1::Application>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(APPLICATIONS).map_err(StateError::disk)?;
            let entries = table.iter().map_err(StateError::disk)?;
            entries
                .map(|entry| {
                    let (name, encoded) = entry.map_err(StateError::disk)?;
                    decode(name.value(), encoded.value())
                })
                .collect()
        })
    }

    /// Forgets an application, and says whether there was one.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn delete_application(&self, name: &str) -> Result<bool, StateError> {
        let name = name.to_owned();
        self.submit(move |transaction| {
            let mut table = transaction.open_table(APPLICATIONS).map_err(StateError::disk)?;
            let removed = table.remove(&*name).map_err(StateError::disk)?;
            Ok(removed.is_some())
        })
        .await
    }

    /// Keeps the version that a model's bare name stands for.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn set_version(&self, model: &str, version: &str) -> Result<(), StateError> {
        let (model, version) = (model.to_owned(), version.to_owned());
        self.submit(move |transaction| {
            let mut table = transaction.open_table(VERSIONS).map_err(StateError::disk)?;
            table.insert(&*model, &*version).map_err(StateError::disk)?;
            Ok(())
        })
        .await
    }

    /// Keeps the registration of a container.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn put_registration(
        &self,
        container: &str,
        registration: v1::RegisterRequest,
    ) -> Result<(), StateError> {
        let container = container.to_owned();
        self.submit(move |transaction| {
            let mut table = transaction.open_table(REGISTRATIONS).map_err(StateError::disk)?;
            let encoded = registration.encode_to_vec();
            table.insert(&*container, &*encoded).map_err(StateError::disk)?;
            Ok(())
        })
        .await
    }

    /// Forgets the registration of a container.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn delete_registration(&self, container: &str) -> Result<(), StateError> {
        let container = container.to_owned();
        self.submit(move |transaction| {
            let mut table = transaction.open_table(REGISTRATIONS).map_err(StateError::disk)?;
            table.remove(&*container).map_err(StateError::disk)?;
            Ok(())
        })
        .await
    }

    /// Every registration, by container id.
    ///
    /// # Errors
    ///
    /// The state file failed, or an entry of it is no registration.
    pub fn registrations(&self) -> Result<Vec<(String, v1::RegisterRequest)>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(REGISTRATIONS).map_err(StateError::disk)?;
            let entries = table.iter().map_err(StateError::disk)?;
            entries
                .map(|entry| {
                    let (id, encoded) = entry.map_err(StateError::disk)?;
                    let decoded = v1::RegisterRequest::decode(encoded.value());
                    let broken = |error| format!("registration '{}': {error}", id.value());
                    let decoded = decoded.map_err(|e| StateError::Broken(broken(e).into()))?;
                    Ok((id.value().to_owned(), decoded))
                })
                .collect()
        })
    }

    /// Every version that was set, by model.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub fn versions(&self) -> Result<Vec<(String, String)>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(VERSIONS).map_err(StateError::disk)?;
            let entries = table.iter().map_err(StateError::disk)?;
            entries
                .map(|entry| {
                    let (model, version) = entry.map_err(StateError::disk)?;
                    Ok((model.value().to_owned(), version.value().to_owned()))
                })
                .collect()
        })
    }
}

fn decode(name: &str, encoded: &[u8]) -> Result<v1::Application, StateError> {
    v1::Application::decode(encoded)
        .map_err(|error| StateError::Broken(format!("application '{name}': {error}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(name: &str, labels: &[&str]) -> v1::Application {
        v1::Application {
            name: name.into(),
            class_labels: labels.iter().map(|&label| label.into()).collect(),
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn what_was_put_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::open(directory.path()).unwrap();
        assert_eq!(file.applications().unwrap(), []);
        file.put_application(application("b", &["x"])).await.unwrap();
        file.put_application(application("a", &[])).await.unwrap();
        file.put_application(application("c", &[])).await.unwrap();
        file.put_application(application("b", &["y"])).await.unwrap();
        assert!(file.delete_application("c").await.unwrap());
        assert!(!file.delete_application("d").await.unwrap());
        file.set_version("m", "1").await.unwrap();
        file.set_version("m", "2").await.unwrap();
        let registration =
            |address: &str| v1::RegisterRequest { address: address.into(), ..Default::default() };
        file.put_registration("m:1/a", registration("here:1")).await.unwrap();
        file.put_registration("m:1/b", registration("here:2")).await.unwrap();
        file.delete_registration("m:1/a").await.unwrap();
        file.delete_registration("m:1/c").await.unwrap();
        file.close().await.unwrap();

        let file = StateFile::open(directory.path()).unwrap();
        let all = [application("a", &[]), application("b", &["y"])];
        assert_eq!(file.applications().unwrap(), all);
        assert_eq!(file.application("b").unwrap().as_ref(), Some(&all[1]));
        assert_eq!(file.application("c").unwrap(), None);
        assert_eq!(file.versions().unwrap(), [("m".to_owned(), "2".to_owned())]);
        let kept = [("m:1/b".to_owned(), registration("here:2"))];
        assert_eq!(file.registrations().unwrap(), kept);
    }
}
