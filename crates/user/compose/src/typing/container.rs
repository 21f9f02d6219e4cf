//! How a service's container is confined, checked, named and stopped.

use std::net::IpAddr;

use indexmap::IndexMap;

use crate::model::{Dns, Health, HealthCheck, Resources, Security};
use crate::report::Report;
use crate::source::node::View;
use crate::value;

pub(super) fn health(view: &View<'_>, report: &mut Report) -> Option<Health> {
    let view = view.get("healthcheck")?;
    let disabled = view.get("disable").and_then(|disable| disable.boolean(report));
    if disabled == Some(true) {
        return Some(Health::Disabled);
    }
    let default = HealthCheck::default();
    let duration =
        |name: &str, report: &mut Report| view.get(name).and_then(|value| value.duration(report));
    let command = match view.get("test") {
        None => None,
        Some(test) => match test_command(&test, report) {
            Test::Inherited => None,
            Test::Disabled => return Some(Health::Disabled),
            Test::Command(command) => Some(command),
        },
    };
    Some(Health::Check(HealthCheck {
        command,
        // Zero means the default, as in Docker.
        interval: duration("interval", report).filter(|d| !d.is_zero()).unwrap_or(default.interval),
        timeout: duration("timeout", report).filter(|d| !d.is_zero()).unwrap_or(default.timeout),
        retries: view
            .get("retries")
            .and_then(|retries| retries.number(report))
            .filter(|retries| *retries > 0)
            .unwrap_or(default.retries),
        start_period: duration("start_period", report).unwrap_or(default.start_period),
        start_interval: duration("start_interval", report).filter(|d| !d.is_zero()),
    }))
}

enum Test {
    Inherited,
    Disabled,
    Command(Vec<String>),
}

fn test_command(test: &View<'_>, report: &mut Report) -> Test {
    let shell = |line: String| Test::Command(vec!["/bin/sh".into(), "-c".into(), line]);
    if let Some(line) = test.node.as_text() {
        return if line.is_empty() { Test::Inherited } else { shell(line.to_owned()) };
    }
    let mut words = test.texts(report);
    if words.is_empty() {
        return Test::Inherited;
    }
    match words.remove(0).as_str() {
        "NONE" => Test::Disabled,
        "CMD" if !words.is_empty() => Test::Command(words),
        // What follows the line are the arguments of the shell, as with Docker.
        "CMD-SHELL" if !words.is_empty() => Test::Command(
            ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(words).collect(),
        ),
        first => {
            let message = format!(
                "begins with `{first}`; a list begins with `CMD` and a command, `CMD-SHELL` and one line for the shell, or is `NONE`"
            );
            test.problem(report, message);
            Test::Inherited
        }
    }
}

pub(super) fn resources(view: &View<'_>, report: &mut Report) -> Resources {
    let in_deploy =
        |kind: &str, name: &str| view.get("deploy")?.get("resources")?.get(kind)?.get(name);
    let cpus = |view: Option<View<'_>>, report: &mut Report| {
        let view = view?;
        let text = view.text(report)?;
        match value::processors(&text) {
            // Zero means no limit.
            Ok(thousandths) => Some(thousandths).filter(|thousandths| *thousandths > 0),
            Err(error) => {
                view.problem(report, error.to_string());
                None
            }
        }
    };
    let bytes = |view: Option<View<'_>>, report: &mut Report| {
        view.and_then(|view| view.bytes(report)).filter(|bytes| *bytes > 0)
    };
    let first = |a: Option<View<'_>>, name: &str| a.is_none().then(|| view.get(name)).flatten();
    let limit_cpus = in_deploy("limits", "cpus");
    let limit_memory = in_deploy("limits", "memory");
    let request_memory = in_deploy("reservations", "memory");
    let own_cpus = first(limit_cpus.clone(), "cpus");
    let own_limit = first(limit_memory.clone(), "mem_limit");
    let own_request = first(request_memory.clone(), "mem_reservation");
    let pids = in_deploy("limits", "pids").or_else(|| view.get("pids_limit"));
    Resources {
        processor_limit: cpus(limit_cpus.or(own_cpus), report),
        processor_request: cpus(in_deploy("reservations", "cpus"), report),
        memory_limit: bytes(limit_memory.or(own_limit), report),
        memory_request: bytes(request_memory.or(own_request), report),
        processes: pids
            .and_then(|pids| pids.number::<i64>(report))
            .and_then(|pids| u64::try_from(pids).ok())
            .filter(|pids| *pids > 0),
    }
}

