//! What the node says of itself in the text format of OpenMetrics 1.0.0, which Prometheus reads.
//!
//! The gauges that Centrifugo has too have its names, so that dashboards find them; what is counted
//! since the start stands under ours.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use super::{NodeInfo, reply::Reply};
use crate::protocol::ErrorCode;

/// The type of the body.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The status and body of the response to who collects measurements.
pub fn exposition(outcome: Result<Reply, ErrorCode>) -> (u16, String) {
    match outcome {
        Ok(Reply::Info(node)) => {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(Node(node)));
            let mut out = String::with_capacity(8 << 10);
            text::encode(&mut out, &registry).expect("writing to memory cannot fail");
            (200, out)
        }
        Ok(_) => (500, "these are no measurements\n".to_owned()),
        Err(error) => (503, format!("{}\n", error.message)),
    }
}

/// The measurements, as they were when somebody asked.
#[derive(Debug)]
struct Node(Box<NodeInfo>);

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Self(node) = self;
        let metrics = &node.metrics;
        for (name, help, value) in [
            ("centrifugo_node_num_clients", "Connected clients.", node.num_clients),
            ("centrifugo_node_num_users", "Users with a connection.", node.num_users),
            ("centrifugo_node_num_subscriptions", "Active subscriptions.", node.num_subs),
            ("centrifugo_node_num_channels", "Channels with a subscription.", node.num_channels),
            ("centrifugo_node_num_nodes", "Nodes.", 1),
            ("tiderace_uptime_seconds", "Time since the start.", node.uptime_s),
            ("process_resident_memory_bytes", "Resident memory.", node.process.rss_bytes),
            ("tiderace_leases", "Leases of devices.", metrics.leases),
            ("tiderace_watch_streams", "Open watch streams.", metrics.watch_streams),
        ] {
            with_help(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        let (name, help, build) =
            ("centrifugo_node_build", "The server's version.", ConstGauge::new(1_u64));
        let mut of_build = encoder.encode_descriptor(name, help, None, build.metric_type())?;
        build.encode(of_build.encode_family(&[("version", &*node.version)])?)?;
        for (name, help, value) in metrics.counters.items() {
            let name = format!("tiderace_{name}");
            with_help(&mut encoder, &name, help, &ConstCounter::new(value))?;
        }
        let (name, help) = (
            "tiderace_connections_closed",
            "Connections that the server decided to close, by the code that it told.",
        );
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut closed = encoder.encode_descriptor(name, help, None, kind)?;
        for (code, count) in &metrics.closed {
            ConstCounter::new(*count).encode(closed.encode_family(&[("code", *code)])?)?;
        }
        Ok(())
    }
}

fn with_help(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::NodeMetrics, metrics::Counters};

    #[test]
    fn every_measurement_has_its_type_and_help() {
        let node = NodeInfo {
            version: "1.0".into(),
            num_clients: 3,
            num_subs: 4,
            metrics: NodeMetrics {
                counters: Counters { deliveries: 12, ..Counters::default() },
                closed: [(1000, 2), (3008, 5)].into(),
                leases: 7,
                watch_streams: 6,
            },
            ..NodeInfo::default()
        };
        let (status, text) = exposition(Ok(Reply::Info(Box::new(node))));
        assert_eq!(status, 200);
        for lines in [
            "# HELP centrifugo_node_num_clients Connected clients.\n\
             # TYPE centrifugo_node_num_clients gauge\n\
             centrifugo_node_num_clients 3\n",
            "centrifugo_node_num_subscriptions 4\n",
            "# TYPE centrifugo_node_build gauge\ncentrifugo_node_build{version=\"1.0\"} 1\n",
            "# HELP tiderace_deliveries Queue entries made for subscribers times the publications in \
             them.\n# TYPE tiderace_deliveries counter\ntiderace_deliveries_total 12\n",
            "tiderace_leases 7\n",
            "tiderace_watch_streams 6\n",
            "# TYPE tiderace_connections_closed counter\n\
             tiderace_connections_closed_total{code=\"1000\"} 2\n\
             tiderace_connections_closed_total{code=\"3008\"} 5\n",
        ] {
            assert!(text.contains(lines), "{lines} in {text}");
        }
        assert!(text.ends_with("\n# EOF\n"), "{text}");
    }

    #[test]
    fn names_and_helps_are_what_the_format_allows() {
        let (_, text) = exposition(Ok(Reply::Info(Box::default())));
        let mut names = std::collections::BTreeSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').expect("a help");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert!(help.ends_with('.') && !help.contains(['\\', '\n']), "{help}");
            assert!(names.insert(name.to_owned()), "{name} is there twice");
        }
        assert!(names.len() > Counters::default().items().len());
    }

    #[test]
    fn who_cannot_be_told_is_told_so() {
        let (status, text) = exposition(Err(ErrorCode::TOO_MANY_REQUESTS));
        assert_eq!((status, &*text), (503, "too many requests\n"));
    }
}
