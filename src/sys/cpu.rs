//! CPUs and memory as the kernel accounts them: which CPUs are ours, what a process uses.

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

/// CPU seconds that process `pid` has used, in user and kernel mode.
///
/// # Errors
/// There is no such process.
pub fn process_seconds(pid: u32) -> io::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let ticks = parse_process_ticks(&fs::read_to_string(&path)?);
    let ticks = ticks.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, path))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn parse_process_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything; utime and stime are fields 14 and 15, and field 3
    // follows the name.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
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

    #[test]
    fn process_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 1 1 0 -1 4 9 0 0 0 120 34 0 0 20 0 5 0 1 2 3";
        assert_eq!(parse_process_ticks(stat), Some(154));
        assert_eq!(parse_process_ticks("7 (a) S 1"), None);
        assert!(process_seconds(std::process::id()).is_ok());
        assert!(process_seconds(u32::MAX).is_err());
    }

    #[test]
    fn a_thread_is_bound_to_a_cpu_that_it_may_use() {
        let cpu = *available().unwrap().last().unwrap();
        std::thread::spawn(move || {
            pin(cpu).unwrap();
            assert_eq!(available().unwrap(), [cpu]);
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
