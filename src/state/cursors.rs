//! How far the decision log was read for an application's default reward.

use redb::{TableDefinition, WriteTransaction};

use super::{StateError, StateFile};

/// Application to segment, offset, and two times.
const CURSORS: TableDefinition<'_, &str, (u64, u64, u64, u64)> = TableDefinition::new("cursors");

pub(super) fn create(transaction: &WriteTransaction) -> Result<(), StateError> {
    transaction.open_table(CURSORS).map_err(StateError::disk)?;
    Ok(())
}

/// A place in the decision log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Number of the segment.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
    /// Every decision made until then has feedback or its default; milliseconds since the Unix
    /// epoch.
    pub until_ms: u64,
    /// Decisions made before it are none of its business; milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl StateFile {
    /// The cursor of an application.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub fn cursor(&self, application: &str) -> Result<Option<Cursor>, StateError> {
        self.read(|transaction| {
            let table = transaction.open_table(CURSORS).map_err(StateError::disk)?;
            let entry = table.get(application).map_err(StateError::disk)?;
            Ok(entry.map(|entry| {
                let (segment, offset, until_ms, since_ms) = entry.value();
                Cursor { segment, offset, until_ms, since_ms }
            }))
        })
    }

    /// Moves the cursor of an application; `None` takes it away.
    ///
    /// # Errors
    ///
    /// The state file failed.
    pub async fn set_cursor(
        &self,
        application: &str,
        cursor: Option<Cursor>,
    ) -> Result<(), StateError> {
        let application = application.to_owned();
        self.submit(move |transaction| {
            let mut table = transaction.open_table(CURSORS).map_err(StateError::disk)?;
            match cursor {
                Some(Cursor { segment, offset, until_ms, since_ms }) => {
                    let cursor = (segment, offset, until_ms, since_ms);
                    table.insert(&*application, cursor).map_err(StateError::disk)?;
                }
                None => {
                    table.remove(&*application).map_err(StateError::disk)?;
                }
            }
            Ok(())
        })
        .await
    }
}
