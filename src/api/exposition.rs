//! What the node says of itself in Prometheus' text format, version 0.0.4.
//!
//! The gauges that Centrifugo has too have its names, so that dashboards find them; what is counted
//! since the start stands under ours.

use std::fmt::Write;

use super::{NodeInfo, reply::Reply};
use crate::protocol::ErrorCode;

/// The type of the body.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The status and body of the response to who collects measurements.
pub fn exposition(outcome: &Result<Reply, ErrorCode>) -> (u16, String) {
    match outcome {
        Ok(Reply::Info(node)) => (200, text(node)),
        Ok(_) => (500, "these are no measurements\n".to_owned()),
        Err(error) => (503, format!("{}\n", error.message)),
    }
}

fn text(node: &NodeInfo) -> String {
    let mut out = String::with_capacity(4096);
    let mut line = |kind: &str, name: &str, value: &dyn std::fmt::Display| {
        let plain = name.split('{').next().unwrap_or(name);
        writeln!(out, "# TYPE {plain} {kind}\n{name} {value}")
            .expect("writing to memory cannot fail");
    };
    for (name, value) in [
        ("clients", node.num_clients),
        ("users", node.num_users),
        ("subscriptions", node.num_subs),
        ("channels", node.num_channels),
    ] {
        line("gauge", &format!("centrifugo_node_num_{name}"), &value);
    }
    line("gauge", "centrifugo_node_num_nodes", &1);
    line("gauge", &format!("centrifugo_node_build{{version=\"{}\"}}", node.version), &1);
    line("gauge", "tiderace_uptime_seconds", &node.uptime_s);
    line("gauge", "process_resident_memory_bytes", &node.process.rss_bytes);
    for (name, value) in &node.metrics.items {
        line("untyped", &format!("tiderace_{name}"), value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NodeMetrics;

    #[test]
    fn every_measurement_has_a_line() {
        let items = [("deliveries".to_owned(), 12.0), ("share".to_owned(), 0.5)].into();
        let node = NodeInfo {
            version: "1.0".into(),
            num_clients: 3,
            num_subs: 4,
            metrics: NodeMetrics { interval_s: 0.0, items },
            ..NodeInfo::default()
        };
        let (status, text) = exposition(&Ok(Reply::Info(Box::new(node))));
        assert_eq!(status, 200);
        for line in [
            "# TYPE centrifugo_node_num_clients gauge",
            "centrifugo_node_num_clients 3",
            "centrifugo_node_num_subscriptions 4",
            "# TYPE centrifugo_node_build gauge",
            "centrifugo_node_build{version=\"1.0\"} 1",
            "# TYPE tiderace_deliveries untyped",
            "tiderace_deliveries 12",
            "tiderace_share 0.5",
        ] {
            assert!(text.lines().any(|has| has == line), "{line} in {text}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn who_cannot_be_told_is_told_so() {
        let (status, text) = exposition(&Err(ErrorCode::TOO_MANY_REQUESTS));
        assert_eq!((status, &*text), (503, "too many requests\n"));
    }
}
