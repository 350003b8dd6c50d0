//! What the machine must offer, checked at startup: each problem names what is missing and what to
//! do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::{panic, thread};

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::limits::REFUSALS_IN_FLIGHT_MAX;

/// The oldest kernel that has everything: multishot receive came with 6.0, deferred task work with
/// 6.1.
const KERNEL_AT_LEAST: (u32, u32) = (6, 1);

/// Locked memory that one shard's rings need, rounded up: Linux 6.18 starts with 580 KiB, not 560.
/// What a server that has just ended had locked may still count against the user's limit.
const LOCKED_BYTES_PER_SHARD: u64 = 640 << 10;

/// Descriptors beside the connections: standard streams, logs, links to brokers.
const SPARE_DESCRIPTORS: usize = 128;

/// Descriptors that every shard needs for itself: its rings, eventfds and listener.
const DESCRIPTORS_PER_SHARD: usize = 16;

/// The operations that a shard's ring uses.
const OPERATIONS: [(&str, u8); 7] = [
    ("accept", opcode::AcceptMulti::CODE),
    ("recv", opcode::RecvMulti::CODE),
    ("send", opcode::Send::CODE),
    ("close", opcode::Close::CODE),
    ("poll", opcode::PollAdd::CODE),
    ("async cancel", opcode::AsyncCancel2::CODE),
    ("msg_ring", opcode::MsgRingData::CODE),
];

/// Something that the machine does not offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Whether the server cannot run at all; otherwise it runs with less than was asked for.
    pub fatal: bool,
    /// What is missing, in one sentence.
    pub missing: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    fn fatal(missing: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { fatal: true, missing: missing.into(), remedy: remedy.into() }
    }

    fn warning(missing: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { fatal: false, missing: missing.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.missing, self.remedy)
    }
}

/// Checks the machine for a server of `shards` shards and `connections_max` connections in all, or
/// as many as it may have files open where that is 0. Raises the soft limit of open files as far as
/// needed and allowed; changes nothing else. Returns nothing if all is well.
#[must_use]
pub fn check(connections_max: usize, shards: usize) -> Vec<Problem> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut problems: Vec<Problem> = kernel(&release).into_iter().collect();
    problems.extend(thread::scope(|scope| match scope.spawn(io_uring).join() {
        Ok(problem) => problem,
        Err(panic) => panic::resume_unwind(panic),
    }));
    let locks_freely =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !locks_freely {
        problems.extend(locked_memory(getrlimit(Resource::Memlock), shards));
    }
    problems.extend(open_files(connections_max, shards));
    problems
}

fn kernel(release: &str) -> Option<Problem> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    let (major, minor) = KERNEL_AT_LEAST;
    (version < KERNEL_AT_LEAST).then(|| {
        Problem::fatal(
            format!(
                "Linux {release} is too old: multishot receive needs 6.0 and deferred task work {major}.{minor}"
            ),
            format!("Run on Linux {major}.{minor} or later"),
        )
    })
}

/// To be called on a thread of its own: the kernel takes a closed ring down later, and for that
/// interrupts system calls (EINTR) of the thread that had used it, which may be an embedder's.
fn io_uring() -> Option<Problem> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(8);
    match ring {
        Ok(ring) => operations(&ring),
        Err(error) => Some(setup_failed(&error)),
    }
}

fn setup_failed(error: &io::Error) -> Problem {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS) => Problem::fatal(
            format!("io_uring is forbidden here ({error})"),
            "If `sysctl kernel.io_uring_disabled` is not 0, set it to 0. In a container, allow the system calls \
             io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile: Docker's default profile \
             forbids them (`--security-opt seccomp=PROFILE.json`; in Kubernetes `securityContext.seccompProfile`)",
        ),
        Some(Errno::NOSYS) => Problem::fatal(
            format!("io_uring is not there ({error})"),
            "The kernel was built without CONFIG_IO_URING, or a sandbox such as gVisor hides it: run on a kernel \
             that has it",
        ),
        Some(Errno::INVAL) => Problem::fatal(
            format!("io_uring lacks SINGLE_ISSUER, DEFER_TASKRUN or TASKRUN_FLAG ({error})"),
            "Run on Linux 6.1 or later",
        ),
        Some(Errno::NOMEM) => Problem::fatal(
            format!("io_uring may not lock memory ({error})"),
            "Raise the limit of locked memory: `ulimit -l`, or LimitMEMLOCK= in a systemd unit",
        ),
        Some(Errno::MFILE | Errno::NFILE) => Problem::fatal(
            format!("no file descriptor is left ({error})"),
            "Raise the limit of open files: `ulimit -n`, or LimitNOFILE= in a systemd unit",
        ),
        _ => Problem::fatal(
            format!("io_uring cannot be set up ({error})"),
            "Look into the kernel's log for the reason",
        ),
    }
}

