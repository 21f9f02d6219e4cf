//! `kubectl top`, and what the node tells about its use.

use std::time::Duration;

use crate::support::{Berth, Said, until};

/// A rate is the mean of at least five seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const MINORS: [&str; 3] = ["1.29", "1.31", "1.33"];

#[test]
fn every_kubectl_sees_what_is_used() {
    let berth = Berth::new("top", 198);
    berth.berth(&["image", "bootstrap", "busybox"]).good();
    berth.kubectl(&["create", "namespace", "used"]).good();
    let run = |name: &str, line: &str| {
        let keep = "--image-pull-policy=IfNotPresent";
        let run = ["run", name, "--namespace=used", "--image=busybox", keep, "--"];
        berth.kubectl(&[&run[..], &["sh", "-c", line]].concat()).good();
    };
    // One is busy and one has much memory.
    run("busy", "while :; do :; done");
    run("large", "head -c 60000000 /dev/zero > /dev/shm/x; exec sleep 600");
    until("both have a rate", PATIENCE, || rows(&berth, &["pod", "-n", "used"]).len() == 2);
    let by_cpu = ["pod", "-A", "--containers", "--sort-by=cpu"];
    for minor in MINORS {
        let top = |words: &[&str]| {
            let line = [&["top"], words, &["--no-headers"]].concat();
            Said::of(&berth.kubectl_of(minor, &line).output().expect("kubectl starts")).good()
        };
        let first: Vec<String> = words(&top(&by_cpu)).swap_remove(0);
        assert_eq!(first[..3], ["used", "busy", "busy"], "{minor}");
        assert!(number(&first[3]) > 100, "{minor}: {first:?}");
        let large = words(&top(&["pod", "-n", "used", "-l", "run=large"])).swap_remove(0);
        assert!(number(&large[1]) < 100 && number(&large[2]) > 40, "{minor}: {large:?}");
        let node = words(&top(&["node"])).swap_remove(0);
        assert_eq!((node[0].as_str(), node.len()), ("node", 5), "{minor}: {node:?}");
        assert!(number(&node[1]) >= 100 && number(&node[3]) > 60, "{minor}: {node:?}");
    }
    let raw = |path: &str| {
        let path = format!("/api/v1/nodes/node/proxy/{path}");
        berth.kubectl(&["get", "--raw", &path]).good()
    };
    let summary: serde_json::Value = serde_json::from_str(&raw("stats/summary")).expect("JSON");
    let pods = summary["pods"].as_array().expect("a list");
    let large = pods.iter().find(|pod| pod["podRef"]["name"] == "large").expect("it runs");
    assert!(large["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(40 << 20));
    assert!(large["network"]["rxBytes"].is_u64(), "{large}");
    assert!(large["containers"][0]["rootfs"]["usedBytes"].is_u64(), "{large}");
    assert!(summary["node"]["fs"]["availableBytes"].as_u64() > Some(0), "{summary}");
    for (path, name) in [
        ("metrics/cadvisor", "container_memory_rss{container=\"large\""),
        ("metrics/resource", "pod_cpu_usage_seconds_total{namespace=\"used\",pod=\"busy\"}"),
        ("metrics", "kubelet_running_pods"),
    ] {
        assert!(raw(path).contains(name), "no {name}");
    }
    let table = berth.kubectl(&["get", "nodes.metrics.k8s.io"]).good();
    assert!(table.starts_with("NAME   CPU") && table.contains("WINDOW"), "{table}");
}

fn rows(berth: &Berth, what: &[&str]) -> Vec<Vec<String>> {
    let said = berth.kubectl(&[&["top"], what, &["--no-headers"]].concat());
    if said.code == 0 { words(&said.output) } else { Vec::new() }
}

fn words(text: &str) -> Vec<Vec<String>> {
    let row = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    text.lines().map(row).collect()
}

/// `120m` and `80Mi` without their units.
fn number(text: &str) -> u64 {
    text.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse().expect("a number")
}