pub(super) fn security(view: &View<'_>, report: &mut Report) -> Security {
    let flag = |name: &str, report: &mut Report| {
        view.get(name).and_then(|view| view.boolean(report)).unwrap_or(false)
    };
    let capabilities = |name: &str, report: &mut Report| -> Vec<String> {
        let names = view.get(name).map(|names| names.texts(report)).unwrap_or_default();
        names
            .iter()
            .map(|name| name.trim().to_ascii_uppercase())
            .map(|name| name.strip_prefix("CAP_").unwrap_or(&name).to_owned())
            .collect()
    };
    let mut security = Security {
        privileged: flag("privileged", report),
        read_only: flag("read_only", report),
        add: capabilities("cap_add", report),
        drop: capabilities("cap_drop", report),
        sysctls: sysctls(view, report),
        ..Security::default()
    };
    for option in view.get("security_opt").map(|view| view.items(report)).unwrap_or_default() {
        let Some(text) = option.text(report) else { continue };
        match text.replace('=', ":").as_str() {
            "no-new-privileges" | "no-new-privileges:true" => security.no_new_privileges = true,
            "no-new-privileges:false" | "label:disable" => {}
            "seccomp:unconfined" => security.seccomp_unconfined = true,
            "apparmor:unconfined" => security.apparmor_unconfined = true,
            _ => option.warn(
                report,
                format!("`{text}` is not supported and has no effect: the default profile applies"),
            ),
        }
    }
    for group in view.get("group_add").map(|view| view.items(report)).unwrap_or_default() {
        let Some(text) = group.text(report) else { continue };
        match text.parse() {
            Ok(number) => security.groups.push(number),
            Err(_) => group.warn(
                report,
                format!("`{text}` is not supported and has no effect: write the group's number"),
            ),
        }
    }
    if let Some(init) = view.get("init")
        && init.boolean(report) == Some(true)
    {
        init.note(
            report,
            "has no effect, and none is needed: the shim reaps what the process leaves behind",
        );
    }
    security
}

fn sysctls(view: &View<'_>, report: &mut Report) -> IndexMap<String, String> {
    let Some(view) = view.get("sysctls") else { return IndexMap::new() };
    let pairs = view.pairs(report);
    pairs.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect()
}

/// `SIGTERM`, `TERM` or `15`, as `SIGTERM`.
pub(super) fn stop_signal(view: &View<'_>, report: &mut Report) -> Option<String> {
    const NUMBERS: [(u8, &str); 12] = [
        (1, "HUP"),
        (2, "INT"),
        (3, "QUIT"),
        (6, "ABRT"),
        (9, "KILL"),
        (10, "USR1"),
        (12, "USR2"),
        (13, "PIPE"),
        (14, "ALRM"),
        (15, "TERM"),
        (18, "CONT"),
        (28, "WINCH"),
    ];
    let view = view.get("stop_signal")?;
    let text = view.text(report)?.to_ascii_uppercase();
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    let by_number = name.parse::<u8>().ok();
    let found = NUMBERS.iter().find(|(number, known)| Some(*number) == by_number || *known == name);
    let real_time = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    match found {
        Some((_, name)) => Some(format!("SIG{name}")),
        None if real_time => Some(format!("SIG{name}")),
        None => {
            view.problem(report, format!("`{text}` is no signal that a process can be stopped with; write `SIGTERM` or `SIGINT`"));
            None
        }
    }
}

pub(super) fn extra_hosts(view: &View<'_>, report: &mut Report) -> Vec<(String, IpAddr)> {
    let mut hosts = Vec::new();
    for item in view.get("extra_hosts").map(|view| view.items(report)).unwrap_or_default() {
        let Some(text) = item.text(report) else { continue };
        let split = text.split_once('=').or_else(|| text.split_once(':'));
        let Some((host, address)) = split else {
            item.problem(report, format!("`{text}` is no host; write `name=address`"));
            continue;
        };
        let address = address.trim().trim_matches(['[', ']']);
        if address == "host-gateway" {
            item.warn(report, "`host-gateway` is not supported and has no effect: the node's address is not known before the pod is placed");
            continue;
        }
        match address.parse() {
            Ok(address) => hosts.push((host.trim().to_owned(), address)),
            Err(_) => item.problem(report, format!("`{address}` is no IP address")),
        }
    }
    hosts
}

pub(super) fn dns(view: &View<'_>, report: &mut Report) -> Dns {
    let texts = |name: &str, report: &mut Report| {
        view.get(name).map(|view| view.texts(report)).unwrap_or_default()
    };
    let mut servers = texts("dns", report);
    servers.retain(|server| {
        let valid = server.parse::<IpAddr>().is_ok();
        if !valid && let Some(view) = view.get("dns") {
            view.problem(report, format!("`{server}` is no IP address"));
        }
        valid
    });
    Dns {
        servers,
        search: texts("dns_search", report),
        options: texts("dns_opt", report)
            .into_iter()
            .map(|option| match option.split_once(':') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option, None),
            })
            .collect(),
    }
}

/// `host`, or a namespace of its own.
pub(super) fn host_namespace(view: &View<'_>, name: &str, report: &mut Report) -> bool {
    let Some(view) = view.get(name) else { return false };
    let Some(text) = view.text(report) else { return false };
    match text.as_str() {
        "host" => true,
        "" | "private" | "shareable" => false,
        _ => {
            let message = format!(
                "`{text}` is not supported and has no effect: it is private to the service"
            );
            view.warn(report, message);
            false
        }
    }
}

pub(super) fn ulimits(view: &View<'_>, report: &mut Report) -> IndexMap<String, (i64, i64)> {
    let mut limits = IndexMap::new();
    let entries = view.get("ulimits").map(|view| view.entries(report)).unwrap_or_default();
    for (name, entry) in entries {
        let both = if entry.node.as_mapping().is_some() {
            let soft = entry.get("soft").and_then(|soft| soft.number(report));
            let hard = entry.get("hard").and_then(|hard| hard.number(report));
            soft.or(hard).zip(hard.or(soft))
        } else {
            entry.number(report).map(|limit| (limit, limit))
        };
        if let Some(both) = both {
            limits.insert(name.to_owned(), both);
        }
    }
    limits
}
