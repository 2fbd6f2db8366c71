//! The thread that makes changes durable, group by group.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Instant,
};

use super::{Counters, Done, Job, LINGER, MAX_WAITING, StateError, database::Databases};

pub(super) struct Writer {
    databases: Arc<Databases>,
    counters: Arc<Counters>,
    waiting: Receiver<Job>,
    /// Changes of the last group.
    last: usize,
    failing: bool,
}

impl Writer {
    pub(super) fn new(
        databases: Arc<Databases>,
        counters: Arc<Counters>,
        waiting: Receiver<Job>,
    ) -> Self {
        Self { databases, counters, waiting, last: 0, failing: false }
    }

    /// Until nobody can send any more and all that was sent is done.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.waiting.recv() {
            let group = self.gather(first);
            self.last = group.len();
            self.commit(group);
        }
        self.databases.close();
    }

    /// All that waits. A lone one is not held; several are, for the others that were in the last
    /// group and are likely on their way back.
    fn gather(&self, first: Job) -> Vec<Job> {
        let mut group = vec![first];
        group.extend(self.waiting.try_iter().take(MAX_WAITING - 1));
        let until = Instant::now() + LINGER;
        while (2..self.last).contains(&group.len()) {
            match self.waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(job) => group.push(job),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        group
    }

    fn commit(&mut self, group: Vec<Job>) {
        let changes = group.len() as u64;
        let (done, result) = self.in_one_transaction(group);
        self.counters.groups.fetch_add(1, Ordering::Relaxed);
        let counter = if result.is_ok() { &self.counters.changes } else { &self.counters.failed };
        counter.fetch_add(changes, Ordering::Relaxed);
        match &result {
            // Once, not for each group: whoever waits gets the error, too.
            Err(error) if !self.failing => {
                tracing::error!(%error, "the state file takes no changes");
            }
            Ok(()) if self.failing => tracing::info!("the state file takes changes again"),
            _ => {}
        }
        self.failing = result.is_err();
        if self.failing {
            // After an error redb refuses all further transactions until it is opened again.
            // Before the replies, so that who tries again finds the file that holds.
            self.databases.reopen();
        }
        for done in done {
            (done.reply)(result.clone());
        }
    }

    /// Runs the changes and commits them. One that fails takes the others back: only the disk
    /// makes one fail.
    fn in_one_transaction(&self, group: Vec<Job>) -> (Vec<Done>, Result<(), StateError>) {
        let mut waiting = group.into_iter();
        let mut done = Vec::with_capacity(waiting.len());
        let result = self.databases.with(|database| {
            let transaction = database.begin_write().map_err(StateError::disk)?;
            for job in waiting.by_ref() {
                let one = (job.change)(Ok(&transaction));
                let failed = one.failed.clone();
                done.push(one);
                if let Some(error) = failed {
                    // The error of the change is the one to tell.
                    let _ = transaction.abort();
                    return Err(error);
                }
            }
            transaction.commit().map_err(StateError::disk)
        });
        if let Err(error) = &result {
            done.extend(waiting.map(|job| (job.change)(Err(error.clone()))));
        }
        (done, result)
    }
}
