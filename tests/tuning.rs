//! What operators are given: the report tells the truth, and the files agree with the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tiderace::config::Config;
use tiderace::limits::SHARDS_MAX;

/// `LOCKED_BYTES_PER_SHARD` of `tuning/check`, twice: a restart comes before the kernel has given back.
const LOCKED_KIB_PER_SHARD: usize = 2 * 640;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning")
}

fn text(name: &str) -> String {
    fs::read_to_string(directory().join(name)).expect("it is part of the repository")
}

/// Runs the report in a shell that first does `limits`.
fn check(limits: &str, arguments: &[&str]) -> Output {
    let script = format!("{limits} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(directory().join("check")).args(arguments);
    command.output().expect("sh is there")
}

/// The report as JSON, and its findings by name.
fn findings(output: &Output) -> (Value, BTreeMap<String, Value>) {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().expect("a list").iter();
    let by_name = findings.map(|one| (one["name"].as_str().expect("text").into(), one.clone()));
    let by_name = by_name.collect();
    (report, by_name)
}

/// The value of a key of the unit, which stands in it once.
fn unit(key: &str) -> String {
    let unit = text("tiderace.service");
    let values: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix(key)).collect();
    let values: Vec<_> = values.iter().filter_map(|rest| rest.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{key}");
    values[0].to_owned()
}

#[test]
fn the_report_is_complete_and_its_exit_code_follows() {
    let output = check("true", &["--json", "--connections", "1", "--shards", "1"]);
    let (report, by_name) = findings(&output);
    let musts = by_name.values().filter(|one| one["status"] == "must").count();
    assert_eq!(report["must"], musts);
    assert_eq!(output.status.code(), Some(i32::from(musts > 0)));
    for name in ["kernel", "kernel.io_uring_disabled", "memlock", "nofile", "net.core.somaxconn"] {
        assert!(by_name.contains_key(name), "{name} is missing: {report}");
    }
    for (name, one) in &by_name {
        assert!(["ok", "look", "must"].iter().any(|status| one["status"] == *status), "{one}");
        for field in ["value", "affects", "set"] {
            assert!(one[field].as_str().is_some_and(|text| !text.is_empty()), "{name}: {field}");
        }
    }
    // The tests run servers on this machine: what they need cannot be missing.
    assert_eq!(by_name["kernel"]["status"], "ok");
    assert_eq!(by_name["nofile"]["status"], "ok", "{report}");
}

#[test]
fn too_few_open_files_must_be_changed() {
    let output = check("ulimit -n 64", &["--json", "--connections", "1", "--shards", "1"]);
    let (_, by_name) = findings(&output);
    let files = &by_name["nofile"];
    assert_eq!(files["status"], "must", "{files}");
    assert_eq!(files["value"], "soft 64, hard 64");
    assert!(files["set"].as_str().expect("text").contains("LimitNOFILE=657"), "{files}");
    assert_eq!(output.status.code(), Some(1));
    // The server raises the soft limit itself.
    let output = check("ulimit -Sn 64", &["--json", "--connections", "1", "--shards", "1"]);
    assert_eq!(findings(&output).1["nofile"]["status"], "ok");
}

#[test]
fn too_little_locked_memory_must_be_changed() {
    let without_rights = "ulimit -l 64 && set -- \"$0\" \"$@\" && if [ $(id -u) = 0 ]; then \
        set -- setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock \"$@\"; fi && exec \"$@\"";
    let output = check(without_rights, &["--json", "--shards", "1"]);
    let (_, by_name) = findings(&output);
    assert_eq!(by_name["memlock"]["status"], "must");
    assert_eq!(by_name["memlock"]["value"], "64 KiB");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_wrong_argument_is_no_verdict() {
    for arguments in [["--connections", "0"], ["--shards", "many"], ["--pid", "4294967295"]] {
        let output = check("true", &arguments);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(arguments[1]), "{said}");
    }
}

#[test]
fn the_unit_lets_the_server_end_in_order() {
    let stop = Duration::from_secs(unit("TimeoutStopSec").parse().expect("seconds"));
    // After the timeout the rings settle for 5 s at most.
    assert!(stop > Config::default().shutdown.timeout + Duration::from_secs(5), "{stop:?}");
}

#[test]
fn the_limits_are_enough_for_what_they_say() {
    let locked: usize = unit("LimitMEMLOCK").trim_end_matches('M').parse().expect("MiB");
    assert!(locked << 10 >= LOCKED_KIB_PER_SHARD * SHARDS_MAX);
    let limits = text("limits.conf");
    let limit = |name: &str| -> usize {
        let mut lines = limits.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| line.contains(name)).expect("a limit");
        line.split_whitespace().last().and_then(|value| value.parse().ok()).expect("a number")
    };
    assert_eq!(limit("nofile").to_string(), unit("LimitNOFILE"));
    assert!(limit("memlock") >= LOCKED_KIB_PER_SHARD * 100);
    let code = text("check");
    assert!(code.contains("LOCKED_BYTES_PER_SHARD = 640 * KIB"));
}

#[test]
fn kernel_settings_exist() {
    let file = text("sysctl.conf");
    let settings = file.lines().filter_map(|line| line.trim_start_matches('#').split_once(" = "));
    let names: Vec<_> = settings.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for name in names {
        // io_uring's switch came with 6.6; the server runs on 6.1.
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        assert!(path.exists() || name == "kernel.io_uring_disabled", "{name}");
    }
}
