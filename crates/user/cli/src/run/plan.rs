//! From the flags of `berth run` to objects. It reads environment files and changes nothing.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::syntax::{Source, Volume};
use super::{Network, Restart, RunArguments};
use crate::cluster::{RUN, RUN_NAME};
use crate::failure::{Doing, Failure};

const CONTAINER: &str = "main";
/// As docker waits between the polite signal and the end.
const GRACE: u32 = 10;
const CLAIM_SIZE: &str = "1Gi";

/// What is to be created.
#[derive(Debug)]
pub struct Plan {
    /// The container.
    pub pod: Pod,
    /// Its named volumes; they may exist already.
    pub claims: Vec<Value>,
    /// What belongs to it and goes with it: published ports, or the policy that cuts it off.
    pub companions: Vec<Value>,
}

/// A name from the image's name and a few letters.
pub fn made_up(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let stem = last.split([':', '@']).next().unwrap_or(last).to_ascii_lowercase();
    let stem: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{}-{}", stem.trim_matches('-'), &unique[..6]).trim_start_matches('-').to_owned()
}

/// Makes the objects.
pub fn plan(
    arguments: &RunArguments,
    name: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Plan, Failure> {
    let metadata = json!({
        "name": name,
        "namespace": super::NAMESPACE,
        "labels": labels(name),
        "annotations": annotations(arguments)?,
    });
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    for (index, volume) in arguments.volume.iter().enumerate() {
        let id = format!("volume-{index}");
        volumes.push(source(&id, volume));
        let mut mount = json!({ "name": id, "mountPath": volume.target });
        if volume.read_only {
            mount["readOnly"] = json!(true);
        }
        mounts.push(mount);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": match arguments.restart {
            Restart::No => "Never",
            Restart::OnFailure => "OnFailure",
            Restart::Always => "Always",
        },
        "terminationGracePeriodSeconds": GRACE,
        "containers": [container(arguments, mounts, variable)?],
    });
    if !volumes.is_empty() {
        spec["volumes"] = json!(volumes);
    }
    if let Some(hostname) = &arguments.hostname {
        spec["hostname"] = json!(hostname);
    }
    if arguments.network == Network::Host {
        spec["hostNetwork"] = json!(true);
        spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    let pod = serde_json::from_value(pod)
        .map_err(|error| Failure::defect("cannot make the pod").because(error))?;
    Ok(Plan { pod, claims: claims(arguments), companions: companions(arguments, name)? })
}

fn labels(name: &str) -> Value {
    json!({ "app.kubernetes.io/managed-by": "berth", RUN: "true", RUN_NAME: name })
}

fn annotations(arguments: &RunArguments) -> Result<Value, Failure> {
    let mut annotations = Map::new();
    for label in &arguments.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        if name.is_empty() {
            return Err(Failure::usage(format!("`{label}` is no label; write NAME=value"))
                .exit(super::NOT_DONE));
        }
        annotations.insert(name.to_owned(), json!(value));
    }
    if let Some(user) = arguments.user.as_ref().filter(|user| numeric(user).is_none()) {
        annotations.insert(format!("user.berth.dev/{CONTAINER}"), json!(user));
    }
    Ok(Value::Object(annotations))
}

fn container(
    arguments: &RunArguments,
    mounts: Vec<Value>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, Failure> {
    let mut container = json!({
        "name": CONTAINER,
        "image": arguments.image,
        // The image is here by now: the command line has pulled it.
        "imagePullPolicy": "IfNotPresent",
    });
    let mut set = |name: &str, value: Value| container[name] = value;
    if let Some(program) = &arguments.entrypoint {
        set("command", json!([literal(program)]));
    }
    if !arguments.command.is_empty() {
        set("args", json!(arguments.command.iter().map(|word| literal(word)).collect::<Vec<_>>()));
    }
    if let Some(directory) = &arguments.workdir {
        set("workingDir", json!(directory));
    }
    let environment = environment(arguments, variable)?;
    if !environment.is_empty() {
        let listed = environment
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": literal(value) }));
        set("env", json!(listed.collect::<Vec<_>>()));
    }
    if !arguments.publish.is_empty() {
        let ports = arguments.publish.iter();
        let ports =
            ports.map(|port| json!({ "containerPort": port.container, "protocol": port.protocol }));
        set("ports", json!(ports.collect::<Vec<_>>()));
    }
    if !mounts.is_empty() {
        set("volumeMounts", json!(mounts));
    }
    if arguments.interactive {
        set("stdin", json!(true));
        // The end of the caller's input is the end of the container's.
        set("stdinOnce", json!(!arguments.detach));
    }
    if arguments.tty {
        set("tty", json!(true));
    }
    if let Some(resources) = resources(arguments) {
        set("resources", resources);
    }
    let security = security(arguments);
    if !security.is_empty() {
        set("securityContext", Value::Object(security));
    }
    Ok(container)
}

/// The text protected from `$(VAR)` expansion, which docker does not have.
fn literal(text: &str) -> String {
    if text.contains("$(") || text.contains("$$") {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

/// Variables of files first, then those of flags; the last of a name wins.
fn environment(
    arguments: &RunArguments,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut lines = Vec::new();
    for file in &arguments.env_file {
        let text =
            std::fs::read_to_string(file).doing(format!("cannot read `{}`", file.display()))?;
        let wanted = text
            .lines()
            .map(str::trim_start)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.extend(wanted.map(str::to_owned));
    }
    lines.extend(arguments.env.iter().cloned());
    let mut environment: Vec<(String, String)> = Vec::new();
    for line in lines {
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (line.clone(), variable(&line)),
        };
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Failure::usage(format!("`{line}` is no variable; write NAME=value"))
                .exit(super::NOT_DONE));
        }
        environment.retain(|(known, _)| *known != name);
        if let Some(value) = value {
            environment.push((name, value));
        }
    }
    Ok(environment)
}

