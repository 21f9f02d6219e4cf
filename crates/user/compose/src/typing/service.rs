//! One service: image, process, environment, dependencies and how it ends.

use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;

use super::{Context, container, labels, mounts, network};
use crate::model::{Build, Condition, Dependency, PullPolicy, Restart, Service};
use crate::report::Report;
use crate::source::environment;
use crate::source::node::View;
use crate::source::read;
use crate::value::{self, name};

const DEFAULT_GRACE: Duration = Duration::from_secs(10);

pub(super) fn service(key: &str, view: &View<'_>, context: &mut Context<'_>) -> Service {
    let text = |name: &str, report: &mut Report| view.get(name).and_then(|view| view.text(report));
    let flag = |name: &str, report: &mut Report| {
        view.get(name).and_then(|view| view.boolean(report)).unwrap_or(false)
    };
    let deploy = view.get("deploy");
    let in_deploy = |name: &str| deploy.as_ref().and_then(|deploy| deploy.get(name));
    let (hostname, domainname) = network::host_names(view, context.report);
    let environment = variables(view, context);
    let network = network::mode(view, context.report);
    let mounts = mounts::mounts(view, context);
    let build = build(view, context);
    let secrets = mounts::files(view, "secrets", "/run/secrets", context.report);
    let configs = mounts::files(view, "configs", "", context.report);
    let report = &mut *context.report;
    Service {
        object_name: service_name(key, view, report),
        position: view.node.place().clone(),
        image: image(view, build.is_some(), report),
        build,
        pull_policy: pull_policy(view, report),
        architecture: architecture(view, report),
        entrypoint: command(view, "entrypoint", report),
        command: command(view, "command", report),
        environment,
        working_dir: text("working_dir", report),
        user: text("user", report).filter(|user| !user.is_empty()),
        ports: network::ports(view, report),
        expose: network::expose(view, report),
        depends_on: dependencies(view, report),
        restart: restart(view, in_deploy("restart_policy"), report),
        mounts,
        shm_size: view.get("shm_size").and_then(|size| size.bytes(report)),
        secrets,
        configs,
        network,
        aliases: Vec::new(),
        health: container::health(view, report),
        replicas: replicas(view, report),
        start_first: start_first(in_deploy("update_config"), report),
        headless: in_deploy("endpoint_mode").and_then(|mode| mode.text(report)).as_deref()
            == Some("dnsrr"),
        resources: container::resources(view, report),
        security: container::security(view, report),
        stop_grace_period: view
            .get("stop_grace_period")
            .and_then(|period| period.duration(report))
            .unwrap_or(DEFAULT_GRACE),
        stop_signal: container::stop_signal(view, report),
        tty: flag("tty", report),
        stdin_open: flag("stdin_open", report),
        hostname,
        domainname,
        extra_hosts: container::extra_hosts(view, report),
        dns: container::dns(view, report),
        host_pid: container::host_namespace(view, "pid", report),
        host_ipc: container::host_namespace(view, "ipc", report),
        annotations: annotations(view, report),
        deploy_annotations: deploy
            .as_ref()
            .map(|deploy| labels(deploy, report))
            .unwrap_or_default(),
        ulimits: container::ulimits(view, report),
    }
}

fn service_name(key: &str, view: &View<'_>, report: &mut Report) -> String {
    let object_name = name::service(key);
    if object_name.is_empty() {
        let message = format!("no part of `{key}` can name a service; use letters and digits");
        view.problem(report, message);
    } else if object_name != key {
        let message = format!(
            "is called `{object_name}` in the cluster, where names are lower-case letters, digits and `-`; other services reach it by that name, not as `{key}`"
        );
        view.warn(report, message);
    }
    object_name
}

fn image(view: &View<'_>, built: bool, report: &mut Report) -> Option<String> {
    let Some(image) = view.get("image") else {
        if !built {
            let message = "has neither an `image` nor a `build`; give it one of them";
            report.problem(view.node.place(), &view.path, message);
        }
        return None;
    };
    let text = image.text(report)?;
    if text.trim().is_empty() {
        image.problem(report, "is empty; name the image to run");
        return None;
    }
    Some(text)
}

fn build(view: &View<'_>, context: &mut Context<'_>) -> Option<Build> {
    let build = view.get("build")?;
    build.node.as_mapping()?;
    let report = &mut *context.report;
    let text = |name: &str, report: &mut Report| build.get(name).and_then(|view| view.text(report));
    let flag = |name: &str, report: &mut Report| {
        build.get(name).and_then(|view| view.boolean(report)).unwrap_or(false)
    };
    let args = build.get("args").map(|args| args.pairs(report)).unwrap_or_default();
    let result = Build {
        context: text("context", report)?,
        dockerfile: text("dockerfile", report).map(PathBuf::from),
        dockerfile_inline: text("dockerfile_inline", report),
        args: args
            .into_iter()
            .filter_map(|(name, value)| {
                let value = value.or_else(|| context.variables.get(&name).cloned());
                value.map(|value| (name, value))
            })
            .collect(),
        target: text("target", report),
        labels: image_labels(&build, report),
        no_cache: flag("no_cache", report),
        pull: flag("pull", report),
    };
    if result.dockerfile.is_some() && result.dockerfile_inline.is_some() {
        build.problem(report, "has both `dockerfile` and `dockerfile_inline`; keep one");
    }
    check_context(&build, &result, report);
    Some(result)
}

