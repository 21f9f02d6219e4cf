//! Validation of pods and of the templates that make them.

use berth_objects::{FieldError, Object, Quantity};
use serde_json::{Value, json};

use super::{Errors, Place, names, placement, quantity, restart, security};
use crate::defaults::quality;

pub(crate) fn spec(spec: &Place<'_>, errors: &mut Errors) {
    spec.field("restartPolicy").one_of(&["Always", "OnFailure", "Never"], errors);
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    spec.field("dnsPolicy").one_of(&policies, errors);
    spec.field("terminationGracePeriodSeconds").not_negative(errors);
    let deadline = spec.field("activeDeadlineSeconds");
    if deadline.value.as_i64().is_some_and(|seconds| !(1..=i64::from(i32::MAX)).contains(&seconds))
    {
        deadline.invalid("must be between 1 and 2147483647, inclusive", errors);
    }
    names::labels(&spec.field("nodeSelector"), errors);
    for field in ["hostname", "subdomain"] {
        if !spec.field(field).is_empty() {
            names::label(&spec.field(field), errors);
        }
    }
    let volumes = spec.field("volumes");
    volumes.unique("name", errors);
    for volume in volumes.items() {
        self::volume(&volume, errors);
    }
    let known: Vec<&str> = volumes.items().map(|volume| volume.field("name").text()).collect();
    spec.field("containers").required(errors);
    let mut seen: Vec<&str> = Vec::new();
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec.field(field).items() {
            self::container(&container, &known, errors);
            let name = container.field("name");
            if !name.is_empty() && seen.contains(&name.text()) {
                errors.push(FieldError::duplicate(&name.path, name.value));
            }
            seen.push(name.text());
        }
    }
    ephemeral(spec, errors);
    restart::check(spec, errors);
    host_ports(spec, errors);
    host_namespaces(spec, errors);
    network(spec, errors);
    security::pod(&spec.field("securityContext"), errors);
    placement::check(spec, errors);
    whole(spec, errors);
    spec.field("schedulingGates").unique("name", errors);
    spec.field("os").field("name").one_of(&["linux", "windows"], errors);
}

/// Ephemeral containers look into others that are there, and have nothing that makes a service of them.
fn ephemeral(spec: &Place<'_>, errors: &mut Errors) {
    const NOTHING: [&str; 6] =
        ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources"];
    let lasting = ["initContainers", "containers"].map(|field| spec.field(field));
    for container in spec.field("ephemeralContainers").items() {
        let target = container.field("targetContainerName");
        let known = || lasting.iter().flat_map(|list| list.items());
        if !target.is_empty() && !known().any(|it| it.field("name").text() == target.text()) {
            errors.push(FieldError::not_found(&target.path, target.value));
        }
        for field in NOTHING.map(|field| container.field(field)) {
            let unset = field.is_empty() || field.value.as_object().is_some_and(|it| it.is_empty());
            if !unset {
                errors.push(FieldError::forbidden(
                    &field.path,
                    "cannot be set for an Ephemeral Container",
                ));
            }
        }
    }
}

/// A new pod has nothing yet to look into.
pub(crate) fn fresh(spec: &Place<'_>, errors: &mut Errors) {
    let added = spec.field("ephemeralContainers");
    if !added.is_empty() {
        errors.push(FieldError::forbidden(&added.path, "cannot be set on create"));
    }
}

/// What a pod was promised in comparison to others stays, whatever its size.
pub(crate) fn resized(object: &Value, old: &Value, errors: &mut Errors) {
    let quality = |pod: &Value| quality(pod.get("spec").unwrap_or(&Value::Null));
    let new = quality(object);
    if new != quality(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid("spec", &new.into(), why));
    }
}

/// What was added to look into a pod stays as it was added.
pub(crate) fn added(object: &Value, old: &Value, errors: &mut Errors) {
    let path = "spec.ephemeralContainers";
    let new = object.list(&["spec", "ephemeralContainers"]);
    for before in old.list(&["spec", "ephemeralContainers"]) {
        let name = before.text(&["name"]);
        match new.iter().find(|it| it.text(&["name"]) == name) {
            None => {
                let why = format!("existing ephemeral containers \"{name}\" may not be removed");
                errors.push(FieldError::forbidden(path, why));
            }
            Some(after) if after != before => {
                let why = format!("existing ephemeral containers \"{name}\" may not be changed");
                errors.push(FieldError::forbidden(path, why));
            }
            Some(_) => {}
        }
    }
}