/// A limit alone reserves nothing, as with docker.
fn resources(arguments: &RunArguments) -> Option<Value> {
    let mut limits = Map::new();
    let mut requests = Map::new();
    if let Some(bytes) = arguments.memory {
        limits.insert("memory".to_owned(), json!(bytes.to_string()));
        requests.insert("memory".to_owned(), json!("0"));
    }
    if let Some(thousandths) = arguments.cpus {
        limits.insert("cpu".to_owned(), json!(format!("{thousandths}m")));
        requests.insert("cpu".to_owned(), json!("0"));
    }
    (!limits.is_empty()).then(|| json!({ "limits": limits, "requests": requests }))
}

fn security(arguments: &RunArguments) -> Map<String, Value> {
    let mut security = Map::new();
    if let Some((user, group)) = arguments.user.as_deref().and_then(numeric) {
        security.insert("runAsUser".to_owned(), json!(user));
        if let Some(group) = group {
            security.insert("runAsGroup".to_owned(), json!(group));
        }
    }
    if arguments.read_only {
        security.insert("readOnlyRootFilesystem".to_owned(), json!(true));
    }
    if arguments.privileged {
        security.insert("privileged".to_owned(), json!(true));
    }
    let mut capabilities = Map::new();
    for (list, names) in [("add", &arguments.cap_add), ("drop", &arguments.cap_drop)] {
        let names: Vec<String> = names.iter().map(|name| capability(name)).collect();
        if !names.is_empty() {
            capabilities.insert(list.to_owned(), json!(names));
        }
    }
    if !capabilities.is_empty() {
        security.insert("capabilities".to_owned(), Value::Object(capabilities));
    }
    security
}

fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

/// User and group by number, if that is how they are given. `root` is 0 in every image.
fn numeric(user: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| if text == "root" { Some(0) } else { text.parse().ok() };
    match user.split_once(':') {
        None => Some((number(user)?, None)),
        Some((user, group)) => Some((number(user)?, Some(number(group)?))),
    }
}

fn source(id: &str, volume: &Volume) -> Value {
    match &volume.source {
        Source::Named(name) => {
            json!({ "name": id, "persistentVolumeClaim": { "claimName": name } })
        }
        Source::Anonymous => json!({ "name": id, "emptyDir": {} }),
        Source::Path(path) => {
            // Docker makes a directory where nothing is.
            let kind = if path.exists() { "" } else { "DirectoryOrCreate" };
            json!({ "name": id, "hostPath": { "path": path, "type": kind } })
        }
    }
}

fn claims(arguments: &RunArguments) -> Vec<Value> {
    let mut names: Vec<&str> = Vec::new();
    for volume in &arguments.volume {
        if let Source::Named(name) = &volume.source
            && !names.contains(&name.as_str())
        {
            names.push(name);
        }
    }
    let claim = |name: &&str| {
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "namespace": super::NAMESPACE,
                "labels": { "app.kubernetes.io/managed-by": "berth" } },
            "spec": { "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": CLAIM_SIZE } } },
        })
    };
    names.iter().map(claim).collect()
}

