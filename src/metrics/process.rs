//! The process itself, under the names that all of Prometheus' client libraries use.

use std::{
    fs,
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

type Real = Gauge<f64, AtomicU64>;

/// Read from `/proc` when Prometheus asks; where there is none they are 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessMetrics {
    cpu_seconds: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    open_fds: Gauge,
    threads: Gauge,
    start_time: Real,
}

impl ProcessMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let process = registry.sub_registry_with_prefix("process");
        let cpu = "Processor time, user and system";
        process.register_with_unit("cpu", cpu, Unit::Seconds, self.cpu_seconds.clone());
        let resident = "Memory that is resident";
        process.register_with_unit("resident_memory", resident, Unit::Bytes, self.resident.clone());
        let reserved = "Memory that is reserved";
        process.register_with_unit(
            "virtual_memory",
            reserved,
            Unit::Bytes,
            self.virtual_memory.clone(),
        );
        process.register("open_fds", "Open files and sockets", self.open_fds.clone());
        process.register("threads", "Threads", self.threads.clone());
        let start = "When the process began, since the Unix epoch";
        process.register_with_unit("start_time", start, Unit::Seconds, self.start_time.clone());
    }

    pub(crate) fn sample(&self) {
        if let Some(now) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| read(&text)) {
            self.cpu_seconds.inner().store(now.cpu_seconds.to_bits(), RELAXED);
            self.resident.set(now.resident);
            self.virtual_memory.set(now.virtual_memory);
            self.threads.set(now.threads);
            // It does not change; the machine's clock may.
            if self.start_time.get() == 0.0
                && let Some(start) = started(now.started)
            {
                self.start_time.set(start);
            }
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is the folder itself.
            self.open_fds.set(i64::try_from(open.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
    }
}

const RELAXED: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    resident: i64,
    virtual_memory: i64,
    threads: i64,
    /// After the machine.
    started: Duration,
}

/// Reads `/proc/self/stat`, see proc_pid_stat(5).
fn read(text: &str) -> Option<Stat> {
    // The second field, the program's name, stands in brackets and may hold anything.
    let fields: Vec<_> = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let page = i64::try_from(rustix::param::page_size()).ok()?;
    Some(Stat {
        cpu_seconds: (field(14)? + field(15)?) as f64 / tick,
        threads: field(20)?,
        started: Duration::try_from_secs_f64(field(22)? as f64 / tick).ok()?,
        virtual_memory: field(23)?,
        resident: field(24)? * page,
    })
}

fn started(after_boot: Duration) -> Option<f64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let up: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.as_secs_f64() - up + after_boot.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_is_skipped() {
        let rest: Vec<_> = (3..=52).map(|field| field.to_string()).collect();
        let text = format!("7 (a) b (c) {}\n", rest.join(" "));
        let stat = read(&text).unwrap();
        let tick = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(stat.cpu_seconds, (14.0 + 15.0) / tick);
        assert_eq!((stat.threads, stat.virtual_memory), (20, 23));
        assert_eq!(stat.resident, 24 * rustix::param::page_size() as i64);
        assert_eq!(read("7 (a"), None);
        assert_eq!(read("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_as_it_says() {
        let metrics = ProcessMetrics::default();
        metrics.sample();
        assert!(metrics.resident.get() > 1 << 20, "{metrics:?}");
        assert!(metrics.virtual_memory.get() >= metrics.resident.get(), "{metrics:?}");
        assert!(metrics.open_fds.get() >= 3 && metrics.threads.get() >= 1, "{metrics:?}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - metrics.start_time.get();
        assert!((-1.0..3600.0).contains(&age), "{age}");
    }
}