/// Which namespaces of the node go together with which of the pod.
fn host_namespaces(spec: &Place<'_>, errors: &mut Errors) {
    let is = |field: &str| spec.value.flag(&[field]);
    if is("hostPID") && is("shareProcessNamespace") {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        spec.field("shareProcessNamespace").invalid(why, errors);
    }
    if spec.field("hostUsers").value != &Value::Bool(false) {
        return;
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if is(field) {
            let why = "when `hostUsers` is false";
            errors.push(FieldError::forbidden(&spec.field(field).path, why));
        }
    }
}

/// A port of the node belongs to one container, and on the node's own network it is the container's.
fn host_ports(spec: &Place<'_>, errors: &mut Errors) {
    let shared = spec.value.flag(&["hostNetwork"]);
    let mut seen = Vec::new();
    for container in spec.field("containers").items() {
        for port in container.field("ports").items() {
            let host = port.field("hostPort");
            let Some(number) = host.value.as_i64().filter(|number| *number != 0) else { continue };
            if shared && port.value.integer(&["containerPort"]) != Some(number) {
                host.invalid("must match `containerPort` when `hostNetwork` is true", errors);
            }
            let protocol = port.value.text(&["protocol"]);
            let key = (
                number,
                if protocol.is_empty() { "TCP" } else { protocol },
                port.value.text(&["hostIP"]),
            );
            if seen.contains(&key) {
                errors.push(FieldError::duplicate(&host.path, host.value));
            }
            seen.push(key);
        }
    }
}

fn network(spec: &Place<'_>, errors: &mut Errors) {
    const NAMESERVERS: usize = 3;
    const SEARCHES: usize = 32;
    let config = spec.field("dnsConfig");
    let (servers, searches) = (config.field("nameservers"), config.field("searches"));
    if spec.value.text(&["dnsPolicy"]) == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(&servers.path, why));
    }
    for (list, most, what) in
        [(&servers, NAMESERVERS, "nameservers"), (&searches, SEARCHES, "search paths")]
    {
        if list.items().count() > most {
            list.invalid(format!("must not have more than {most} {what}"), errors);
        }
    }
    let aliases = spec.field("hostAliases");
    let addresses = servers.items().chain(aliases.items().map(|alias| alias.field("ip")));
    for address in addresses {
        if address.text().parse::<std::net::IpAddr>().is_err() {
            address.invalid("must be a valid IP address, (e.g. 10.9.8.7)", errors);
        }
    }
}

fn volume(volume: &Place<'_>, errors: &mut Errors) {
    names::label(&volume.field("name"), errors);
    let sources = volume
        .value
        .as_object()
        .map_or(0, |fields| fields.keys().filter(|name| *name != "name").count());
    if sources > 1 {
        errors.push(FieldError::forbidden(&volume.path, "may not specify more than 1 volume type"));
    }
    for (source, needed) in [
        ("hostPath", "path"),
        ("persistentVolumeClaim", "claimName"),
        ("secret", "secretName"),
        ("configMap", "name"),
    ] {
        if !volume.field(source).is_empty() {
            volume.field(source).field(needed).required(errors);
        }
    }
    let limit = volume.field("emptyDir").field("sizeLimit");
    if !limit.is_empty() {
        quantity(&limit, errors);
    }
    let kinds = [
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    volume.field("hostPath").field("type").one_of(&kinds, errors);
    for source in ["configMap", "secret", "downwardAPI"] {
        files(&volume.field(source), errors);
    }
    for source in volume.field("projected").field("sources").items() {
        let given = source.value.as_object().map_or(0, serde_json::Map::len);
        if given > 1 {
            errors.push(FieldError::forbidden(
                &source.path,
                "may not specify more than 1 volume type per source",
            ));
        }
        for source in ["configMap", "secret", "downwardAPI"].map(|name| source.field(name)) {
            files(&source, errors);
        }
        let token = source.field("serviceAccountToken");
        if !token.value.is_null() {
            token.field("path").required(errors);
            let seconds = token.field("expirationSeconds");
            if seconds.value.as_i64().is_some_and(|seconds| seconds < 600) {
                seconds.invalid("may not specify a duration less than 10 minutes", errors);
            }
        }
    }
}

/// Files made from keys: modes within bounds, paths within the volume.
fn files(source: &Place<'_>, errors: &mut Errors) {
    let items = source.field("items");
    let modes = items.items().map(|item| item.field("mode")).chain([source.field("defaultMode")]);
    for mode in modes {
        if mode.value.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            let why = "must be a number between 0 and 0777 (octal), both inclusive";
            mode.invalid(why, errors);
        }
    }
    for item in items.items() {
        let path = item.field("path");
        if !path.required(errors) {
            continue;
        }
        if path.text().starts_with('/') {
            path.invalid("must be a relative path", errors);
        } else if path.text().split('/').any(|part| part == "..") {
            path.invalid("must not contain '..'", errors);
        }
    }
}

