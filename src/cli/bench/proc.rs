//! What the kernel tells about the cost of a run: busy time of a core, CPU and memory of a process,
//! the own thread.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::Error;

/// Seconds since boot in which core `cpu` had nothing to do; the rest is its busy time: whole core,
/// interrupts and kernel threads included, because work that the kernel does for a server outside its
/// process is the server's all the same.
///
/// Not the sum of the busy columns of /proc/stat: those are sampled by the timer, and a fixed rate of
/// messages can beat with it (0.05 was shown where 0.36 was true). Idle time is measured.
pub(super) fn core_rest_seconds(cpu: usize) -> Option<f64> {
    let ticks = parse_core_rest(&fs::read_to_string("/proc/stat").ok()?, cpu)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn parse_core_rest(stat: &str, cpu: usize) -> Option<u64> {
    let name = format!("cpu{cpu}");
    let mut fields = stat.lines().map(str::split_whitespace);
    let line = fields.find_map(|mut line| (line.next() == Some(&name)).then_some(line))?;
    // user nice system idle iowait irq softirq steal
    let ticks: Vec<u64> = line.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(ticks.get(3)? + ticks.get(4)? + ticks.get(7)?)
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Memory {
    /// Anonymous memory, shared pages by share (`Pss_Anon`): what connections cost.
    pub(super) anonymous: Option<u64>,
    /// Resident memory (`VmRSS`), file pages included.
    pub(super) resident: u64,
}

/// `None` if the process is not there.
pub(super) fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Some(Memory {
        anonymous: kibibytes(&rollup, "Pss_Anon:"),
        resident: kibibytes(&status, "VmRSS:")?,
    })
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

/// CPU time of the calling thread.
pub(super) fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Pins the calling thread to one core.
pub(super) fn pin(cpu: usize) -> Result<(), Error> {
    crate::sys::cpu::pin(cpu)
        .map_err(|error| Error::Usage(format!("cannot run on core {cpu}: {error}")))
}

/// Makes sure that `sockets` may be open at once.
pub(super) fn allow_sockets(sockets: usize) -> Result<(), Error> {
    /// Standard streams, poll, /proc files.
    const OTHER_FILES: u64 = 32;
    let wanted = sockets as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        return Err(Error::Usage(format!(
            "{sockets} connections need {wanted} open files, the limit is {}: see `ulimit -Hn`",
            limit.maximum.unwrap_or_default()
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
        .map_err(|error| Error::Usage(format!("cannot raise the limit of open files: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_of_the_right_core_are_rest() {
        let stat =
            "cpu  1 1 1 1 1 1 1 1 0 0\ncpu1 10 1 20 100 5 2 3 4 0 0\ncpu10 9 9 9 9 9 9 9 9 0 0\n";
        assert_eq!(parse_core_rest(stat, 1), Some(109));
        assert_eq!(parse_core_rest(stat, 10), Some(27));
        assert_eq!(parse_core_rest(stat, 2), None);
    }

    #[test]
    fn the_own_process_has_memory() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident > 0);
        assert_eq!(kibibytes("Rss: 5 kB\nPss_Anon:   7 kB\n", "Pss_Anon:"), Some(7_168));
    }
}
