//! Every attribute of the Compose specification, and whether it has an effect here.
//!
//! Three answers are possible for each key of a file: honoured, known but without effect (a finding that says so), or
//! unknown (a problem with the closest known name). Nothing is dropped in silence.

use Kind::{Each, Ignored, Items, Leaf, Object};

use crate::report::Report;
use crate::source::node::{Node, Value, View};
use crate::value::name::suggestion;

/// An attribute's name and what is below it.
type Attribute = (&'static str, Kind);

#[derive(Clone, Copy)]
enum Kind {
    /// Honoured, and read by the typing step.
    Leaf,
    /// A mapping with these attributes; other shapes are left to the typing step.
    Object(&'static [Attribute]),
    /// A list whose mappings have these attributes.
    Items(&'static [Attribute]),
    /// A mapping from names to mappings with these attributes.
    Each(&'static [Attribute]),
    /// Known, without effect. The text says why, or what to do instead.
    Ignored(&'static str),
}

const UNSUPPORTED: Kind = Ignored("remove it, or set it in the cluster");
const NODE: Kind = Ignored("it is a matter of the node; berth sets it for all containers alike");
const WINDOWS: Kind = Ignored("it concerns Windows containers only");
const LIMITS: Kind = Ignored("use `cpus` and `mem_limit`, or `deploy.resources`");
const BUILD: Kind = Ignored("the image is built without it");
const ADDRESS: Kind = Ignored("addresses are given by the cluster; reach services by their name");
const HOOK: Kind = Ignored("make it part of the command, or of a service that others depend on");
const SWARM: Kind = Ignored("berth rolls services one by one and undoes nothing by itself here");

const ROOT: &[Attribute] = &[
    ("name", Leaf),
    ("version", Ignored("the format has no versions any more; remove the line")),
    ("include", Leaf),
    ("services", Each(SERVICE)),
    ("networks", Each(NETWORK)),
    ("volumes", Each(VOLUME)),
    ("secrets", Each(SECRET)),
    ("configs", Each(CONFIG)),
    ("models", UNSUPPORTED),
];

const SERVICE: &[Attribute] = &[
    ("annotations", Leaf),
    ("attach", Ignored("`berth logs` shows the output of every service")),
    ("blkio_config", UNSUPPORTED),
    ("build", Object(BUILD_OPTIONS)),
    ("cap_add", Leaf),
    ("cap_drop", Leaf),
    ("cgroup", NODE),
    ("cgroup_parent", NODE),
    ("command", Leaf),
    ("configs", Items(FILE_MOUNT)),
    ("container_name", Leaf),
    ("cpu_count", WINDOWS),
    ("cpu_percent", WINDOWS),
    ("cpu_period", LIMITS),
    ("cpu_quota", LIMITS),
    ("cpu_rt_period", LIMITS),
    ("cpu_rt_runtime", LIMITS),
    ("cpu_shares", LIMITS),
    ("cpus", Leaf),
    ("cpuset", LIMITS),
    ("credential_spec", WINDOWS),
    ("depends_on", Each(DEPENDENCY)),
    ("deploy", Object(DEPLOY)),
    ("develop", Ignored("it is for watching source files while developing")),
    ("device_cgroup_rules", UNSUPPORTED),
    (
        "devices",
        Ignored("the container does not see the devices; run it `privileged` if you trust it"),
    ),
    ("dns", Leaf),
    ("dns_opt", Leaf),
    ("dns_search", Leaf),
    ("domainname", Leaf),
    ("driver_opts", UNSUPPORTED),
    ("entrypoint", Leaf),
    ("env_file", Items(ENV_FILE)),
    ("environment", Leaf),
    ("expose", Leaf),
    ("extends", Leaf),
    ("external_links", Ignored("a service of another project is reached as `<service>.<project>`")),
    ("extra_hosts", Leaf),
    ("gpus", UNSUPPORTED),
    ("group_add", Leaf),
    ("healthcheck", Object(HEALTH_CHECK)),
    ("hostname", Leaf),
    ("image", Leaf),
    ("init", Leaf),
    ("ipc", Leaf),
    ("isolation", WINDOWS),
    ("label_file", Ignored("write the labels into `labels`")),
    ("labels", Leaf),
    ("links", Leaf),
    ("logging", Ignored("logs are kept and rotated on the node; read them with `berth logs`")),
    ("mac_address", ADDRESS),
    ("mem_limit", Leaf),
    ("mem_reservation", Leaf),
    ("mem_swappiness", NODE),
    ("memswap_limit", Ignored("containers do not swap")),
    ("models", UNSUPPORTED),
    ("network_mode", Leaf),
    ("networks", Each(ATTACHMENT)),
    ("oom_kill_disable", NODE),
    ("oom_score_adj", Ignored("it follows from the memory request")),
    ("pid", Leaf),
    ("pids_limit", Leaf),
    ("platform", Leaf),
    ("ports", Items(PORT)),
    ("post_start", HOOK),
    ("pre_start", HOOK),
    ("pre_stop", HOOK),
    ("privileged", Leaf),
    ("profiles", Leaf),
    ("provider", UNSUPPORTED),
    ("pull_policy", Leaf),
    ("pull_refresh_after", Ignored("use `pull_policy: always`")),
    ("read_only", Leaf),
    ("restart", Leaf),
    ("runtime", Ignored("berth has one runtime of its own")),
    ("scale", Leaf),
    ("secrets", Items(FILE_MOUNT)),
    ("security_opt", Leaf),
    ("shm_size", Leaf),
    ("stdin_open", Leaf),
    ("stop_grace_period", Leaf),
    ("stop_signal", Leaf),
    ("storage_opt", UNSUPPORTED),
    ("sysctls", Leaf),
    ("tmpfs", Leaf),
    ("tty", Leaf),
    ("ulimits", Leaf),
    ("use_api_socket", Ignored("there is no Docker engine to talk to")),
    ("user", Leaf),
    ("userns_mode", NODE),
    ("uts", NODE),
    ("volumes", Items(MOUNT)),
    ("volumes_from", Ignored("mount the same named volume in both services")),
    ("working_dir", Leaf),
];

const BUILD_OPTIONS: &[Attribute] = &[
    ("additional_contexts", BUILD),
    ("args", Leaf),
    ("cache_from", BUILD),
    ("cache_to", BUILD),
    ("context", Leaf),
    ("dockerfile", Leaf),
    ("dockerfile_inline", Leaf),
    ("entitlements", BUILD),
    ("extra_hosts", BUILD),
    ("isolation", WINDOWS),
    ("labels", Leaf),
    ("network", BUILD),
    ("no_cache", Leaf),
    ("no_cache_filter", BUILD),
    ("platforms", BUILD),
    ("privileged", BUILD),
    ("provenance", BUILD),
    ("pull", Leaf),
    ("sbom", BUILD),
    ("secrets", BUILD),
    ("shm_size", BUILD),
    ("ssh", BUILD),
    ("tags", BUILD),
    ("target", Leaf),
    ("ulimits", BUILD),
];

const DEPENDENCY: &[Attribute] = &[
    ("condition", Leaf),
    ("required", Leaf),
    ("restart", Ignored("a service is not restarted when one it depends on is")),
];

const DEPLOY: &[Attribute] = &[
    ("endpoint_mode", Leaf),
    ("labels", Leaf),
    ("mode", Leaf),
    ("placement", Ignored("the scheduler chooses the node")),
    ("replicas", Leaf),
    ("resources", Object(RESOURCES)),
    ("restart_policy", Object(RESTART_POLICY)),
    ("rollback_config", SWARM),
    ("update_config", Object(UPDATE)),
];

const RESOURCES: &[Attribute] =
    &[("limits", Object(RESOURCE_VALUES)), ("reservations", Object(RESOURCE_VALUES))];

const RESOURCE_VALUES: &[Attribute] = &[
    ("cpus", Leaf),
    ("devices", UNSUPPORTED),
    ("generic_resources", UNSUPPORTED),
    ("memory", Leaf),
    ("pids", Leaf),
];

const RESTART_POLICY: &[Attribute] = &[
    ("condition", Leaf),
    ("delay", Ignored("the wait between restarts grows from 10 seconds to 5 minutes")),
    ("max_attempts", Ignored("a service is restarted for as long as it is wanted")),
    ("window", Ignored("a service counts as started once its health check says so")),
];

const UPDATE: &[Attribute] = &[
    ("delay", SWARM),
    ("failure_action", SWARM),
    ("max_failure_ratio", SWARM),
    ("monitor", SWARM),
    ("order", Leaf),
    ("parallelism", SWARM),
];

const ENV_FILE: &[Attribute] = &[("format", Leaf), ("path", Leaf), ("required", Leaf)];

const HEALTH_CHECK: &[Attribute] = &[
    ("disable", Leaf),
    ("interval", Leaf),
    ("retries", Leaf),
    ("start_interval", Leaf),
    ("start_period", Leaf),
    ("test", Leaf),
    ("timeout", Leaf),
];

const FILE_MOUNT: &[Attribute] = &[
    ("gid", Ignored("the file belongs to root and is readable by all; use `mode`")),
    ("mode", Leaf),
    ("source", Leaf),
    ("target", Leaf),
    ("uid", Ignored("the file belongs to root and is readable by all; use `mode`")),
];

const PORT: &[Attribute] = &[
    ("app_protocol", Leaf),
    ("host_ip", Leaf),
    ("mode", Ignored("ports are published on every address of the node, or on `host_ip`")),
    ("name", Leaf),
    ("protocol", Leaf),
    ("published", Leaf),
    ("target", Leaf),
];

const MOUNT: &[Attribute] = &[
    ("bind", Object(BIND)),
    ("consistency", Ignored("it has no meaning on Linux")),
    ("image", UNSUPPORTED),
    ("read_only", Leaf),
    ("source", Leaf),
    ("target", Leaf),
    ("tmpfs", Object(TMPFS)),
    ("type", Leaf),
    ("volume", Object(VOLUME_MOUNT)),
];

const BIND: &[Attribute] = &[
    ("create_host_path", Leaf),
    ("propagation", Leaf),
    ("recursive", UNSUPPORTED),
    ("selinux", Ignored("berth does not relabel files")),
];

const TMPFS: &[Attribute] = &[("mode", UNSUPPORTED), ("size", Leaf)];

const VOLUME_MOUNT: &[Attribute] = &[("labels", UNSUPPORTED), ("nocopy", Leaf), ("subpath", Leaf)];

const ATTACHMENT: &[Attribute] = &[
    ("aliases", Leaf),
    ("driver_opts", UNSUPPORTED),
    ("gw_priority", ADDRESS),
    ("interface_name", ADDRESS),
    ("ipv4_address", ADDRESS),
    ("ipv6_address", ADDRESS),
    ("link_local_ips", ADDRESS),
    ("mac_address", ADDRESS),
    ("priority", ADDRESS),
];

const NETWORK: &[Attribute] = &[
    ("attachable", Ignored("a network is a firewall rule; every service on it can be reached")),
    ("driver", Leaf),
    ("driver_opts", UNSUPPORTED),
    ("enable_ipv4", ADDRESS),
    ("enable_ipv6", ADDRESS),
    ("external", Leaf),
    ("internal", Leaf),
    ("ipam", ADDRESS),
    ("labels", Leaf),
    ("name", Leaf),
];

const VOLUME: &[Attribute] = &[
    ("driver", Leaf),
    ("driver_opts", Leaf),
    ("external", Leaf),
    ("labels", Leaf),
    ("name", Leaf),
];

const SECRET: &[Attribute] = &[
    ("driver", UNSUPPORTED),
    ("driver_opts", UNSUPPORTED),
    ("environment", Leaf),
    ("external", Leaf),
    ("file", Leaf),
    ("labels", UNSUPPORTED),
    ("name", Leaf),
    ("template_driver", UNSUPPORTED),
];

const CONFIG: &[Attribute] = &[
    ("content", Leaf),
    ("environment", Leaf),
    ("external", Leaf),
    ("file", Leaf),
    ("labels", UNSUPPORTED),
    ("name", Leaf),
    ("template_driver", UNSUPPORTED),
];

/// Compares the whole tree with the specification.
pub(crate) fn check(tree: &Node, report: &mut Report) {
    object(&View::new(tree, ""), ROOT, report);
}

fn object(view: &View<'_>, attributes: &[Attribute], report: &mut Report) {
    for (name, child) in view.entries_if_mapping() {
        if name.starts_with("x-") {
            continue;
        }
        match attributes.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => attribute(&child, *kind, report),
            None => {
                let hint = suggestion(name, attributes.iter().map(|(known, _)| *known));
                let message = format!("Compose has no such attribute{hint}");
                report.problem(child.node.place(), &child.path, message);
            }
        }
    }
}

fn attribute(view: &View<'_>, kind: Kind, report: &mut Report) {
    match kind {
        Leaf => {}
        Ignored(_) if is_idle(view.node) => {}
        Ignored(why) => view.warn(report, format!("is not supported and has no effect: {why}")),
        Object(attributes) => object(view, attributes, report),
        Items(attributes) => {
            if let Value::Sequence(items) = &view.node.value {
                for (index, item) in items.iter().enumerate() {
                    let item = View::new(item, format!("{}[{index}]", view.path));
                    object(&item, attributes, report);
                }
            }
        }
        Each(attributes) => {
            for (name, child) in view.entries_if_mapping() {
                if !name.starts_with("x-") {
                    object(&child, attributes, report);
                }
            }
        }
    }
}

/// Nothing is lost where nothing was asked for.
fn is_idle(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Text(text) => text == "false" || text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(entries) => entries.is_empty(),
    }
}