fn container(container: &Place<'_>, volumes: &[&str], errors: &mut Errors) {
    names::label(&container.field("name"), errors);
    let image = container.field("image");
    if image.required(errors) && image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace", errors);
    }
    container.field("imagePullPolicy").one_of(&["Always", "IfNotPresent", "Never"], errors);
    container.field("terminationMessagePolicy").one_of(&["FallbackToLogsOnError", "File"], errors);
    environment(container, errors);
    ports(container, errors);
    resources(&container.field("resources"), errors);
    let mounts = container.field("volumeMounts");
    for mount in mounts.items() {
        let name = mount.field("name");
        if name.required(errors) && !volumes.contains(&name.text()) {
            errors.push(FieldError::not_found(&name.path, name.value));
        }
        mount.field("mountPath").required(errors);
        let sub = mount.field("subPath").text();
        if sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
            mount.field("subPath").invalid("must be a relative path without '..'", errors);
        }
    }
    mounts.unique("mountPath", errors);
    for mount in mounts.items() {
        let propagation = ["Bidirectional", "HostToContainer", "None"];
        mount.field("mountPropagation").one_of(&propagation, errors);
        if !mount.field("subPath").is_empty() && !mount.field("subPathExpr").is_empty() {
            mount
                .field("subPathExpr")
                .invalid("subPathExpr and subPath are mutually exclusive", errors);
        }
    }
    devices(container, volumes, errors);
    security::container(&container.field("securityContext"), errors);
    for hook in ["postStart", "preStop"] {
        handler(&container.field("lifecycle").field(hook), errors);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        self::probe(&container.field(probe), probe, errors);
    }
}

fn environment(container: &Place<'_>, errors: &mut Errors) {
    for variable in container.field("env").items() {
        let name = variable.field("name");
        let printable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'=';
        if name.required(errors) && !name.text().bytes().all(printable) {
            name.invalid("a valid environment variable name must consist only of printable ASCII characters other than '='", errors);
        }
        let source = variable.field("valueFrom");
        if let Some(from) = source.value.as_object() {
            if !variable.field("value").is_empty() {
                source.invalid("may not be specified when `value` is not empty", errors);
            }
            if from.len() != 1 {
                source.invalid("must specify exactly one source", errors);
            }
            for (reference, needed) in [
                ("fieldRef", "fieldPath"),
                ("resourceFieldRef", "resource"),
                ("configMapKeyRef", "key"),
                ("secretKeyRef", "key"),
            ] {
                let reference = source.field(reference);
                if !reference.value.is_null() {
                    reference.field(needed).required(errors);
                }
            }
        }
    }
    for source in container.field("envFrom").items() {
        let given = ["configMapRef", "secretRef"].map(|name| source.field(name));
        match given.iter().filter(|reference| !reference.value.is_null()).count() {
            1 => {}
            0 => source.invalid("must specify one of: `configMapRef` or `secretRef`", errors),
            _ => source.invalid("may not have more than one field specified at a time", errors),
        }
        for reference in given.iter().filter(|reference| !reference.value.is_null()) {
            reference.field("name").required(errors);
        }
    }
}