fn operations(ring: &IoUring) -> Option<Problem> {
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Some(Problem::fatal(
            format!("io_uring does not say what it can do ({error})"),
            "Allow the system call io_uring_register in the seccomp profile",
        ));
    }
    lacking(&OPERATIONS, |code| probe.is_supported(code))
}

fn lacking(operations: &[(&str, u8)], supported: impl Fn(u8) -> bool) -> Option<Problem> {
    let names: Vec<&str> =
        operations.iter().filter(|(_, code)| !supported(*code)).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| {
        Problem::fatal(
            format!("io_uring lacks these operations: {}", names.join(", ")),
            "Run on Linux 6.1 or later, with networking built in",
        )
    })
}

fn locked_memory(limit: Rlimit, shards: usize) -> Option<Problem> {
    let needed = LOCKED_BYTES_PER_SHARD * shards as u64;
    let allowed = limit.current.unwrap_or(u64::MAX);
    (allowed < needed).then(|| {
        let needed = needed >> 10;
        Problem::fatal(
            format!(
                "{shards} shards need {needed} KiB of locked memory, {} KiB are allowed",
                allowed >> 10
            ),
            format!(
                "Raise it with `ulimit -l {needed}`, LimitMEMLOCK={needed}K in a systemd unit, or \
                 `--ulimit memlock=-1` for Docker; or run fewer shards"
            ),
        )
    })
}

/// Descriptors that a server of `shards` shards keeps for other things than the connections it
/// serves; also for the connections above the limit, that are only told to go away.
#[must_use]
pub fn reserved_descriptors(shards: usize) -> usize {
    DESCRIPTORS_PER_SHARD * shards + SPARE_DESCRIPTORS + REFUSALS_IN_FLIGHT_MAX
}

/// Descriptors that `connections_max` connections and `shards` shards need together.
fn descriptors(connections_max: usize, shards: usize) -> u64 {
    (connections_max + reserved_descriptors(shards)) as u64
}

fn open_files(connections_max: usize, shards: usize) -> Option<Problem> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = if connections_max == 0 { u64::MAX } else { descriptors(connections_max, shards) };
    let connections_max = connections_max.max(1);
    let needed = descriptors(connections_max, shards);
    if let Some(raised) = raised(limit, wanted) {
        // Fails only if the hard limit fell meanwhile; what is left is judged below.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    too_few_files(getrlimit(Resource::Nofile), needed, connections_max)
}

/// The limit to set so that `needed` files can be open, or as many as the hard limit allows; none
/// if it need not change.
fn raised(limit: Rlimit, needed: u64) -> Option<Rlimit> {
    let wanted = needed.min(limit.maximum.unwrap_or(u64::MAX));
    let enough = limit.current.is_none_or(|current| current >= wanted);
    (!enough).then_some(Rlimit { current: Some(wanted), maximum: limit.maximum })
}

fn too_few_files(limit: Rlimit, needed: u64, connections_max: usize) -> Option<Problem> {
    let allowed = limit.current.unwrap_or(u64::MAX);
    let possible = (connections_max as u64).saturating_sub(needed.saturating_sub(allowed));
    let remedy = format!(
        "Raise the hard limit to {needed}: `ulimit -Hn`, LimitNOFILE={needed} in a systemd unit, or `--ulimit \
         nofile={needed}` for Docker; or lower the limit of connections"
    );
    let missing = |what: &str| {
        format!(
            "{needed} open files are needed for connections: {connections_max}, {allowed} are allowed: {what}"
        )
    };
    if allowed >= needed {
        None
    } else if possible == 0 {
        Some(Problem::fatal(missing("not enough for a single connection"), remedy))
    } else {
        Some(Problem::warning(missing(&format!("enough for {possible}")), remedy))
    }
}

