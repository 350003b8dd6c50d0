//! `tiderace watch`: the agent of a dormant device, which runs a command whenever the device is wanted.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::watch::{BASE_DEFAULT, CancelHandle, Client, Status, Stopped, Wake};

/// The exit code for a token that the server does not accept (EX_NOPERM of sysexits.h): starting again
/// does not help.
const EXIT_UNAUTHORIZED: u8 = 77;

/// Wait as a dormant device until somebody wants it, then run a command.
///
/// The command is run by `sh -c`, in a process group of its own, and finds in its environment:
/// TIDERACE_WAKE_URL and TIDERACE_WAKE_TOKEN (where and with what to join), TIDERACE_WAKE_SESSION_ID
/// (empty if the wake names no session) and TIDERACE_WAKE_DEVICE_WAIT_MS (how long to wait there for a
/// viewer). While it runs, nothing is watched; when it has ended, in whatever way, the device watches again.
/// What it prints goes to stderr: stdout tells the agent's state, a line each.
///
/// SIGINT and SIGTERM are passed on to a running command and end the agent after it; a second one kills
/// both. The exit code is 77 if the server does not accept the token (401), 1 for other failures.
/// Certificates are those of the system, or of SSL_CERT_FILE.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The server: https://host[:port][/prefix]
    #[arg(long, value_name = "URL", env = "TIDERACE_WATCH_URL")]
    url: String,

    /// The device's token. Others on this machine can see it; prefer TIDERACE_WATCH_TOKEN
    #[arg(long, value_name = "TOKEN", env = "TIDERACE_WATCH_TOKEN", hide_env_values = true)]
    token: Token,

    /// The path of the watches
    #[arg(long, value_name = "PATH", default_value = BASE_DEFAULT)]
    base: String,

    /// The command to run on each wake; without it, wakes are only printed
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,

    /// End after the first wake, and its command if there is one; its failure is the agent's, code 1
    #[arg(long)]
    once: bool,

    /// Print the state as JSON, one object a line. A wake's token is in it only without --exec
    #[arg(long)]
    json: bool,

    /// Extend every wait before an attempt by a random time of up to so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    jitter: u32,

    /// Begin attempts to watch at least so many seconds apart
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    spacing: u32,
}

/// An argument that debug output does not show.
#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Watches until the agent is told to end, or refused.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    match watch(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tiderace: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let Arguments { url, token, base, exec, once, json, jitter, spacing } = arguments;
    let report = Report { json };
    let mut client = Client::builder(url, token.0)
        .base(base)
        .jitter(Duration::from_secs(jitter.into()))
        .spacing(Duration::from_secs(spacing.into()))
        .on_status(move |status| report.status(status))
        .on_retry(move |retry| report.retry(&retry.reason, retry.after))
        .build()?;
    let running = Running::default();
    end_by_signals(client.cancel_handle(), running.clone())?;
    loop {
        let wake = match client.next_wake_blocking() {
            Ok(wake) => wake,
            Err(Stopped::Cancelled) => return Ok(ExitCode::SUCCESS),
            Err(stopped) => {
                eprintln!("tiderace: {stopped}");
                return Ok(match stopped {
                    Stopped::Unauthorized => ExitCode::from(EXIT_UNAUTHORIZED),
                    _ => ExitCode::FAILURE,
                });
            }
        };
        report.wake(&wake, exec.is_none());
        let succeeded = exec.as_deref().is_none_or(|exec| execute(exec, &wake, &running, report));
        if once {
            client.shutdown_blocking();
            return Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// Runs the command to its end; whether it succeeded.
fn execute(exec: &str, wake: &Wake, running: &Running, report: Report) -> bool {
    let ended = running.start(&mut command(exec, wake)).and_then(|child| match child {
        Some(mut child) => {
            // Forgotten before it is reaped: until then its number is nobody else's.
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let _ = waitid(WaitId::Pid(Pid::from_child(&child)), ended);
            running.forget();
            child.wait().map(Some)
        }
        None => Ok(None),
    });
    match ended {
        Ok(Some(status)) => {
            report.command_ended(status);
            status.success()
        }
        // Told to end before it began.
        Ok(None) => true,
        Err(error) => {
            eprintln!("tiderace: the command cannot be run: {error}");
            false
        }
    }
}

fn command(exec: &str, wake: &Wake) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", exec])
        .env("TIDERACE_WAKE_URL", &wake.url)
        .env("TIDERACE_WAKE_TOKEN", &wake.token)
        .env("TIDERACE_WAKE_SESSION_ID", wake.session_id.as_deref().unwrap_or_default())
        .env("TIDERACE_WAKE_DEVICE_WAIT_MS", wake.device_wait.as_millis().to_string())
        .env_remove("TIDERACE_WATCH_TOKEN")
        .stdin(Stdio::null())
        .process_group(0);
    // stdout is for those who follow the agent. A process without stderr has nobody to tell.
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(stderr) => command.stdout(stderr),
        Err(_) => command.stdout(Stdio::null()),
    };
    command
}

