//! Groups, failures of the disk, and who may open the file.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use redb::{
    Database, DatabaseError, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
    backends::FileBackend,
};

use super::{
    StateError, StateFile,
    database::{Databases, Open},
};

const NUMBERS: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

/// Sets a number unless it is set; says whether it did.
fn set(number: u64) -> impl FnOnce(&WriteTransaction) -> Result<bool, StateError> + Send {
    move |transaction| {
        let mut table = transaction.open_table(NUMBERS).map_err(StateError::disk)?;
        let is_set = table.get(number).map_err(StateError::disk)?.is_some();
        if !is_set {
            table.insert(number, number).map_err(StateError::disk)?;
        }
        Ok(!is_set)
    }
}

fn numbers(file: &StateFile) -> Result<Vec<u64>, StateError> {
    file.read(|transaction| {
        let table = transaction.open_table(NUMBERS).map_err(StateError::disk)?;
        let entries = table.iter().map_err(StateError::disk)?;
        entries.map(|entry| Ok(entry.map_err(StateError::disk)?.0.value())).collect()
    })
}

/// Holds the writer inside a group until the sender is dropped; ready when it is in there.
async fn hold(file: &StateFile) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let (inside, ready) = tokio::sync::oneshot::channel();
    let file = file.clone();
    tokio::spawn(async move {
        let change = move |_: &WriteTransaction| {
            inside.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        };
        file.submit(change).await.unwrap();
    });
    ready.await.unwrap();
    release
}

#[tokio::test]
async fn what_waits_is_one_group_and_one_refusal_is_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(directory.path()).unwrap();
    let release = hold(&file).await;
    let three =
        async { tokio::join!(file.submit(set(1)), file.submit(set(1)), file.submit(set(2))) };
    let released = async { drop(release) };
    let ((first, second, third), ()) = tokio::join!(three, released);
    assert_eq!((first.unwrap(), second.unwrap(), third.unwrap()), (true, false, true));
    assert_eq!(numbers(&file).unwrap(), [1, 2]);
    let stats = file.stats();
    assert_eq!((stats.changes, stats.groups, stats.failed), (4, 2, 0));
}

#[tokio::test]
async fn closing_does_what_was_sent_before() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(directory.path()).unwrap();
    let release = hold(&file).await;
    let sent = async { tokio::join!(file.submit(set(1)), file.submit(set(2))) };
    let closed = async {
        drop(release);
        file.close().await
    };
    let ((first, second), closed) = tokio::join!(sent, closed);
    assert!(first.unwrap() && second.unwrap());
    closed.unwrap();
    assert!(matches!(file.submit(set(3)).await, Err(StateError::Closed)));
    assert!(matches!(numbers(&file), Err(StateError::Closed)));

    let again = StateFile::open(directory.path()).unwrap();
    assert_eq!(numbers(&again).unwrap(), [1, 2]);
}

#[tokio::test]
async fn a_second_one_is_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = StateFile::open(directory.path()).unwrap();
    let refused = StateFile::open(directory.path()).unwrap_err();
    assert!(matches!(refused, StateError::InUse { .. }));
    let message = refused.to_string();
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    assert!(message.contains("--data-dir"), "{message}");
    // The last clone gives it back.
    drop(first);
    StateFile::open(directory.path()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = StateFile::open(&file.path().join("state")).unwrap_err();
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = super::database::File(directory.path().join(super::FILE_NAME));
    let database = file.open().unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(super::META).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = StateFile::open(directory.path()).unwrap_err();
    assert!(matches!(refused, StateError::Format { found: 2, .. }), "{refused}");
}

/// A file on a disk that can be full.
struct Disk {
    path: PathBuf,
    full: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Backend {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Backend {
    fn room(&self) -> Result<(), std::io::Error> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, std::io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        self.room()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.room()?;
        self.file.write(offset, data)
    }
}

impl Open for Disk {
    fn open(&self) -> Result<Database, DatabaseError> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&self.path)?;
        let backend = Backend { file: FileBackend::new(file)?, full: Arc::clone(&self.full) };
        Database::builder().create_with_backend(backend)
    }

    fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_to_those_who_wait_and_passes() {
    let directory = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let disk = Disk { path: directory.path().join("state"), full: Arc::clone(&full) };
    let file = StateFile::start(Databases::open(disk).unwrap()).unwrap();
    assert!(file.submit(set(1)).await.unwrap());

    full.store(true, Ordering::Relaxed);
    let (second, third) = tokio::join!(file.submit(set(2)), file.submit(set(3)));
    assert!(matches!(second, Err(StateError::Disk(_) | StateError::Open { .. })), "{second:?}");
    assert!(third.is_err());

    full.store(false, Ordering::Relaxed);
    // Until the next attempt to open it is due.
    while file.submit(set(4)).await.is_err() {
        tokio::task::yield_now().await;
    }
    let numbers = numbers(&file).unwrap();
    assert!(numbers.contains(&1) && numbers.contains(&4), "{numbers:?}");
    assert!(file.stats().failed >= 2);
}
