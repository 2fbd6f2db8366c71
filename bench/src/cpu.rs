//! What processes used of the processors, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context;

/// Linux shows clock ticks of this length to user space on every architecture we run on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Of the server, user and system.
    pub server: Option<Duration>,
    /// Of this process.
    pub own: Duration,
    /// Of the whole machine: all that was not idle.
    pub machine: Duration,
    /// Stolen by the hypervisor.
    pub stolen: Duration,
}

impl Snapshot {
    /// Reads the clocks of the machine, of this process, and of `server`.
    ///
    /// # Errors
    ///
    /// There is no such process, or `/proc` is not there.
    pub fn take(server: Option<u32>) -> anyhow::Result<Self> {
        let (machine, stolen) = machine()?;
        let server = server
            .map(|pid| process(&pid.to_string()).with_context(|| format!("CPU of process {pid}")))
            .transpose()?;
        Ok(Self { server, own: process("self")?, machine, stolen })
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            server: self.server.zip(before.server).map(|(now, then)| now.saturating_sub(then)),
            own: self.own.saturating_sub(before.own),
            machine: self.machine.saturating_sub(before.machine),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }
}

fn process(pid: &str) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    user_and_system(&stat).context("its stat file is broken")
}

/// Fields 14 and 15, counted from behind the program's name, which may hold anything.
fn user_and_system(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * (user + system))
}

fn machine() -> anyhow::Result<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat").context("the machine's CPU")?;
    busy_and_stolen(&stat).context("/proc/stat is broken")
}

/// `cpu user nice system idle iowait irq softirq steal …`; guests are in `user` already.
fn busy_and_stolen(stat: &str) -> Option<(Duration, Duration)> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks.as_slice() else {
        return None;
    };
    let ticks = |count: u64| Duration::from_millis(count * TICK.as_millis() as u64);
    Some((ticks(user + nice + system + irq + softirq), ticks(*steal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "12 (a) b) (c) S 1 12 12 0 -1 4194560 9 0 0 0 150 25 3 4 20 0 8 0 77";
        assert_eq!(user_and_system(stat), Some(Duration::from_millis(1_750)));
    }

    #[test]
    fn idle_time_is_not_busy() {
        let stat = "cpu  100 1 20 9999 50 3 4 7 0 0\ncpu0 1 2 3 4 5 6 7 8";
        let expected = (Duration::from_millis(1_280), Duration::from_millis(70));
        assert_eq!(busy_and_stolen(stat), Some(expected));
    }

    #[test]
    fn this_process_has_a_clock_and_a_missing_one_is_named() {
        assert!(Snapshot::take(Some(std::process::id())).unwrap().server.is_some());
        let error = format!("{:#}", Snapshot::take(Some(u32::MAX)).unwrap_err());
        assert!(error.contains("4294967295"), "{error}");
    }
}
