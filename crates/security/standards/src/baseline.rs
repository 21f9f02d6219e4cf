//! What no pod above the level `privileged` may ask for.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::spec::{plural, quoted, setters, text};
use crate::{Level, Pod, Policy, Version, Violation};

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Sysctls that stay within the pod, and the minor release they became allowed with.
const SYSCTLS: [(&str, u32); 14] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

/// SELinux types, and the minor release they became allowed with.
const SELINUX: [(&str, u32); 5] = [
    ("", 0),
    ("container_t", 0),
    ("container_init_t", 0),
    ("container_kvm_t", 0),
    ("container_engine_t", 31),
];

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Finds the violations of the level. A stricter check of the level above stands for the one here, so that nothing is said
/// twice.
pub(crate) fn judge(policy: Policy, pod: Pod<'_>, found: &mut Vec<Violation>) {
    let version = policy.version;
    let restricted = policy.level >= Level::Restricted;
    found.extend(host_namespaces(pod));
    found.extend(host_ports(pod));
    found.extend(host_process(pod));
    found.extend(privileged(pod));
    found.extend(selinux(pod, version));
    found.extend(app_armor(pod));
    found.extend(sysctls(pod, version));
    if version.has(34) {
        found.extend(probe_hosts(pod));
    }
    if !(restricted && version.has(22)) {
        found.extend(capabilities(pod));
    }
    if !restricted {
        found.extend(host_paths(pod));
    }
    let own_users = pod.has_own_users() && version.has(35) && !restricted;
    if !own_users {
        found.extend(proc_mount(pod));
    }
    if !version.has(19) {
        found.extend(seccomp_annotations(pod));
    } else if !restricted {
        found.extend(seccomp(pod));
    }
}

fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let used: Vec<String> = used
        .filter(|field| pod.spec[*field] == Value::Bool(true))
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| Violation {
        check: "hostNamespaces",
        reason: "host namespaces".to_owned(),
        detail: used.join(", "),
    })
}

fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<u64> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter_map(|port| port["hostPort"].as_u64()).filter(|port| *port != 0).collect()
    };
    let containers = pod.containers_where(|container| !ports(container).is_empty());
    let all: BTreeSet<u64> = pod.containers().flat_map(ports).collect();
    let numbers: Vec<String> = all.iter().map(ToString::to_string).collect();
    (!containers.is_empty()).then(|| Violation {
        check: "hostPorts",
        reason: "hostPort".to_owned(),
        detail: format!(
            "{} {} {} {}",
            setters(false, &containers),
            if containers.len() == 1 { "uses" } else { "use" },
            plural("hostPort", numbers.len()),
            numbers.join(", ")
        ),
    })
}

fn host_process(pod: Pod<'_>) -> Option<Violation> {
    let sets = |context: &Value| context["windowsOptions"]["hostProcess"] == Value::Bool(true);
    let containers = pod.containers_where(|container| sets(&container["securityContext"]));
    let own = sets(pod.context());
    (own || !containers.is_empty()).then(|| Violation {
        check: "windowsHostProcess",
        reason: "hostProcess".to_owned(),
        detail: format!(
            "{} must not set securityContext.windowsOptions.hostProcess=true",
            setters(own, &containers)
        ),
    })
}

fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let containers = pod.containers_where(|container| {
        container["securityContext"]["privileged"] == Value::Bool(true)
    });
    (!containers.is_empty()).then(|| Violation {
        check: "privileged",
        reason: "privileged".to_owned(),
        detail: format!(
            "{} must not set securityContext.privileged=true",
            setters(false, &containers)
        ),
    })
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    let added = container["securityContext"]["capabilities"]["add"].as_array();
    added.into_iter().flatten().map(text)
}

fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let is_wrong = |name: &&str| !CAPABILITIES.contains(name);
    let containers = pod.containers_where(|container| added(container).any(|name| is_wrong(&name)));
    let names: BTreeSet<&str> = pod.containers().flat_map(added).filter(is_wrong).collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!containers.is_empty()).then(|| Violation {
        check: "capabilities_baseline",
        reason: "non-default capabilities".to_owned(),
        detail: format!(
            "{} must not include {} in securityContext.capabilities.add",
            setters(false, &containers),
            quoted(&names)
        ),
    })
}

fn host_paths(pod: Pod<'_>) -> Option<Violation> {
    let volumes = pod.volumes().filter(|volume| !volume["hostPath"].is_null());
    let names: Vec<&str> = volumes.map(|volume| text(&volume["name"])).collect();
    (!names.is_empty()).then(|| Violation {
        check: "hostPathVolumes",
        reason: "hostPath volumes".to_owned(),
        detail: format!("{} {}", plural("volume", names.len()), quoted(&names)),
    })
}

fn selinux(pod: Pod<'_>, version: Version) -> Option<Violation> {
    let options = |context: &'_ Value| context["seLinuxOptions"].clone();
    let allowed =
        |kind: &str| SELINUX.iter().any(|(known, since)| *known == kind && version.has(*since));
    let is_wrong = |options: &Value| {
        !allowed(text(&options["type"]))
            || !text(&options["user"]).is_empty()
            || !text(&options["role"]).is_empty()
    };
    let own = is_wrong(&options(pod.context()));
    let containers =
        pod.containers_where(|container| is_wrong(&options(&container["securityContext"])));
    if !own && containers.is_empty() {
        return None;
    }
    let mut all = vec![options(pod.context())];
    all.extend(pod.containers().map(|container| options(&container["securityContext"])));
    let types: BTreeSet<&str> =
        all.iter().map(|options| text(&options["type"])).filter(|kind| !allowed(kind)).collect();
    let types: Vec<&str> = types.into_iter().collect();
    let mut wrong = Vec::new();
    if !types.is_empty() {
        wrong.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    for part in ["user", "role"] {
        if all.iter().any(|options| !text(&options[part]).is_empty()) {
            wrong.push(format!("{part} may not be set"));
        }
    }
    Some(Violation {
        check: "seLinuxOptions",
        reason: "seLinuxOptions".to_owned(),
        detail: format!(
            "{} must not set securityContext.seLinuxOptions like this: {}",
            setters(own, &containers),
            wrong.join("; ")
        ),
    })
}

fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let kind = |context: &Value| text(&context["appArmorProfile"]["type"]).to_owned();
    let is_wrong =
        |context: &Value| !matches!(kind(context).as_str(), "" | "RuntimeDefault" | "Localhost");
    let own = is_wrong(pod.context());
    let containers = pod.containers_where(|container| is_wrong(&container["securityContext"]));
    let mut details = Vec::new();
    if own || !containers.is_empty() {
        let mut types: BTreeSet<String> = BTreeSet::new();
        types.extend(own.then(|| kind(pod.context())));
        let contexts = pod.containers().map(|container| &container["securityContext"]);
        types.extend(contexts.filter(|context| is_wrong(context)).map(kind));
        let types: Vec<String> = types.into_iter().collect();
        details.push(format!(
            "{} must not set AppArmor profile type to {}",
            setters(own, &containers),
            quoted(&types)
        ));
    }
    let is_fine = |value: &str| {
        value.is_empty() || value == "runtime/default" || value.starts_with("localhost/")
    };
    let mut annotations: Vec<String> = pod
        .annotations()
        .filter(|(name, value)| name.starts_with(APPARMOR) && !is_fine(value))
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    annotations.sort();
    if !annotations.is_empty() {
        details.push(format!("forbidden annotations {}", annotations.join(", ")));
    }
    (!details.is_empty()).then(|| Violation {
        check: "appArmorProfile",
        reason: "forbidden AppArmor profile".to_owned(),
        detail: details.join("; "),
    })
}