/// What runs when a container starts or is about to end.
fn handler(hook: &Place<'_>, errors: &mut Errors) {
    if hook.value.is_null() {
        return;
    }
    let kinds = ["exec", "httpGet", "sleep", "tcpSocket"];
    match kinds.iter().filter(|kind| !hook.field(kind).value.is_null()).count() {
        1 => {}
        0 => errors.push(FieldError::required(&hook.path, "must specify a handler type")),
        _ => errors
            .push(FieldError::forbidden(&hook.path, "may not specify more than 1 handler type")),
    }
}

fn ports(container: &Place<'_>, errors: &mut Errors) {
    let ports = container.field("ports");
    for port in ports.items() {
        if port.field("containerPort").required(errors) {
            port.field("containerPort").port(errors);
        }
        if port.field("hostPort").value != &json!(0) {
            port.field("hostPort").port(errors);
        }
        port.field("protocol").one_of(&["SCTP", "TCP", "UDP"], errors);
        let name = port.field("name");
        let text = name.text();
        if !text.is_empty()
            && (!names::is_label(text)
                || text.len() > 15
                || !text.bytes().any(|b| b.is_ascii_lowercase()))
        {
            name.invalid("must be no more than 15 lower case alphanumeric characters or '-', with at least one letter", errors);
        }
    }
    ports.unique("name", errors);
}

fn resources(resources: &Place<'_>, errors: &mut Errors) {
    for (_, limit) in resources.field("limits").entries() {
        quantity(&limit, errors);
    }
    for side in ["requests", "limits"] {
        for (name, amount) in resources.field(side).entries() {
            if is_extended(name)
                && amount.text().parse::<Quantity>().is_ok_and(|amount| amount.milli() % 1000 != 0)
            {
                amount.invalid("must be an integer", errors);
            }
        }
    }
    for (name, request) in resources.field("requests").entries() {
        let wanted = quantity(&request, errors);
        let limit: Option<Quantity> = resources.value.text(&["limits", name]).parse().ok();
        if is_extended(name) || name.starts_with("hugepages-") {
            let limits = resources.field("limits");
            match (wanted, limit) {
                (Some(_), None) => {
                    let why = "Limit must be set for non overcommitable resources";
                    errors.push(FieldError::required(&limits.field(name).path, why));
                }
                (Some(wanted), Some(limit)) if wanted != limit => {
                    request.invalid(format!("must be equal to {name} limit of {limit}"), errors);
                }
                _ => {}
            }
            continue;
        }
        if let (Some(wanted), Some(limit)) = (wanted, limit)
            && wanted > limit
        {
            request
                .invalid(format!("must be less than or equal to {name} limit of {limit}"), errors);
        }
    }
}

/// What only some nodes have, in whole pieces, and is not shared: devices.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"))
}

/// Resources of the pod as a whole: at least what its containers ask for, and no container may use more.
fn whole(spec: &Place<'_>, errors: &mut Errors) {
    let place = spec.field("resources");
    if place.value.is_null() {
        return;
    }
    resources(&place, errors);
    if !place.field("claims").is_empty() {
        let why = "claims may not be set for Resources at pod-level";
        errors.push(FieldError::forbidden(&place.field("claims").path, why));
    }
    let asked = crate::usage::of_containers(spec.value, "requests");
    for side in ["requests", "limits"] {
        for (name, amount) in place.field(side).entries() {
            if !["cpu", "memory"].contains(&name.as_str()) && !name.starts_with("hugepages-") {
                amount.invalid("only cpu, memory and huge pages can be set for a pod", errors);
            }
            let Ok(given) = amount.text().parse::<Quantity>() else { continue };
            if side == "requests" {
                if let Some(sum) = asked.get(name).filter(|sum| **sum > given) {
                    let why = "must be greater than or equal to aggregate container requests of";
                    amount.invalid(format!("{why} {sum}"), errors);
                }
                continue;
            }
            for container in spec.field("containers").items() {
                let limit = container.field("resources").field("limits").field(name);
                if limit.text().parse::<Quantity>().is_ok_and(|limit| limit > given) {
                    limit.invalid(
                        format!("must be less than or equal to pod limits of {given}"),
                        errors,
                    );
                }
            }
        }
    }
}