/// Says in words why a listener could not be opened at `address`.
#[must_use]
pub fn explain_bind(address: SocketAddr, error: &io::Error) -> String {
    let port = address.port();
    let reason = match Errno::from_io_error(error) {
        Some(Errno::ADDRINUSE) => format!(
            "another process uses port {port}; `ss -ltnp 'sport = :{port}'` shows which. Stop it or choose another port"
        ),
        Some(Errno::ACCESS | Errno::PERM) if (1..1024).contains(&port) => format!(
            "ports below 1024 are privileged. Choose another port, grant the capability \
             (AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit, `setcap cap_net_bind_service=+ep` on the \
             binary), or set `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        Some(Errno::ADDRNOTAVAIL) => format!(
            "this machine has no address {}; `ip address` shows those it has, {} means all of them",
            address.ip(),
            if address.is_ipv6() { "[::]" } else { "0.0.0.0" }
        ),
        Some(Errno::AFNOSUPPORT) => "IPv6 is switched off here; use an IPv4 address".into(),
        Some(Errno::MFILE | Errno::NFILE) => {
            "no file descriptor is left; raise the limit of open files (`ulimit -n`)".into()
        }
        _ => error.to_string(),
    };
    format!("cannot listen on {address}: {reason}")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn limit(current: u64, maximum: u64) -> Rlimit {
        Rlimit { current: Some(current), maximum: Some(maximum) }
    }

    #[test]
    fn who_asked_is_not_interrupted_afterwards() {
        let (mut asker, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        asker.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        for _ in 0..20 {
            let _ = check(1, 1);
            let error = asker.read(&mut [0]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_machine_that_runs_these_tests_is_good_enough() {
        assert_eq!(check(1, 1), []);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for good in ["6.1.0", "6.10.2-generic", "6.18.44-fc", "7.0-rc1", "10.0", "unreadable"] {
            assert_eq!(kernel(good), None, "{good}");
        }
        for old in ["6.0.12", "5.15.0-91-generic", "4.18"] {
            let problem = kernel(old).unwrap();
            assert!(problem.fatal && problem.to_string().contains(old), "{problem}");
        }
    }

    /// Whoever logs a problem says how grave it is.
    #[test]
    fn a_problem_is_a_sentence_and_what_to_do() {
        assert_eq!(
            Problem::warning("Few files", "Allow more").to_string(),
            "Few files. Allow more"
        );
        assert_eq!(Problem::fatal("No ring", "Have one").to_string(), "No ring. Have one");
    }

    #[test]
    fn every_failure_of_the_setup_has_a_remedy() {
        for (errno, hint) in [
            (Errno::PERM, "kernel.io_uring_disabled"),
            (Errno::PERM, "seccomp"),
            (Errno::NOSYS, "CONFIG_IO_URING"),
            (Errno::INVAL, "6.1"),
            (Errno::NOMEM, "LimitMEMLOCK"),
            (Errno::MFILE, "LimitNOFILE"),
        ] {
            let problem = setup_failed(&errno.into());
            assert!(problem.fatal && problem.remedy.contains(hint), "{problem}");
        }
    }

    #[test]
    fn missing_operations_are_named() {
        let operations = [("send", 1), ("recv", 2), ("accept", 3)];
        assert_eq!(lacking(&operations, |_| true), None);
        let problem = lacking(&operations, |code| code == 2).unwrap();
        assert!(problem.missing.ends_with(": send, accept"), "{problem}");
    }

    #[test]
    fn locked_memory_is_needed_by_every_shard() {
        assert_eq!(locked_memory(limit(8 << 20, 8 << 20), 12), None);
        let problem = locked_memory(limit(8 << 20, 8 << 20), 13).unwrap();
        assert!(problem.fatal && problem.to_string().contains("ulimit -l 8320"), "{problem}");
        assert_eq!(locked_memory(Rlimit { current: None, maximum: None }, 1000), None);
    }

    #[test]
    fn the_soft_limit_is_raised_as_far_as_the_hard_one_allows() {
        assert_eq!(raised(limit(1024, 4096), 1000), None);
        assert_eq!(raised(limit(1024, 4096), 2000), Some(limit(2000, 4096)));
        assert_eq!(raised(limit(1024, 4096), 9000), Some(limit(4096, 4096)));
        assert_eq!(raised(limit(4096, 4096), 9000), None);
        assert_eq!(raised(Rlimit { current: None, maximum: None }, 9000), None);
    }

    #[test]
    fn too_few_files_say_how_many_connections_remain() {
        let needed = descriptors(10_000, 2);
        assert_eq!(too_few_files(limit(needed, needed), needed, 10_000), None);
        let problem = too_few_files(limit(needed - 4000, needed), needed, 10_000).unwrap();
        assert!(!problem.fatal && problem.missing.ends_with("enough for 6000"), "{problem}");
        let problem = too_few_files(limit(200, 200), needed, 10_000).unwrap();
        assert!(problem.fatal, "{problem}");
    }

    #[test]
    fn a_listener_that_fails_is_explained() {
        let explain = |address: &str, errno: Errno| {
            explain_bind(address.parse().unwrap(), &io::Error::from(errno))
        };
        assert!(explain("0.0.0.0:8000", Errno::ADDRINUSE).contains("sport = :8000"));
        assert!(explain("0.0.0.0:80", Errno::ACCESS).contains("below 1024"));
        assert!(!explain("0.0.0.0:8000", Errno::ACCESS).contains("below 1024"));
        assert!(explain("[::1]:80", Errno::ADDRNOTAVAIL).contains("[::] means all"));
        let text = explain("192.0.2.1:80", Errno::NETDOWN);
        assert!(text.starts_with("cannot listen on 192.0.2.1:80: "), "{text}");
    }
}
