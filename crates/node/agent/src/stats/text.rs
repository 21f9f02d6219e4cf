//! The same for Prometheus, under the names a kubelet and its cAdvisor use, so that dashboards find them.

use std::fmt::{Display, Write};

use crate::usage::{ContainerUse, NodeUse, PodUse};

/// A text of metrics. Values of one name stand together, as the format wants it.
#[derive(Default)]
struct Page(String);

type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _written = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn value(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            self.0.push(if place == 0 { '{' } else { ',' });
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _written = write!(self.0, "{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _written = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.begin(name, kind, help);
        self.value(name, &[], value);
    }
}

impl Page {
    /// Counters of one name by one label.
    fn counts(&mut self, name: &str, help: &str, label: &str, counts: &[(String, u64)]) {
        self.begin(name, "counter", help);
        for (value, count) in counts {
            self.value(name, &[(label, value)], count);
        }
    }
}

/// Nanoseconds as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

fn all(read: &NodeUse) -> impl Iterator<Item = (&PodUse, &ContainerUse)> {
    read.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

/// `/metrics/resource`.
pub fn resource(read: &NodeUse) -> String {
    const CPU: &str = "Cumulative cpu time consumed, in core-seconds";
    const MEMORY: &str = "Current working set, in bytes";
    let mut page = Page::default();
    page.one("node_cpu_usage_seconds_total", "counter", CPU, Seconds(read.cpu));
    page.one("node_memory_working_set_bytes", "gauge", MEMORY, read.machine.memory_working_set);
    let mut containers = |name: &str, kind: &str, help, value: &dyn Fn(&ContainerUse) -> String| {
        page.begin(name, kind, help);
        for (pod, container) in all(read) {
            let labels = [
                ("container", container.container.name.as_str()),
                ("namespace", &pod.pod.namespace),
                ("pod", &pod.pod.name),
            ];
            page.value(name, &labels, value(container));
        }
    };
    containers("container_cpu_usage_seconds_total", "counter", CPU, &|it| {
        Seconds(it.usage.cpu).to_string()
    });
    containers("container_memory_working_set_bytes", "gauge", MEMORY, &|it| {
        it.usage.memory.working_set.to_string()
    });
    containers("container_swap_usage_bytes", "gauge", "Current swap, in bytes", &|it| {
        it.usage.memory.swap.to_string()
    });
    let start = "Start of the container, in seconds since the epoch";
    containers("container_start_time_seconds", "gauge", start, &|it| {
        it.container.since.as_second().to_string()
    });
    let mut pods = |name: &str, kind: &str, help, value: &dyn Fn(&PodUse) -> String| {
        page.begin(name, kind, help);
        for pod in &read.pods {
            let labels = [("namespace", pod.pod.namespace.as_str()), ("pod", &pod.pod.name)];
            page.value(name, &labels, value(pod));
        }
    };
    pods("pod_cpu_usage_seconds_total", "counter", CPU, &|it| Seconds(it.usage.cpu).to_string());
    pods("pod_memory_working_set_bytes", "gauge", MEMORY, &|it| {
        it.usage.memory.working_set.to_string()
    });
    let failed = "Whether anything could not be read";
    page.one("resource_scrape_error", "gauge", failed, 0);
    page.0
}

type Figure = (&'static str, &'static str, &'static str, fn(&ContainerUse) -> String);

const FIGURES: [Figure; 13] = [
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed, in seconds",
        |it| Seconds(it.usage.cpu).to_string(),
    ),
    ("container_cpu_cfs_periods_total", "counter", "Elapsed enforcement periods", |it| {
        it.usage.throttled.periods.to_string()
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Throttled periods", |it| {
        it.usage.throttled.waited.to_string()
    }),
    ("container_cpu_cfs_throttled_seconds_total", "counter", "Time throttled, in seconds", |it| {
        Seconds(it.usage.throttled.time).to_string()
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory with the page cache, in bytes",
        |it| it.usage.memory.usage.to_string(),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set, in bytes", |it| {
        it.usage.memory.working_set.to_string()
    }),
    ("container_memory_rss", "gauge", "Anonymous memory, in bytes", |it| {
        it.usage.memory.rss.to_string()
    }),
    ("container_memory_cache", "gauge", "Page cache, in bytes", |it| {
        it.usage.memory.cache.to_string()
    }),
    ("container_memory_swap", "gauge", "Swap, in bytes", |it| it.usage.memory.swap.to_string()),
    ("container_memory_major_page_faults_total", "counter", "Page faults that read a disk", |it| {
        it.usage.memory.major_faults.to_string()
    }),
    ("container_processes", "gauge", "Processes and threads", |it| it.usage.processes.to_string()),
    ("container_start_time_seconds", "gauge", "Start, in seconds since the epoch", |it| {
        it.container.since.as_second().to_string()
    }),
    ("container_last_seen", "gauge", "Last reading, in seconds since the epoch", |it| {
        it.at.as_second().to_string()
    }),
];

type Flow = (&'static str, &'static str, fn(&crate::usage::Traffic) -> u64);

const FLOWS: [Flow; 8] = [
    ("container_network_receive_bytes_total", "Bytes received", |it| it.received.bytes),
    ("container_network_receive_packets_total", "Packets received", |it| it.received.packets),
    ("container_network_receive_errors_total", "Errors receiving", |it| it.received.errors),
    ("container_network_receive_packets_dropped_total", "Dropped receiving", |it| {
        it.received.dropped
    }),
    ("container_network_transmit_bytes_total", "Bytes sent", |it| it.sent.bytes),
    ("container_network_transmit_packets_total", "Packets sent", |it| it.sent.packets),
    ("container_network_transmit_errors_total", "Errors sending", |it| it.sent.errors),
    ("container_network_transmit_packets_dropped_total", "Dropped sending", |it| it.sent.dropped),
];

/// `/metrics/cadvisor`.
pub fn containers(read: &NodeUse) -> String {
    let mut page = Page::default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    page.one("machine_cpu_cores", "gauge", "Processors of the machine", cores);
    page.one("machine_memory_bytes", "gauge", "Memory of the machine", read.machine.memory_total);
    for (name, kind, help, figure) in FIGURES {
        page.begin(name, kind, help);
        for (pod, container) in all(read) {
            let running = &container.container;
            let id = format!("/{}/{}", pod.pod.cgroup.display(), running.instance);
            let labels = [
                ("container", running.name.as_str()),
                ("id", &id),
                ("image", &running.image),
                ("name", &running.instance),
                ("namespace", &pod.pod.namespace),
                ("pod", &pod.pod.name),
            ];
            page.value(name, &labels, figure(container));
        }
    }
    for (name, help, flow) in FLOWS {
        page.begin(name, "counter", help);
        for (pod, traffic) in read.pods.iter().filter_map(|pod| Some((pod, pod.traffic?))) {
            let labels = [
                ("interface", "eth0"),
                ("namespace", pod.pod.namespace.as_str()),
                ("pod", &pod.pod.name),
            ];
            page.value(name, &labels, flow(&traffic));
        }
    }
    page.0
}

/// What the agent counts of what it does.
#[derive(Debug, Default)]
pub struct Counts {
    /// Evictions by signal.
    pub evictions: Vec<(String, u64)>,
    /// Refusals by reason.
    pub refusals: Vec<(String, u64)>,
    /// Static pods.
    pub mirrors: usize,
}

/// `/metrics`: the agent itself.
pub fn own(node: &str, read: &NodeUse, counts: &Counts) -> String {
    let mut page = Page::default();
    page.begin("kubelet_node_name", "gauge", "The node's name; the value is always 1");
    page.value("kubelet_node_name", &[("node", node)], 1);
    let pods = read.pods.iter().filter(|pod| !pod.containers.is_empty()).count();
    page.one("kubelet_running_pods", "gauge", "Pods with a container that runs", pods);
    page.begin("kubelet_running_containers", "gauge", "Containers by state");
    page.value("kubelet_running_containers", &[("container_state", "running")], all(read).count());
    let help = "Pods evicted, by the signal of what was short";
    page.counts("kubelet_evictions", help, "eviction_signal", &counts.evictions);
    let help = "Pods not taken in, by reason";
    page.counts("kubelet_admission_rejections_total", help, "reason", &counts.refusals);
    page.one("kubelet_mirror_pods", "gauge", "Static pods that the API is to show", counts.mirrors);
    page.one(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of the agent's process",
        resident().unwrap_or(0),
    );
    page.0
}

fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(u64::try_from(rustix::param::page_size()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{Machine, Resident, Running, Traffic};
    use berth_runtime::cgroup::Usage;
    use jiff::Timestamp;

    fn read() -> NodeUse {
        let since = Timestamp::from_second(100).unwrap();
        let container = ContainerUse {
            container: Running {
                name: "main".into(),
                instance: "main.2".into(),
                image: "a\"b".into(),
                since,
            },
            at: since,
            usage: Usage { cpu: 1_500_000_000, ..Usage::default() },
            rate: None,
        };
        let pod = PodUse {
            pod: Resident {
                namespace: "default".into(),
                name: "web".into(),
                uid: "1".into(),
                since: Some(since),
                cgroup: "pod1".into(),
                interface: None,
                containers: Vec::new(),
            },
            at: since,
            usage: Usage { cpu: 2_000_000_001, ..Usage::default() },
            traffic: Some(Traffic::default()),
            containers: vec![container],
        };
        NodeUse { at: since, cpu: 7, rate: None, machine: Machine::default(), pods: vec![pod] }
    }

    #[test]
    fn texts_are_what_prometheus_reads() {
        let resource = resource(&read());
        let has = |text: &str, line: &str| {
            assert!(text.lines().any(|known| known == line), "no `{line}` in\n{text}");
        };
        has(&resource, "node_cpu_usage_seconds_total 0.000000007");
        has(
            &resource,
            "container_cpu_usage_seconds_total{container=\"main\",namespace=\"default\",pod=\"web\"} 1.500000000",
        );
        has(
            &resource,
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"web\"} 2.000000001",
        );
        let containers = containers(&read());
        has(
            &containers,
            "container_start_time_seconds{container=\"main\",id=\"/pod1/main.2\",image=\"a\\\"b\",name=\"main.2\",namespace=\"default\",pod=\"web\"} 100",
        );
        has(
            &containers,
            "container_network_receive_bytes_total{interface=\"eth0\",namespace=\"default\",pod=\"web\"} 0",
        );
        let counts = Counts {
            evictions: vec![("memory.available".to_owned(), 2)],
            refusals: vec![("OutOfcpu".to_owned(), 1)],
            mirrors: 3,
        };
        let own = own("n", &read(), &counts);
        has(&own, "kubelet_running_containers{container_state=\"running\"} 1");
        has(&own, "kubelet_evictions{eviction_signal=\"memory.available\"} 2");
        has(&own, "kubelet_admission_rejections_total{reason=\"OutOfcpu\"} 1");
        has(&own, "kubelet_mirror_pods 3");
        for text in [resource, containers] {
            // Each name is introduced once, before its values.
            let mut names: Vec<&str> =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }
}