/// Devices are volumes that are not mounted.
fn devices(container: &Place<'_>, volumes: &[&str], errors: &mut Errors) {
    let devices = container.field("volumeDevices");
    let mounts = container.field("volumeMounts");
    for device in devices.items() {
        let (name, path) = (device.field("name"), device.field("devicePath"));
        if name.required(errors) && !volumes.contains(&name.text()) {
            errors.push(FieldError::not_found(&name.path, name.value));
        }
        if mounts.items().any(|mount| mount.field("name").text() == name.text()) {
            name.invalid("must not already exist in volumeMounts", errors);
        }
        if path.required(errors) {
            if path.text().split('/').any(|part| part == "..") {
                path.invalid("must not contain '..'", errors);
            }
            if mounts.items().any(|it| it.field("mountPath").text() == path.text()) {
                path.invalid("must not already exist as a path in volumeMounts", errors);
            }
        }
    }
    devices.unique("devicePath", errors);
    devices.unique("name", errors);
}

fn probe(probe: &Place<'_>, name: &str, errors: &mut Errors) {
    if probe.value.is_null() {
        return;
    }
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    let given = handlers.iter().filter(|handler| !probe.field(handler).value.is_null()).count();
    match given {
        0 => errors.push(FieldError::required(&probe.path, "must specify a handler type")),
        1 => {}
        _ => errors
            .push(FieldError::forbidden(&probe.path, "may not specify more than 1 handler type")),
    }
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "failureThreshold"] {
        probe.field(field).not_negative(errors);
    }
    let threshold = probe.field("successThreshold");
    if name != "readinessProbe" && threshold.value.as_i64().is_some_and(|count| count != 1) {
        threshold.invalid("must be 1", errors);
    }
    for handler in ["httpGet", "tcpSocket", "grpc"] {
        let handler = probe.field(handler);
        if !handler.value.is_null() && handler.field("port").required(errors) {
            handler.field("port").port(errors);
        }
    }
    if !probe.field("exec").value.is_null() {
        probe.field("exec").field("command").required(errors);
    }
}

/// What remains of a pod's spec when everything that may change is taken away.
fn fixed(spec: Option<&Value>, old: &Value) -> Value {
    let mut spec = spec.cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.unset(&[field]);
    }
    if old.integer(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0) {
        spec.unset(&["terminationGracePeriodSeconds"]);
    }
    for field in ["initContainers", "containers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            container.unset(&["image"]);
        }
    }
    spec
}