/// The command that runs, for the thread that passes signals on.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<Group>>);

#[derive(Default)]
struct Group {
    leader: Option<Pid>,
    /// Told to end: nothing is started any more.
    is_ending: bool,
}

impl Running {
    /// Starts a command, unless the agent was told to end.
    fn start(&self, command: &mut Command) -> io::Result<Option<Child>> {
        let mut group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if group.is_ending {
            return Ok(None);
        }
        let child = command.spawn()?;
        group.leader = Some(Pid::from_child(&child));
        Ok(Some(child))
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).leader = None;
    }

    fn end(&self, signal: Signal) {
        let mut group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        group.is_ending = true;
        if let Some(leader) = group.leader {
            // It may have ended a moment ago.
            let _ = kill_process_group(leader, signal);
        }
    }
}

/// The first signal ends client and command in order; a second one ends the process at once.
fn end_by_signals(cancel: CancelHandle, running: Running) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        let mut signals = signals.forever();
        if let Some(signal) = signals.next() {
            cancel.cancel();
            running.end(if signal == SIGINT { Signal::INT } else { Signal::TERM });
        }
        if signals.next().is_some() {
            running.end(Signal::KILL);
            std::process::exit(130);
        }
    });
    Ok(())
}

/// What stdout says.
#[derive(Clone, Copy)]
struct Report {
    json: bool,
}

impl Report {
    fn status(self, status: Status) {
        let event = match status {
            Status::Connecting => "connecting",
            Status::Connected => "connected",
            Status::ShuttingDown => "shutting_down",
            Status::Shutdown => "shutdown",
        };
        self.line(&json!({ "event": event }), &status.to_string());
    }

    fn retry(self, reason: &str, after: Duration) {
        let milliseconds = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let text = if after.is_zero() {
            format!("again now: {reason}")
        } else {
            format!("again in {after:?}: {reason}")
        };
        self.line(&json!({ "event": "retry", "after_ms": milliseconds, "reason": reason }), &text);
    }

    fn wake(self, wake: &Wake, with_token: bool) {
        let text = match &wake.session_id {
            Some(session) => format!("woken for session {session}: {}", wake.url),
            None => format!("woken: {}", wake.url),
        };
        self.line(&wake_event(wake, with_token), &text);
    }

    fn command_ended(self, status: ExitStatus) {
        let event = json!({ "event": "command_ended", "code": status.code() });
        self.line(&event, &format!("command ended: {status}"));
    }

    fn line(self, event: &Value, text: &str) {
        let line = if self.json { event.to_string() } else { printable(text) };
        // That nobody reads it any more is no reason to stop watching.
        let _ = writeln!(io::stdout(), "{line}");
    }
}

fn wake_event(wake: &Wake, with_token: bool) -> Value {
    let mut event = json!({
        "event": "wake",
        "session_id": wake.session_id,
        "url": wake.url,
        "device_wait_ms": u64::try_from(wake.device_wait.as_millis()).unwrap_or(u64::MAX),
    });
    if with_token {
        event["token"] = wake.token.as_str().into();
    }
    event
}

/// One line that moves no cursor: parts of it are the server's words.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wake() -> Wake {
        Wake {
            session_id: None,
            url: "wss://a".into(),
            token: "tide-7f3a".into(),
            device_wait: Duration::from_secs(5),
        }
    }

    #[test]
    fn the_token_is_printed_only_for_those_who_need_it() {
        assert!(!wake_event(&wake(), false).to_string().contains("7f3a"));
        assert_eq!(wake_event(&wake(), true)["token"], "tide-7f3a");
        assert!(!format!("{:?}", Token("tide-7f3a".into())).contains("7f3a"));
    }

    #[test]
    fn what_the_server_says_moves_no_cursor() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
    }

    #[test]
    fn a_command_that_cannot_be_run_is_a_failure_and_no_panic() {
        let wake = Wake { url: "a\0b".into(), ..wake() };
        assert!(!execute("true", &wake, &Running::default(), Report { json: false }));
    }

    #[test]
    fn nothing_is_started_after_the_signal_to_end() {
        let running = Running::default();
        running.end(Signal::TERM);
        assert!(running.start(&mut Command::new("true")).unwrap().is_none());
    }
}
