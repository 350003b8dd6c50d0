//! CPUs and memory as the kernel accounts them: which CPUs are ours, how busy they are, how much a process holds.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may use, in ascending order.
///
/// # Errors
/// The kernel does not say.
pub fn available() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// The CPU does not exist or is not allowed.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// What a CPU did since boot, in clock ticks (hundredths of a second). Only differences mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreTimes {
    /// Ticks with work of any kind: processes, kernel, interrupts, and what the hypervisor took away.
    pub busy: u64,
    /// All ticks.
    pub total: u64,
}

/// What `cpu` did since boot.
///
/// # Errors
/// There is no such CPU, or `/proc/stat` cannot be read.
pub fn core_times(cpu: usize) -> io::Result<CoreTimes> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("/proc/stat has no cpu{cpu}"));
    parse_core_times(&fs::read_to_string("/proc/stat")?, cpu).ok_or_else(missing)
}

fn parse_core_times(stat: &str, cpu: usize) -> Option<CoreTimes> {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split(' ').next() == Some(&name))?;
    // user nice system idle iowait irq softirq steal; what follows (guests) is contained in user and nice.
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().skip(1).take(8).flat_map(str::parse).collect();
    let [_, _, _, idle, iowait, ..] = ticks[..] else { return None };
    let total = ticks.iter().sum();
    Some(CoreTimes { busy: total - idle - iowait, total })
}

/// Bytes of memory that process `pid` holds (RSS); 0 means this process.
///
/// # Errors
/// There is no such process, or it is not ours to look at.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let path = if pid == 0 { "/proc/self/statm".into() } else { format!("/proc/{pid}/statm") };
    let text = fs::read_to_string(&path)?;
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, path))?;
    Ok(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  30 0 30 300 20 2 2 2 9 9\n\
                        cpu1 10 1 10 100 5 1 1 1 7 7\n\
                        cpu10 20 0 20 200 10 1 1 1 0 0\n\
                        intr 1 2 3\n";

    #[test]
    fn busy_is_all_but_idle_and_waiting() {
        assert_eq!(parse_core_times(STAT, 1), Some(CoreTimes { busy: 24, total: 129 }));
        assert_eq!(parse_core_times(STAT, 10), Some(CoreTimes { busy: 43, total: 253 }));
    }

    #[test]
    fn a_missing_or_broken_line_is_no_answer() {
        assert_eq!(parse_core_times(STAT, 2), None);
        assert_eq!(parse_core_times("cpu2 1 2\n", 2), None);
        assert!(core_times(1 << 20).is_err());
    }

    #[test]
    fn a_thread_is_bound_to_a_cpu_that_it_may_use() {
        let cpu = *available().unwrap().last().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(available().unwrap(), [cpu]);
            assert!(core_times(cpu).unwrap().total > 0);
        })
        .join()
        .unwrap();
        assert!(pin(CpuSet::MAX_CPU).is_err());
    }

    #[test]
    fn a_process_holds_memory() {
        assert!(resident_bytes(0).unwrap() > 1 << 16);
        assert_eq!(resident_bytes(u32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