pub(crate) fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let before = old.get("spec").unwrap_or(&Value::Null);
    if fixed(object.get("spec"), before) != fixed(Some(before), before) {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
             additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
             set to 1 if it was previously negative)",
        ));
    }
    let had = old.list(&["spec", "schedulingGates"]);
    if object.list(&["spec", "schedulingGates"]).iter().any(|gate| !had.contains(gate)) {
        let why = "only deletion is allowed, but found new scheduling gate";
        errors.push(FieldError::forbidden("spec.schedulingGates", why));
    }
    let new = object.list(&["spec", "tolerations"]);
    if !old.list(&["spec", "tolerations"]).iter().all(|toleration| {
        new.iter().any(|kept| {
            kept.text(&["key"]) == toleration.text(&["key"])
                && kept.text(&["effect"]) == toleration.text(&["effect"])
        })
    }) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod: Value) -> String {
        let resource = crate::find("", "v1", "pods").unwrap();
        let mut pod = pod;
        pod["metadata"] = json!({"name": "p", "namespace": "default"});
        crate::default(resource, &mut pod);
        let errors = crate::validate(resource, &pod);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn accepts_an_ordinary_pod() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "env": [{"name": "A.b-c"}]}]}});
        assert_eq!(check(pod), "");
    }

    #[test]
    fn names_every_mistake_with_its_path() {
        let found = check(json!({"spec": {"restartPolicy": "Maybe", "containers": [
            {"name": "A", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
             "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            {"name": "b", "ports": [{"containerPort": 99999}], "livenessProbe": {}}]}}));
        for part in [
            "spec.restartPolicy: Unsupported value: \"Maybe\"",
            "spec.containers[0].name: Invalid value: \"A\"",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[1].image: Required value",
            "spec.containers[1].ports[0].containerPort: Invalid value: 99999",
            "spec.containers[1].livenessProbe: Required value: must specify a handler type",
        ] {
            assert!(found.contains(part), "{part}\n{found}");
        }
        assert!(check(json!({"spec": {}})).contains("spec.containers: Required value"));
    }

    #[test]
    fn devices_are_whole_and_not_mounted() {
        let made = |container: Value| {
            let mut container = container;
            container["name"] = "a".into();
            container["image"] = "x".into();
            check(json!({"spec": {"containers": [container],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]}}))
        };
        let resources = |requests: Value, limits: Value| {
            made(json!({"resources": {"requests": requests, "limits": limits}}))
        };
        let widgets = |count: &str| json!({"example.com/widget": count});
        assert_eq!(resources(widgets("2"), widgets("2")), "");
        for (requests, limits, part) in [
            (widgets("1"), widgets("2"), "must be equal to example.com/widget limit of 2"),
            (widgets("1"), json!({}), "Limit must be set for non overcommitable resources"),
            (widgets("500m"), widgets("500m"), "must be an integer"),
            (
                json!({"hugepages-2Mi": "2Mi"}),
                json!({"hugepages-2Mi": "4Mi"}),
                "must be equal to hugepages-2Mi",
            ),
        ] {
            let found = resources(requests, limits);
            assert!(found.contains(part), "{part}: {found}");
        }
        let device = |name: &str, path: &str| json!({"name": name, "devicePath": path});
        assert_eq!(made(json!({"volumeDevices": [device("v", "/dev/it")]})), "");
        for (devices, mounts, part) in [
            (json!([device("w", "/dev/it")]), json!([]), "volumeDevices[0].name: Not found"),
            (json!([device("v", "")]), json!([]), "volumeDevices[0].devicePath: Required"),
            (json!([device("v", "/dev/../x")]), json!([]), "must not contain '..'"),
            (json!([device("v", "/dev/a"), device("v", "/dev/b")]), json!([]), "Duplicate"),
            (
                json!([device("v", "/it")]),
                json!([{"name": "v", "mountPath": "/x"}]),
                "already exist in volumeMounts",
            ),
            (
                json!([device("v", "/it")]),
                json!([{"name": "w", "mountPath": "/it"}]),
                "already exist as a path",
            ),
        ] {
            let found = made(json!({"volumeDevices": devices, "volumeMounts": mounts}));
            assert!(found.contains(part), "{part}: {found}");
        }
    }

    #[test]
    fn a_pod_has_at_least_what_its_containers_have() {
        let made = |whole: Value, limit: &str| {
            check(json!({"spec": {"resources": whole, "containers": [
                {"name": "a", "image": "x", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": limit}}},
                {"name": "b", "image": "x", "resources": {"requests": {"cpu": "500m"}}},
            ]}}))
        };
        assert_eq!(made(json!({"requests": {"cpu": "1500m"}, "limits": {"cpu": "2"}}), "2"), "");
        for (whole, part) in [
            (
                json!({"requests": {"cpu": "1"}}),
                "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 1500m",
            ),
            (
                json!({"limits": {"cpu": "1500m"}}),
                "spec.containers[0].resources.limits.cpu: Invalid value: \"2\": must be less than or equal to pod limits of 1500m",
            ),
            (
                json!({"requests": {"cpu": "3"}, "limits": {"cpu": "2"}}),
                "must be less than or equal to cpu limit of 2",
            ),
            (json!({"limits": {"ephemeral-storage": "1Gi"}}), "only cpu, memory and huge pages"),
            (json!({"claims": [{"name": "x"}]}), "spec.resources.claims: Forbidden"),
            (json!({"limits": {"cpu": "-1"}}), "must be greater than or equal to 0"),
        ] {
            let found = made(whole.clone(), "2");
            assert!(found.contains(part), "{whole}: {found}");
        }
    }

    #[test]
    fn only_little_of_a_pod_may_change() {
        let old = json!({"spec": {"containers": [{"name": "a", "image": "x"}], "nodeName": "n"}});
        let mut errors = Errors::new();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("y");
        update(&new, &old, &mut errors);
        assert!(errors.is_empty());
        new["spec"]["nodeName"] = json!("m");
        update(&new, &old, &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