fn sysctls(pod: Pod<'_>, version: Version) -> Option<Violation> {
    let allowed =
        |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && version.has(*since));
    let all = pod.context()["sysctls"].as_array().into_iter().flatten();
    let wrong: Vec<&str> =
        all.map(|sysctl| text(&sysctl["name"])).filter(|name| !allowed(name)).collect();
    (!wrong.is_empty()).then(|| Violation {
        check: "sysctls",
        reason: "forbidden sysctls".to_owned(),
        detail: wrong.join(", "),
    })
}

/// A probe or hook with a host of its own lets anybody who can make pods send requests from the node.
fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let lifecycle = &container["lifecycle"];
        let handlers = [
            &container["livenessProbe"],
            &container["readinessProbe"],
            &container["startupProbe"],
            &lifecycle["postStart"],
            &lifecycle["preStop"],
        ];
        let hosts = handlers.into_iter().flat_map(|handler| {
            [&handler["httpGet"]["host"], &handler["tcpSocket"]["host"]].map(text)
        });
        hosts.filter(|host| !host.is_empty())
    }
    let containers = pod.containers_where(|container| hosts(container).next().is_some());
    let all: BTreeSet<&str> = pod.containers().flat_map(hosts).collect();
    let all: Vec<&str> = all.into_iter().collect();
    (!containers.is_empty()).then(|| Violation {
        check: "hostProbesAndHostLifecycle",
        reason: "probe or lifecycle host".to_owned(),
        detail: format!(
            "{} must not name {} {} in probes or lifecycle hooks",
            setters(false, &containers),
            plural("host", all.len()),
            quoted(&all)
        ),
    })
}

pub(crate) fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let kind = |container: &Value| text(&container["securityContext"]["procMount"]).to_owned();
    let is_wrong = |container: &Value| !matches!(kind(container).as_str(), "" | "Default");
    let containers = pod.containers_where(is_wrong);
    let kinds: BTreeSet<String> =
        pod.containers().filter(|container| is_wrong(container)).map(kind).collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    (!containers.is_empty()).then(|| Violation {
        check: "procMount",
        reason: "procMount".to_owned(),
        detail: format!(
            "{} must not set securityContext.procMount to {}",
            setters(false, &containers),
            quoted(&kinds)
        ),
    })
}

fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    let kind = |context: &Value| text(&context["seccompProfile"]["type"]).to_owned();
    let is_wrong =
        |context: &Value| !matches!(kind(context).as_str(), "" | "RuntimeDefault" | "Localhost");
    let own = is_wrong(pod.context());
    let containers = pod.containers_where(|container| is_wrong(&container["securityContext"]));
    if !own && containers.is_empty() {
        return None;
    }
    let mut kinds: BTreeSet<String> = BTreeSet::new();
    kinds.extend(own.then(|| kind(pod.context())));
    let contexts = pod.containers().map(|container| &container["securityContext"]);
    kinds.extend(contexts.filter(|context| is_wrong(context)).map(kind));
    let kinds: Vec<String> = kinds.into_iter().collect();
    Some(Violation {
        check: "seccompProfile_baseline",
        reason: "seccompProfile".to_owned(),
        detail: format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters(own, &containers),
            quoted(&kinds)
        ),
    })
}

fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let is_ours = |name: &str| name == SECCOMP_POD || name.starts_with(SECCOMP_CONTAINER);
    let is_fine = |value: &str| {
        matches!(value, "" | "runtime/default" | "docker/default")
            || value.starts_with("localhost/")
    };
    let mut wrong: Vec<String> = pod
        .annotations()
        .filter(|(name, value)| is_ours(name) && !is_fine(value))
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    wrong.sort();
    (!wrong.is_empty()).then(|| Violation {
        check: "seccompProfile_baseline",
        reason: "seccompProfile".to_owned(),
        detail: format!("forbidden {} {}", plural("annotation", wrong.len()), wrong.join(", ")),
    })
}