fn image_labels(build: &View<'_>, report: &mut Report) -> IndexMap<String, String> {
    let pairs = build.get("labels").map(|labels| labels.pairs(report)).unwrap_or_default();
    pairs.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

/// Whether there is something to build. Contexts at an address are not looked at.
fn check_context(view: &View<'_>, build: &Build, report: &mut Report) {
    let context = PathBuf::from(&build.context);
    if !context.is_absolute() {
        return;
    }
    if !context.is_dir() {
        let message = format!("the build context `{}` is not a directory", context.display());
        report.missing(&view.node.position, &view.path, &context, message);
        return;
    }
    let dockerfile = context.join(build.dockerfile.as_deref().unwrap_or("Dockerfile".as_ref()));
    if build.dockerfile_inline.is_none() && !dockerfile.is_file() {
        let message = format!(
            "there is no `{}`; create it, or name it in `dockerfile`",
            dockerfile.display()
        );
        report.missing(&view.node.position, &view.path, &dockerfile, message);
    }
}

fn pull_policy(view: &View<'_>, report: &mut Report) -> Option<PullPolicy> {
    let policy = view.get("pull_policy")?;
    let text = policy.text(report)?;
    match text.as_str() {
        "always" => Some(PullPolicy::Always),
        "never" => Some(PullPolicy::Never),
        "missing" | "if_not_present" => Some(PullPolicy::Missing),
        "build" => Some(PullPolicy::Build),
        "daily" | "weekly" => Some(periodic(&policy, report)),
        every if every.starts_with("every_") => Some(periodic(&policy, report)),
        other => {
            let known =
                ["always", "never", "missing", "if_not_present", "build", "daily", "weekly"];
            let hint = name::suggestion(other, known);
            policy.problem(report, format!("`{other}` is no pull policy{hint}"));
            None
        }
    }
}

fn periodic(policy: &View<'_>, report: &mut Report) -> PullPolicy {
    policy.warn(
        report,
        "is not supported as a period; the image is pulled whenever a container starts",
    );
    PullPolicy::Always
}

/// The part of `os/architecture/variant` that schedules.
fn architecture(view: &View<'_>, report: &mut Report) -> Option<String> {
    let platform = view.get("platform")?;
    let text = platform.text(report)?;
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let architecture = if first == "linux" { parts.next() } else { Some(first) };
    match architecture {
        Some("amd64" | "x86_64") => Some("amd64".to_owned()),
        Some("arm64" | "aarch64") => Some("arm64".to_owned()),
        Some(other @ ("arm" | "386" | "ppc64le" | "s390x" | "riscv64")) => Some(other.to_owned()),
        _ => {
            platform.warn(report, format!("names a platform that cannot run here: `{text}`"));
            None
        }
    }
}

/// A list as it is, a text split into words.
fn command(view: &View<'_>, name: &str, report: &mut Report) -> Option<Vec<String>> {
    let view = view.get(name)?;
    let Some(text) = view.node.as_text() else { return Some(view.texts(report)) };
    match value::words(text) {
        Ok(words) => Some(words),
        Err(error) => {
            view.problem(report, error.to_string());
            None
        }
    }
}

/// `environment` over `env_file`, later files over earlier ones.
fn variables(view: &View<'_>, context: &mut Context<'_>) -> IndexMap<String, String> {
    let mut variables = IndexMap::new();
    let files = view.get("env_file").map(|files| files.items(context.report)).unwrap_or_default();
    for file in files {
        if let Some(values) = variable_file(&file, context) {
            variables.extend(values);
        }
    }
    let own = view.get("environment").map(|own| own.pairs(context.report)).unwrap_or_default();
    for (name, value) in own {
        match value.or_else(|| context.variables.get(&name).cloned()) {
            Some(value) => {
                variables.insert(name, value);
            }
            // A variable that has no value anywhere does not exist in the container.
            None => {
                variables.shift_remove(&name);
            }
        }
    }
    variables.shift_remove("");
    variables
}

fn variable_file(view: &View<'_>, context: &mut Context<'_>) -> Option<IndexMap<String, String>> {
    let report = &mut *context.report;
    let path = PathBuf::from(view.get("path")?.text(report)?);
    let required = view.get("required").and_then(|required| required.boolean(report));
    let format = view.get("format").and_then(|format| format.text(report));
    if !path.is_file() {
        if required.unwrap_or(true) {
            let message = format!(
                "the file `{}` does not exist; create it, or set `required: false`",
                path.display()
            );
            report.missing(&view.node.position, &view.path, &path, message);
        }
        return None;
    }
    let text = match read::read_text(&path) {
        Ok(text) => text,
        Err(error) => {
            view.problem(report, format!("cannot read `{}`: {error}", path.display()));
            return None;
        }
    };
    if format.as_deref() == Some("raw") {
        return Some(environment::parse_raw(&text));
    }
    environment::parse(&text, context.variables)
        .map_err(|error| view.problem(report, format!("`{}`: {error}", path.display())))
        .ok()
}

fn dependencies(view: &View<'_>, report: &mut Report) -> IndexMap<String, Dependency> {
    let mut dependencies = IndexMap::new();
    let entries = view.get("depends_on").map(|view| view.entries(report)).unwrap_or_default();
    for (service, entry) in entries {
        let condition = match entry.get("condition") {
            None => Condition::Started,
            Some(condition) => match condition.text(report).as_deref() {
                Some("service_started") => Condition::Started,
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::CompletedSuccessfully,
                None => continue,
                Some(other) => {
                    let known =
                        ["service_started", "service_healthy", "service_completed_successfully"];
                    let hint = name::suggestion(other, known);
                    condition.problem(
                        report,
                        format!(
                            "`{other}` is no condition; there are `{}`{hint}",
                            known.join("`, `")
                        ),
                    );
                    continue;
                }
            },
        };
        let required = entry.get("required").and_then(|required| required.boolean(report));
        let dependency = Dependency { condition, required: required.unwrap_or(true) };
        dependencies.insert(service.to_owned(), dependency);
    }
    dependencies
}

fn restart(view: &View<'_>, policy: Option<View<'_>>, report: &mut Report) -> Restart {
    if let Some(restart) = view.get("restart") {
        let text = restart.text(report).unwrap_or_default();
        let (word, count) =
            text.split_once(':').map_or((text.as_str(), false), |(word, _)| (word, true));
        if count {
            restart.warn(report, "has a number of attempts, which has no effect: it is restarted for as long as it is wanted");
        }
        return match word {
            "" => Restart::Default,
            "no" | "false" => Restart::No,
            "on-failure" => Restart::OnFailure,
            "always" | "unless-stopped" => Restart::Always,
            other => {
                let hint =
                    name::suggestion(other, ["no", "always", "on-failure", "unless-stopped"]);
                restart.problem(report, format!("`{other}` is no restart policy{hint}"));
                Restart::Default
            }
        };
    }
    let Some(condition) = policy.and_then(|policy| policy.get("condition")) else {
        return Restart::Default;
    };
    match condition.text(report).as_deref() {
        Some("none") => Restart::No,
        Some("on-failure") => Restart::OnFailure,
        // The last two are no words of the specification, but of many files; Docker lets them pass.
        Some("any" | "" | "always" | "unless-stopped") => Restart::Always,
        None => Restart::Default,
        Some(other) => {
            let hint = name::suggestion(other, ["none", "on-failure", "any"]);
            condition.problem(report, format!("`{other}` is no restart condition{hint}"));
            Restart::Default
        }
    }
}

fn replicas(view: &View<'_>, report: &mut Report) -> u32 {
    let deploy = view.get("deploy");
    if let Some(mode) = deploy.as_ref().and_then(|deploy| deploy.get("mode")) {
        let text = mode.text(report).unwrap_or_default();
        match text.as_str() {
            "replicated" | "" => {}
            "global" | "global-job" | "replicated-job" => mode.warn(
                report,
                format!("`{text}` is not supported and has no effect: the service runs with `replicas` copies"),
            ),
            other => {
                let known = ["replicated", "global", "replicated-job", "global-job"];
                let hint = name::suggestion(other, known);
                mode.problem(report, format!("`{other}` is no mode{hint}"));
            }
        }
    }
    let replicas = deploy.and_then(|deploy| deploy.get("replicas"));
    let wanted = replicas.or_else(|| view.get("scale"));
    wanted.and_then(|replicas| replicas.number(report)).unwrap_or(1)
}

fn start_first(update: Option<View<'_>>, report: &mut Report) -> Option<bool> {
    let order = update?.get("order")?;
    match order.text(report)?.as_str() {
        "start-first" => Some(true),
        "stop-first" => Some(false),
        other => {
            let hint = name::suggestion(other, ["start-first", "stop-first"]);
            order.problem(report, format!("`{other}` is no order{hint}"));
            None
        }
    }
}

/// Labels and annotations of the containers, which are annotations in a cluster: labels there select.
fn annotations(view: &View<'_>, report: &mut Report) -> IndexMap<String, String> {
    let mut annotations = labels(view, report);
    if let Some(own) = view.get("annotations") {
        annotations.extend(super::annotations(&own, report));
    }
    annotations
}
