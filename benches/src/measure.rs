//! Time and memory of a piece of work.

use std::time::{Duration, Instant};

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Time on the wall.
    pub wall: Duration,
    /// Processor time of all threads of this process.
    pub cpu: Duration,
}

impl Cost {
    /// MiB per second of wall time.
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    pub fn mib_per_second(&self, bytes: u64) -> f64 {
        bytes as f64 / f64::from(1 << 20) / self.wall.as_secs_f64().max(1e-9)
    }
}

/// Runs `work` and says what it took.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (cpu, begun) = (cpu_time(), Instant::now());
    let value = work();
    (value, Cost { wall: begun.elapsed(), cpu: cpu_time().saturating_sub(cpu) })
}

/// The cheapest of several, by wall time.
pub fn best(costs: &[Cost]) -> Cost {
    let none = Cost { wall: Duration::MAX, cpu: Duration::MAX };
    costs.iter().copied().min_by_key(|cost| cost.wall).unwrap_or(none)
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    // Fields 14 and 15 of /proc/self/stat, counted after the name in brackets, in ticks of 1/100 s.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Processor time of all processes that this one has started and waited for.
pub fn children_cpu_time() -> Duration {
    // Fields 16 and 17 of /proc/self/stat, as above.
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after_name.split_whitespace().skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The most memory that this process has had resident since [`reset_peak_memory`], in bytes.
pub fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
    kib << 10
}

/// Begins a new peak. Answers whether the kernel allows it.
pub fn reset_peak_memory() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}