/// Published ports, a Service per address; and for a container without a network the policy that cuts it off.
fn companions(arguments: &RunArguments, name: &str) -> Result<Vec<Value>, Failure> {
    let metadata = |name_of: String| json!({ "name": name_of, "namespace": super::NAMESPACE, "labels": labels(name) });
    if arguments.network != Network::Default && !arguments.publish.is_empty() {
        return Err(Failure::usage("`-p` needs the container's own network")
            .hint("leave `-p` away: with `--network host` all ports are open as they are, with `none` nothing is")
            .exit(super::NOT_DONE));
    }
    let mut companions = Vec::new();
    if arguments.network == Network::None {
        companions.push(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata(format!("{name}-isolated")),
            "spec": { "podSelector": { "matchLabels": { RUN_NAME: name } },
                "policyTypes": ["Ingress", "Egress"] },
        }));
    }
    let mut addresses = Vec::new();
    for port in &arguments.publish {
        if !addresses.contains(&port.address) {
            addresses.push(port.address);
        }
    }
    for (index, address) in addresses.into_iter().enumerate() {
        let suffix = if index == 0 { String::new() } else { format!("-{}", index + 1) };
        let mut metadata = metadata(format!("{name}-published{suffix}"));
        if let Some(address) = address {
            metadata["annotations"] = json!({ "berth.dev/listen-address": address.to_string() });
        }
        let own = arguments.publish.iter().filter(|port| port.address == address);
        let ports = own.map(|port| {
            json!({
                "name": format!("{}-{}", port.protocol.to_ascii_lowercase(), port.host),
                "port": port.host,
                "targetPort": port.container,
                "protocol": port.protocol,
            })
        });
        companions.push(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": { "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "selector": { RUN_NAME: name }, "ports": ports.collect::<Vec<_>>() },
        }));
    }
    Ok(companions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Cli, Command};
    use clap::Parser;

    fn planned(line: &str) -> Result<Plan, Failure> {
        let words = ["berth", "run"].into_iter().chain(line.split(' '));
        let Command::Run(arguments) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not run")
        };
        plan(&arguments, "box", &|name| (name == "HOME").then(|| "/root".to_owned()))
    }

    fn spec(line: &str) -> Value {
        serde_json::to_value(planned(line).unwrap().pod.spec).unwrap()
    }

    #[test]
    fn a_plain_container_has_nothing_special() {
        assert_eq!(
            spec("busybox true"),
            json!({
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 10,
                "containers": [{ "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                    "args": ["true"] }],
            })
        );
    }

    #[test]
    fn flags_after_the_image_belong_to_the_command() {
        let spec = spec("-it --entrypoint /bin/sh busybox -c $(x) --rm");
        let container = &spec["containers"][0];
        assert_eq!(container["command"], json!(["/bin/sh"]));
        assert_eq!(container["args"], json!(["-c", "$$(x)", "--rm"]));
        assert_eq!((&container["stdin"], &container["tty"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn variables_come_from_flags_and_the_environment() {
        let spec = spec("-e A=1 -e HOME -e UNSET -e A=2 busybox");
        assert_eq!(
            spec["containers"][0]["env"],
            json!([{ "name": "HOME", "value": "/root" }, { "name": "A", "value": "2" }])
        );
        assert_eq!(planned("-e =1 busybox").unwrap_err().code(), 125);
    }

    #[test]
    fn limits_users_and_privileges_reach_the_container() {
        let spec = spec(
            "-m 512m --cpus 1.5 -u 1000:50 --read-only --cap-add cap_net_admin --cap-drop all busybox",
        );
        let container = &spec["containers"][0];
        assert_eq!(
            container["resources"],
            json!({ "limits": { "cpu": "1500m", "memory": "536870912" }, "requests": { "cpu": "0", "memory": "0" } })
        );
        assert_eq!(
            container["securityContext"],
            json!({ "runAsUser": 1000, "runAsGroup": 50, "readOnlyRootFilesystem": true,
                "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] } })
        );
        let named = planned("-u www busybox").unwrap().pod.metadata.annotations.unwrap();
        assert_eq!(named.get("user.berth.dev/main").map(String::as_str), Some("www"));
    }

    #[test]
    fn volumes_and_ports_become_objects() {
        let plan = planned(
            "-v data:/data -v data:/again -v /etc:/host:ro -p 127.0.0.1:8080:80 -p 53:53/udp nginx",
        )
        .unwrap();
        assert_eq!(plan.claims.len(), 1);
        let spec = serde_json::to_value(plan.pod.spec).unwrap();
        assert_eq!(
            spec["volumes"][0],
            json!({ "name": "volume-0", "persistentVolumeClaim": { "claimName": "data" } })
        );
        assert_eq!(spec["volumes"][2]["hostPath"], json!({ "path": "/etc", "type": "" }));
        assert_eq!(
            spec["containers"][0]["volumeMounts"][2],
            json!({ "name": "volume-2", "mountPath": "/host", "readOnly": true })
        );
        let names: Vec<_> =
            plan.companions.iter().map(|one| one["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["box-published", "box-published-2"]);
        assert_eq!(
            plan.companions[0]["metadata"]["annotations"]["berth.dev/listen-address"],
            "127.0.0.1"
        );
        assert_eq!(
            plan.companions[1]["spec"]["ports"][0],
            json!({ "name": "udp-53", "port": 53, "targetPort": 53, "protocol": "UDP" })
        );
    }

    #[test]
    fn a_container_without_network_is_cut_off() {
        let plan = planned("--network none busybox").unwrap();
        assert_eq!(plan.companions[0]["kind"], "NetworkPolicy");
        assert!(
            planned("--network host -p 1:1 busybox")
                .unwrap_err()
                .text()
                .contains("hint: leave `-p` away")
        );
    }

    #[test]
    fn names_are_made_from_images() {
        let name = made_up("ghcr.io/Me/My_App:1.2");
        assert!(name.starts_with("my-app-") && name.len() == 13, "{name}");
        assert!(super::super::syntax::name(&name).is_ok());
    }
}
