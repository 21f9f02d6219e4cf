//! What a container uses, in the form in which engines read it.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use berth_runtime::cgroup::Cgroup;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};

use crate::OciError;
use crate::flags::Global;
use crate::state::State;

/// A number at the start of a file; `max` is the largest.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "max" { Some(u64::MAX) } else { text.parse().ok() }
}

/// The value beside a name in a file of names and values.
fn beside(text: &str, name: &str) -> u64 {
    let find = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(find).unwrap_or(0)
}

fn processor(cgroup: &Cgroup) -> Value {
    let stat = cgroup.read("cpuacct", "cpuacct.stat", "cpu.stat").unwrap_or_default();
    // Version 1 counts in hundredths of a second, version 2 in microseconds.
    let part = |old: &str, new: &str| match beside(&stat, new) {
        0 => beside(&stat, old).saturating_mul(10_000_000),
        micros => micros.saturating_mul(1000),
    };
    let each = cgroup.read("cpuacct", "cpuacct.usage_percpu", "cpuacct.usage_percpu");
    let each = each.unwrap_or_default();
    let each: Vec<u64> = each.split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let mut usage = json!({
        "total": cgroup.cpu_time().unwrap_or(0),
        "kernel": part("system", "system_usec"),
        "user": part("user", "user_usec"),
    });
    if !each.is_empty() {
        usage["percpu"] = json!(each);
    }
    let throttled = cgroup.usage().map(|usage| usage.throttled).unwrap_or_default();
    json!({"usage": usage, "throttling": {"periods": throttled.periods,
        "throttledPeriods": throttled.waited, "throttledTime": throttled.time}})
}

fn memory(cgroup: &Cgroup) -> Value {
    let read = |old: &str, new: &str| {
        cgroup.read("memory", old, new).and_then(|text| number(&text)).unwrap_or(0)
    };
    let stat = cgroup.read("memory", "memory.stat", "memory.stat").unwrap_or_default();
    let raw: Map<String, Value> = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| {
            Some((name.to_owned(), value.trim().parse::<u64>().ok()?.into()))
        })
        .collect();
    let usage = cgroup.usage().map(|usage| usage.memory).unwrap_or_default();
    json!({
        "cache": usage.cache,
        "usage": {
            "usage": read("memory.usage_in_bytes", "memory.current"),
            "limit": read("memory.limit_in_bytes", "memory.max"),
            "max": read("memory.max_usage_in_bytes", "memory.peak"),
            "failcnt": read("memory.failcnt", "none"),
        },
        "swap": {
            "usage": read("memory.memsw.usage_in_bytes", "memory.swap.current"),
            "limit": read("memory.memsw.limit_in_bytes", "memory.swap.max"),
        },
        "raw": raw,
    })
}

/// Bytes and operations by device, as version 1 writes them; version 2 has all in a line.
fn blocks(cgroup: &Cgroup) -> Value {
    let read = |file: &str| cgroup.read("blkio", file, "io.stat").unwrap_or_default();
    let rows = |file: &str, keys: &[(&str, &str)]| -> Vec<Value> {
        let mut rows = Vec::new();
        for line in read(file).lines() {
            let mut words = line.split_whitespace();
            let Some((major, minor)) = words.next().and_then(|word| word.split_once(':')) else {
                continue;
            };
            let place = (major.parse::<u64>().unwrap_or(0), minor.parse::<u64>().unwrap_or(0));
            let row = |operation: &str, value: u64| json!({"major": place.0, "minor": place.1, "op": operation, "value": value});
            let words: Vec<&str> = words.collect();
            if let [operation, value] = words[..] {
                rows.push(row(operation, value.parse().unwrap_or(0)));
                continue;
            }
            for (key, value) in words.iter().filter_map(|word| word.split_once('=')) {
                if let Some((_, operation)) = keys.iter().find(|(known, _)| *known == key) {
                    rows.push(row(operation, value.parse().unwrap_or(0)));
                }
            }
        }
        rows
    };
    json!({
        "ioServiceBytesRecursive":
            rows("blkio.throttle.io_service_bytes_recursive", &[("rbytes", "Read"), ("wbytes", "Write")]),
        "ioServicedRecursive":
            rows("blkio.throttle.io_serviced_recursive", &[("rios", "Read"), ("wios", "Write")]),
    })
}

/// The interfaces of the container's network, from its first process.
fn interfaces(pid: i32) -> Vec<Value> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let row = |line: &str| -> Option<Value> {
        let (name, numbers) = line.split_once(':')?;
        let at: Vec<u64> = numbers.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        let at = |index: usize| at.get(index).copied().unwrap_or(0);
        Some(json!({
            "Name": name.trim(),
            "RxBytes": at(0), "RxPackets": at(1), "RxErrors": at(2), "RxDropped": at(3),
            "TxBytes": at(8), "TxPackets": at(9), "TxErrors": at(10), "TxDropped": at(11),
        }))
    };
    text.lines().skip(2).filter_map(row).collect()
}

/// All that is counted of a container at this moment.
fn stats(state: &State, cgroup: &Cgroup) -> Value {
    let pids = |file: &str| cgroup.read("pids", file, file).and_then(|text| number(&text));
    let limit = pids("pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    json!({"type": "stats", "id": state.name, "data": {
        "cpu": processor(cgroup),
        "memory": memory(cgroup),
        "pids": {"current": pids("pids.current").unwrap_or(0), "limit": limit},
        "blkio": blocks(cgroup),
        "network_interfaces": interfaces(state.pid),
    }})
}

/// Writes what a container uses: once, or every so often until it has ended, and then also whenever the kernel ended one of its
/// processes for lack of memory.
pub(crate) fn tell(
    global: &Global,
    name: &str,
    once: bool,
    interval: Duration,
    output: &mut dyn Write,
) -> Result<(), OciError> {
    let state = State::load(&global.root, name)?;
    let stopped = || OciError::State { action: "watch", name: name.to_owned(), status: "stopped" };
    let process = state.process().ok_or_else(stopped)?;
    let cgroup = Cgroup::at(crate::hierarchies()?, &state.cgroup);
    let mut say = |value: &Value| {
        writeln!(output, "{value}")
            .and_then(|()| output.flush())
            .map_err(OciError::file("write to", "standard output"))
    };
    say(&stats(&state, &cgroup))?;
    if once {
        return Ok(());
    }
    let wait = Timespec::try_from(interval)
        .map_err(|error| OciError::Usage(format!("the interval is too long: {error}")))?;
    let mut kills = cgroup.memory_kills();
    loop {
        let mut ended = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| poll(&mut ended, Some(&wait)));
        let ready =
            ready.map_err(|error| OciError::file("wait for", "the process")(error.into()))?;
        let now = cgroup.memory_kills();
        if now > kills {
            say(&json!({"type": "oom", "id": state.name}))?;
            kills = now;
        }
        if ready != 0 {
            return Ok(());
        }
        say(&stats(&state, &cgroup))?;
    }
}
