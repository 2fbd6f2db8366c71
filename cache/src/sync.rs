//! What flights share and run by: a lock and a task. In a test of interleavings both are shuttle's,
//! so that every lock and every start of a task is a point at which another may go first.

#[cfg(not(test))]
pub(crate) use {parking_lot::Mutex, tokio::spawn};

#[cfg(test)]
pub(crate) use explored::{Mutex, spawn};

#[cfg(test)]
mod explored {
    use std::ops::{Deref, DerefMut};

    use shuttle::current::try_get_current_task;

    /// Whether shuttle is the scheduler: tests that tokio runs come by here as well.
    fn explored() -> bool {
        try_get_current_task().is_some()
    }

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T> {
        turn: shuttle::sync::Mutex<()>,
        value: parking_lot::Mutex<T>,
    }

    /// Fields are dropped in this order: whoever gets the turn finds the value free.
    pub(crate) struct Guard<'a, T> {
        value: parking_lot::MutexGuard<'a, T>,
        _turn: Option<shuttle::sync::MutexGuard<'a, ()>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> Guard<'_, T> {
            let turn = explored().then(|| self.turn.lock().expect("nobody panicked with it"));
            Guard { value: self.value.lock(), _turn: turn }
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.value
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.value
        }
    }

    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        if explored() {
            shuttle::future::spawn(task);
        } else {
            tokio::spawn(task);
        }
    }
}
