//! The one container of a service's pods.

use serde_json::{Map, Value, json};

use super::{Subject, probe};
use crate::model::PullPolicy;

pub(super) fn container(subject: &Subject<'_>, mounts: Vec<Value>) -> Value {
    let service = subject.service;
    let mut container = json!({
        "name": service.object_name,
        "image": subject.image.reference,
        "imagePullPolicy": pull_policy(subject),
    });
    let mut set = |name: &str, value: Value| container[name] = value;
    let (command, args) = command(subject);
    if let Some(command) = command {
        set("command", json!(command));
    }
    if let Some(args) = args {
        set("args", json!(args));
    }
    if let Some(directory) = &service.working_dir {
        set("workingDir", json!(directory));
    }
    if !service.environment.is_empty() {
        let variables: Vec<Value> = service
            .environment
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": literal(value) }))
            .collect();
        set("env", json!(variables));
    }
    let ports: Vec<Value> = subject
        .known_ports()
        .iter()
        .map(|(port, protocol)| json!({ "containerPort": port, "protocol": protocol.as_str() }))
        .collect();
    if !ports.is_empty() {
        set("ports", json!(ports));
    }
    if let Some(resources) = resources(subject) {
        set("resources", resources);
    }
    if !mounts.is_empty() {
        set("volumeMounts", json!(mounts));
    }
    if let Some((startup, readiness)) = probe::probes(subject) {
        set("startupProbe", startup);
        set("readinessProbe", readiness);
    }
    if let Some(signal) = &service.stop_signal {
        set("lifecycle", json!({ "stopSignal": signal }));
    }
    if let Some(security) = security(subject) {
        set("securityContext", security);
    }
    if service.tty {
        set("tty", json!(true));
    }
    if service.stdin_open {
        set("stdin", json!(true));
    }
    container
}

/// An image that was built here is nowhere to be pulled from.
fn pull_policy(subject: &Subject<'_>) -> &'static str {
    match subject.service.pull_policy {
        Some(PullPolicy::Always) => "Always",
        Some(PullPolicy::Never | PullPolicy::Build) => "Never",
        Some(PullPolicy::Missing) => "IfNotPresent",
        None if subject.service.build.is_some() => "Never",
        None => "IfNotPresent",
    }
}

type Words = Option<Vec<String>>;

/// Entry point and command in a cluster's terms. Without an entry point to replace the image's, an empty one would mean
/// the image's again, so the command takes its place.
fn command(subject: &Subject<'_>) -> (Words, Words) {
    let literals = |words: &Vec<String>| words.iter().map(|word| literal(word)).collect();
    let command: Words = subject.service.command.as_ref().map(literals);
    match &subject.service.entrypoint {
        None => (None, command.filter(|words: &Vec<String>| !words.is_empty())),
        Some(entrypoint) if entrypoint.is_empty() => (command, None),
        Some(entrypoint) => (Some(literals(entrypoint)), command),
    }
}

/// The text protected from `$(VAR)` expansion, which Docker does not have.
fn literal(text: &str) -> String {
    if text.contains("$(") || text.contains("$$") {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

/// A limit alone reserves nothing, as with Docker; a cluster would otherwise set the whole limit aside.
fn resources(subject: &Subject<'_>) -> Option<Value> {
    let resources = &subject.service.resources;
    let mut limits = Map::new();
    let mut requests = Map::new();
    let processors = |thousandths: u64| json!(format!("{thousandths}m"));
    if let Some(limit) = resources.processor_limit {
        limits.insert("cpu".to_owned(), processors(limit));
        requests.insert("cpu".to_owned(), json!("0"));
    }
    if let Some(limit) = resources.memory_limit {
        limits.insert("memory".to_owned(), json!(limit.to_string()));
        requests.insert("memory".to_owned(), json!("0"));
    }
    if let Some(request) = resources.processor_request {
        requests.insert("cpu".to_owned(), processors(request));
    }
    if let Some(request) = resources.memory_request {
        requests.insert("memory".to_owned(), json!(request.to_string()));
    }
    let mut both = Map::new();
    if !limits.is_empty() {
        both.insert("limits".to_owned(), Value::Object(limits));
    }
    if !requests.is_empty() {
        both.insert("requests".to_owned(), Value::Object(requests));
    }
    (!both.is_empty()).then_some(Value::Object(both))
}

fn security(subject: &Subject<'_>) -> Option<Value> {
    let security = &subject.service.security;
    let mut context = Map::new();
    let mut set = |name: &str, value: Value| context.insert(name.to_owned(), value);
    if let Some((user, group)) = subject.service.user.as_deref().and_then(numeric) {
        set("runAsUser", json!(user));
        if let Some(group) = group {
            set("runAsGroup", json!(group));
        }
    }
    if security.read_only {
        set("readOnlyRootFilesystem", json!(true));
    }
    if security.privileged {
        set("privileged", json!(true));
    }
    // A cluster refuses the two together; privileges win, as with Docker.
    let administrator = security.add.iter().any(|name| name == "SYS_ADMIN");
    if security.no_new_privileges && !security.privileged && !administrator {
        set("allowPrivilegeEscalation", json!(false));
    }
    if security.seccomp_unconfined {
        set("seccompProfile", json!({ "type": "Unconfined" }));
    }
    if security.apparmor_unconfined {
        set("appArmorProfile", json!({ "type": "Unconfined" }));
    }
    let mut capabilities = Map::new();
    if !security.add.is_empty() {
        capabilities.insert("add".to_owned(), json!(security.add));
    }
    if !security.drop.is_empty() {
        capabilities.insert("drop".to_owned(), json!(security.drop));
    }
    if !capabilities.is_empty() {
        set("capabilities", Value::Object(capabilities));
    }
    (!context.is_empty()).then_some(Value::Object(context))
}

/// User and group by number, if that is how they are given. `root` is 0 in every image.
pub(super) fn numeric(user: &str) -> Option<(u32, Option<u32>)> {
    let number = |text: &str| if text == "root" { Some(0) } else { text.parse().ok() };
    match user.split_once(':') {
        None => Some((number(user)?, None)),
        Some((user, group)) => Some((number(user)?, Some(number(group)?))),
    }
}
