//! One case for each thing a pod's specification can say.

#![expect(clippy::too_many_lines, reason = "tables of cases")]

use serde_json::{Value, json};

/// What a pod must come to.
pub enum Expect {
    /// This line of its shell prints exactly this, and the pod succeeds.
    Says(&'static str, &'static str),
    /// This line of its shell prints all of these, and the pod succeeds.
    Has(&'static str, &'static [&'static str]),
    /// Its object has these values.
    Becomes(Vec<(&'static str, Value)>),
    /// It does not run, and says why.
    Refused(&'static str),
    /// It is not placed, and says why.
    Waits(&'static str),
    /// The API does not take it, and says why.
    Rejected(&'static str),
    /// Tests in this file hold it.
    Held(&'static str),
    /// It has no effect, for this reason.
    Nothing(&'static str),
}

/// A case.
pub struct Case {
    /// Name of the pod; empty where there is none.
    pub name: &'static str,
    /// The fields it shows, as `Type.field`, with a value after `=` where only that is meant.
    pub fields: &'static [&'static str],
    /// What comes of it.
    pub expect: Expect,
    /// What is added to the plain pod; `main` is its container, `metadata` the pod's, all else its specification.
    pub patch: Value,
}

impl Case {
    /// Whether a pod is made for it.
    pub fn is_run(&self) -> bool {
        !matches!(self.expect, Expect::Rejected(_) | Expect::Held(_) | Expect::Nothing(_))
    }
}

type Fields = &'static [&'static str];

fn says(
    name: &'static str,
    fields: Fields,
    patch: Value,
    line: &'static str,
    wanted: &'static str,
) -> Case {
    Case { name, fields, expect: Expect::Says(line, wanted), patch }
}

fn has(
    name: &'static str,
    fields: Fields,
    patch: Value,
    line: &'static str,
    wanted: &'static [&'static str],
) -> Case {
    Case { name, fields, expect: Expect::Has(line, wanted), patch }
}

fn refused(name: &'static str, fields: Fields, patch: Value, why: &'static str) -> Case {
    Case { name, fields, expect: Expect::Refused(why), patch }
}

fn rejected(name: &'static str, fields: Fields, patch: Value, why: &'static str) -> Case {
    Case { name, fields, expect: Expect::Rejected(why), patch }
}

fn waits(name: &'static str, fields: Fields, patch: Value, why: &'static str) -> Case {
    Case { name, fields, expect: Expect::Waits(why), patch }
}

fn held(place: &'static str, fields: Fields) -> Case {
    Case { name: "", fields, expect: Expect::Held(place), patch: Value::Null }
}

fn nothing(why: &'static str, fields: Fields) -> Case {
    Case { name: "", fields, expect: Expect::Nothing(why), patch: Value::Null }
}

/// A volume and where it is mounted.
fn mounted(volume: Value, mount: Value) -> Value {
    let (mut volume, mut place) = (volume, json!({"name": "it", "mountPath": "/it"}));
    volume["name"] = "it".into();
    place.as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
    json!({"volumes": [volume], "main": {"volumeMounts": [place]}})
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut all = pod();
    all.extend(names());
    all.extend(placing());
    all.extend(containers());
    all.extend(security());
    all.extend(variables());
    all.extend(volumes());
    all.extend(elsewhere());
    all
}

fn pod() -> Vec<Case> {
    let side = |line: &str| json!({"name": "side", "image": "busybox", "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", line]});
    let init = |line: &str| {
        let mut init = side(line);
        init["volumeMounts"] = json!([{"name": "it", "mountPath": "/it"}]);
        init
    };
    let mut sidecar = init("echo begun > /it/a; sleep 600");
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/it/a"]}, "periodSeconds": 1});
    let with = |init: Value| {
        let mut patch = mounted(json!({"emptyDir": {}}), json!({}));
        patch["initContainers"] = json!([init]);
        patch
    };
    vec![
        says(
            "plain",
            &[
                "PodSpec.containers",
                "PodSpec.restartPolicy=Never",
                "Container.name",
                "Container.image",
                "Container.command",
            ],
            json!({}),
            "echo there",
            "there\n",
        ),
        says(
            "prepared",
            &["PodSpec.initContainers"],
            with(init("echo ready > /it/a")),
            "cat /it/a",
            "ready\n",
        ),
        says(
            "accompanied",
            &["PodSpec.initContainers", "Container.restartPolicy"],
            with(sidecar),
            "cat /it/a",
            "begun\n",
        ),
        Case {
            name: "prepared-badly",
            fields: &["PodSpec.initContainers"],
            patch: with(init("exit 3")),
            expect: Expect::Becomes(vec![
                ("/status/phase", json!("Failed")),
                ("/status/initContainerStatuses/0/state/terminated/exitCode", json!(3)),
                ("/status/containerStatuses/0/state/waiting/reason", json!("PodInitializing")),
            ]),
        },
        Case {
            name: "tried-again",
            fields: &["PodSpec.restartPolicy=OnFailure"],
            patch: json!({"restartPolicy": "OnFailure",
                "main": {"command": ["sh", "-c", "[ $(cat /it/n | wc -l) = 2 ] || { echo x >> /it/n; exit 1; }"], "volumeMounts": [{"name": "it", "mountPath": "/it"}]},
                "volumes": [{"name": "it", "emptyDir": {}}]}),
            expect: Expect::Becomes(vec![
                ("/status/phase", json!("Succeeded")),
                ("/status/containerStatuses/0/restartCount", json!(2)),
            ]),
        },
        Case {
            name: "by-rule",
            fields: &["Container.restartPolicyRules", "Container.restartPolicy"],
            patch: json!({
                "main": {"command": ["sh", "-c", "[ -e /it/n ] || { touch /it/n; exit 42; }; exit 7"], "restartPolicy": "Never",
                    "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
                    "volumeMounts": [{"name": "it", "mountPath": "/it"}]},
                "volumes": [{"name": "it", "emptyDir": {}}]}),
            expect: Expect::Becomes(vec![
                ("/status/phase", json!("Failed")),
                ("/status/containerStatuses/0/restartCount", json!(1)),
                ("/status/containerStatuses/0/state/terminated/exitCode", json!(7)),
            ]),
        },
        Case {
            name: "too-long",
            fields: &["PodSpec.activeDeadlineSeconds"],
            patch: json!({"activeDeadlineSeconds": 1, "main": {"command": ["sleep", "600"]}}),
            expect: Expect::Becomes(vec![("/status/reason", json!("DeadlineExceeded"))]),
        },
        says(
            "own-network",
            &["PodSpec.hostNetwork=false"],
            json!({}),
            "ls /sys/class/net | grep -v -e lo -e eth0; true",
            "",
        ),
        has(
            "host-network",
            &["PodSpec.hostNetwork"],
            json!({"hostNetwork": true}),
            "ls /proc/sys/net/ipv4/conf",
            &["btfields"],
        ),
        has(
            "host-processes",
            &["PodSpec.hostPID"],
            json!({"hostPID": true}),
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '",
            &["serve --listen"],
        ),
        has(
            "host-memory",
            &["PodSpec.hostIPC"],
            json!({"hostIPC": true}),
            "grep -c 'shm.*fields/pods' /proc/self/mountinfo || echo of-host",
            &["of-host"],
        ),
        says(
            "own-users",
            &["PodSpec.hostUsers"],
            json!({"hostUsers": false}),
            "[ $(awk '{print $2}' /proc/self/uid_map) -gt 0 ] && echo apart",
            "apart\n",
        ),
        says(
            "host-users",
            &["PodSpec.hostUsers=true"],
            json!({"hostUsers": true}),
            "awk '{print $2}' /proc/self/uid_map",
            "0\n",
        ),
        says(
            "together",
            &["PodSpec.shareProcessNamespace"],
            json!({"shareProcessNamespace": true, "initContainers": [{
                "name": "side", "image": "busybox", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always", "command": ["sleep", "4321"]}]}),
            "tr '\\0' ' ' < /proc/1/cmdline | grep -c pause; until cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'sleep 4321'; do :; done; echo seen",
            "1\nseen\n",
        ),
        refused(
            "windows",
            &["PodSpec.os"],
            json!({"os": {"name": "windows"}}),
            "spec.os.name: `windows` does not run",
        ),
        says("linux", &["PodSpec.os"], json!({"os": {"name": "linux"}}), "echo there", "there\n"),
        Case {
            name: "classed",
            fields: &["PodSpec.runtimeClassName", "PodSpec.overhead"],
            patch: json!({"runtimeClassName": "usual"}),
            expect: Expect::Becomes(vec![
                ("/status/phase", json!("Succeeded")),
                ("/spec/overhead/memory", json!("8Mi")),
            ]),
        },
        refused(
            "strangely-classed",
            &["PodSpec.runtimeClassName"],
            json!({"runtimeClassName": "strange"}),
            "no runtime for \"strange\" is configured",
        ),
        rejected(
            "unclassed",
            &["PodSpec.runtimeClassName"],
            json!({"runtimeClassName": "none"}),
            "RuntimeClass \"none\" not found",
        ),
        refused(
            "claiming",
            &["PodSpec.resourceClaims", "ResourceRequirements.claims"],
            json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}]}),
            "spec.resourceClaims is not supported",
        ),
    ]
}

fn names() -> Vec<Case> {
    vec![
        says(
            "named-so",
            &["PodSpec.hostname"],
            json!({"hostname": "other"}),
            "hostname",
            "other\n",
        ),
        says(
            "named-whole",
            &["PodSpec.subdomain", "PodSpec.setHostnameAsFQDN"],
            json!({"hostname": "a", "subdomain": "crew", "setHostnameAsFQDN": true}),
            "hostname",
            "a.crew.fields.svc.cluster.local\n",
        ),
        says(
            "named-freely",
            &["PodSpec.hostnameOverride"],
            json!({"hostnameOverride": "any.example.com"}),
            "hostname",
            "any.example.com\n",
        ),
        has(
            "aliased",
            &["PodSpec.hostAliases"],
            json!({"hostAliases": [{"ip": "10.9.8.7", "hostnames": ["one.example", "two.example"]}]}),
            "cat /etc/hosts",
            &["10.9.8.7\tone.example\ttwo.example"],
        ),
        says(
            "own-dns",
            &[
                "PodSpec.dnsPolicy=None",
                "PodSpec.dnsConfig",
                "PodDNSConfig.nameservers",
                "PodDNSConfig.searches",
                "PodDNSConfig.options",
            ],
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a.example"], "options": [{"name": "ndots", "value": "2"}]}}),
            "cat /etc/resolv.conf",
            "nameserver 192.0.2.1\nsearch a.example\noptions ndots:2\n",
        ),
        has(
            "cluster-dns",
            &["PodSpec.dnsPolicy=ClusterFirst"],
            json!({}),
            "cat /etc/resolv.conf; nslookup kubernetes.default.svc.cluster.local | grep -c Address",
            &["search fields.svc.cluster.local svc.cluster.local cluster.local", "ndots:5"],
        ),
        has(
            "node-dns",
            &["PodSpec.dnsPolicy=Default"],
            json!({"dnsPolicy": "Default"}),
            "grep -c cluster.local /etc/resolv.conf || echo plain",
            &["plain"],
        ),
        has("linked", &["PodSpec.enableServiceLinks"], json!({}), "env", &["SHOP_SERVICE_PORT=80"]),
        says(
            "unlinked",
            &["PodSpec.enableServiceLinks"],
            json!({"enableServiceLinks": false}),
            "env | grep -c SHOP; true",
            "0\n",
        ),
        has(
            "accounted",
            &["PodSpec.serviceAccountName", "PodSpec.automountServiceAccountToken"],
            json!({"serviceAccountName": "clerk", "automountServiceAccountToken": true}),
            "cut -d. -f2 /var/run/secrets/kubernetes.io/serviceaccount/token | tr -d '\\n' | sed 's/$/==/' | base64 -d 2>/dev/null; true",
            &["serviceaccount:fields:clerk"],
        ),
        says(
            "unaccounted",
            &["PodSpec.automountServiceAccountToken"],
            json!({"automountServiceAccountToken": false}),
            "[ -e /var/run/secrets/kubernetes.io ] || echo none",
            "none\n",
        ),
        Case {
            name: "old-account",
            fields: &["PodSpec.serviceAccount"],
            patch: json!({"serviceAccount": "clerk"}),
            expect: Expect::Becomes(vec![("/spec/serviceAccountName", json!("clerk"))]),
        },
    ]
}

fn placing() -> Vec<Case> {
    vec![
        waits(
            "selective",
            &["PodSpec.nodeSelector"],
            json!({"nodeSelector": {"disk": "none"}}),
            "Unschedulable",
        ),
        waits(
            "choosy",
            &["PodSpec.affinity"],
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}}}),
            "Unschedulable",
        ),
        waits(
            "held-back",
            &["PodSpec.schedulingGates"],
            json!({"schedulingGates": [{"name": "example.com/wait"}]}),
            "SchedulingGated",
        ),
        waits(
            "of-others",
            &["PodSpec.schedulerName"],
            json!({"schedulerName": "other"}),
            "Pending",
        ),
        waits(
            "too-large",
            &["ResourceRequirements.requests"],
            json!({"main": {"resources": {"requests": {"cpu": "4000"}}}}),
            "Unschedulable",
        ),
        says("placed", &["PodSpec.nodeName"], json!({"nodeName": "node"}), "echo there", "there\n"),
        Case {
            name: "urgent",
            fields: &["PodSpec.priorityClassName", "PodSpec.priority", "PodSpec.preemptionPolicy"],
            patch: json!({"priorityClassName": "urgent"}),
            expect: Expect::Becomes(vec![
                ("/spec/priority", json!(1000)),
                ("/spec/preemptionPolicy", json!("Never")),
                ("/status/phase", json!("Succeeded")),
            ]),
        },
        rejected(
            "too-important",
            &["PodSpec.priority"],
            json!({"priority": 5}),
            "must not be provided",
        ),
    ]
}

fn containers() -> Vec<Case> {
    vec![
        says(
            "argued",
            &["Container.args"],
            json!({"main": {"command": ["echo"], "args": ["$(WHO)", "$$(WHO)"], "env": [{"name": "WHO", "value": "me"}]}}),
            "",
            "me $(WHO)\n",
        ),
        says(
            "elsewhere",
            &["Container.workingDir"],
            json!({"main": {"workingDir": "/new/place"}}),
            "pwd",
            "/new/place\n",
        ),
        refused(
            "in-proc",
            &["Container.workingDir"],
            json!({"main": {"workingDir": "/proc/self/fd"}}),
            "lies below /proc",
        ),
        refused(
            "never-pulled",
            &["Container.imagePullPolicy=Never"],
            json!({"main": {"image": "none:1", "imagePullPolicy": "Never"}}),
            "ErrImageNeverPull",
        ),
        refused(
            "unreachable",
            &["Container.imagePullPolicy=Always", "PodSpec.imagePullSecrets"],
            json!({"main": {"image": "127.0.0.1:9/none:1"}, "imagePullSecrets": [{"name": "nothing"}]}),
            "Unable to retrieve some image pull secrets",
        ),
        refused(
            "misnamed",
            &["Container.image"],
            json!({"main": {"image": "NOT a name"}}),
            "InvalidImageName",
        ),
        says(
            "with-terminal",
            &["Container.tty", "Container.stdin"],
            json!({"main": {"tty": true, "stdin": true}}),
            "tty",
            "/dev/pts/0\r\n",
        ),
        Case {
            name: "last-words",
            fields: &["Container.terminationMessagePath", "Container.terminationMessagePolicy"],
            patch: json!({"main": {"command": ["sh", "-c", "echo bye > /tmp/end"], "terminationMessagePath": "/tmp/end", "terminationMessagePolicy": "File"}}),
            expect: Expect::Becomes(vec![(
                "/status/containerStatuses/0/state/terminated/message",
                json!("bye\n"),
            )]),
        },
        Case {
            name: "out-of-memory",
            fields: &["ResourceRequirements.limits"],
            patch: json!({"main": {"command": ["sh", "-c", "tail /dev/zero"], "resources": {"limits": {"memory": "16Mi", "cpu": "500m"}}}}),
            expect: Expect::Becomes(vec![(
                "/status/containerStatuses/0/state/terminated/reason",
                json!("OOMKilled"),
            )]),
        },
        refused(
            "all-again",
            &["Container.restartPolicyRules=RestartAllContainers"],
            json!({"main": {"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]}}),
            "restartPolicyRules.action: RestartAllContainers",
        ),
    ]
}

fn security() -> Vec<Case> {
    let pod = |context: Value| json!({"securityContext": context});
    let main = |context: Value| json!({"main": {"securityContext": context}});
    let status = |word: &str| -> &'static str {
        Box::leak(format!("awk '/^{word}:/ {{print $2}}' /proc/self/status").into_boxed_str())
    };
    vec![
        says(
            "somebody",
            &[
                "PodSpec.securityContext",
                "PodSecurityContext.runAsUser",
                "PodSecurityContext.runAsGroup",
                "PodSecurityContext.supplementalGroups",
                "PodSecurityContext.fsGroup",
            ],
            pod(
                json!({"runAsUser": 1000, "runAsGroup": 1001, "supplementalGroups": [7], "fsGroup": 9}),
            ),
            "id -u; id -g; id -G",
            "1000\n1001\n1001 7 9\n",
        ),
        says(
            "strictly",
            &["PodSecurityContext.supplementalGroupsPolicy"],
            pod(
                json!({"runAsUser": 0, "supplementalGroups": [77], "supplementalGroupsPolicy": "Strict"}),
            ),
            "id -G",
            "0 77\n",
        ),
        says(
            "another",
            &["SecurityContext.runAsUser", "SecurityContext.runAsGroup"],
            main(json!({"runAsUser": 5, "runAsGroup": 6})),
            "id -u; id -g",
            "5\n6\n",
        ),
        refused(
            "not-root",
            &["PodSecurityContext.runAsNonRoot"],
            pod(json!({"runAsNonRoot": true})),
            "runAsNonRoot",
        ),
        refused(
            "not-root-either",
            &["SecurityContext.runAsNonRoot"],
            main(json!({"runAsNonRoot": true, "runAsUser": 0})),
            "runAsNonRoot",
        ),
        says(
            "grouped",
            &["PodSecurityContext.fsGroup", "PodSecurityContext.fsGroupChangePolicy"],
            {
                let mut patch = mounted(json!({"emptyDir": {}}), json!({}));
                patch["securityContext"] = json!({"runAsUser": 1000, "fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch"});
                patch
            },
            "touch /it/a; stat -c %g /it/a",
            "2000\n",
        ),
        says(
            "tuned",
            &["PodSecurityContext.sysctls"],
            pod(
                json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}),
            ),
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
            "80\n",
        ),
        refused(
            "mistuned",
            &["PodSecurityContext.sysctls"],
            pod(json!({"sysctls": [{"name": "kernel.core_pattern", "value": "x"}]})),
            "`kernel.core_pattern` is not the pod's own",
        ),
        says(
            "filtered",
            &["PodSecurityContext.seccompProfile", "SecurityContext.seccompProfile=RuntimeDefault"],
            pod(json!({"seccompProfile": {"type": "RuntimeDefault"}})),
            status("Seccomp"),
            "2\n",
        ),
        says(
            "unfiltered",
            &["SecurityContext.seccompProfile=Unconfined"],
            main(json!({"seccompProfile": {"type": "Unconfined"}})),
            status("Seccomp"),
            "0\n",
        ),
        says(
            "filtered-so",
            &["SecurityContext.seccompProfile=Localhost"],
            main(
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "no-mkdir.json"}}),
            ),
            "mkdir /new 2>/dev/null || echo no",
            "no\n",
        ),
        refused(
            "filtered-by-nothing",
            &["SecurityContext.seccompProfile=Localhost"],
            main(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}})),
            "cannot use the seccomp profile `none.json`",
        ),
        says(
            "escalating",
            &["Container.securityContext", "SecurityContext.allowPrivilegeEscalation"],
            main(json!({"allowPrivilegeEscalation": true})),
            status("NoNewPrivs"),
            "0\n",
        ),
        says(
            "not-escalating",
            &["SecurityContext.allowPrivilegeEscalation"],
            main(json!({"allowPrivilegeEscalation": false})),
            status("NoNewPrivs"),
            "1\n",
        ),
        says(
            "powerless",
            &["SecurityContext.capabilities", "Capabilities.drop", "Capabilities.add"],
            main(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}})),
            status("CapEff"),
            "0000000000000400\n",
        ),
        has(
            "mighty",
            &["SecurityContext.privileged"],
            main(json!({"privileged": true})),
            "ls /dev | wc -l; awk '/^CapEff/ {print $2}' /proc/self/status",
            &["000001ff"],
        ),
        says(
            "unwritable",
            &["SecurityContext.readOnlyRootFilesystem"],
            main(json!({"readOnlyRootFilesystem": true})),
            "touch /a 2>/dev/null || echo no; for f in hosts hostname resolv.conf; do echo >> /etc/$f; done 2>/dev/null || echo no",
            "no\nno\n",
        ),
        says(
            "unmasked",
            &["SecurityContext.procMount"],
            {
                let mut patch = main(json!({"procMount": "Unmasked"}));
                patch["hostUsers"] = false.into();
                patch
            },
            "grep -c ' /proc/' /proc/self/mountinfo; true",
            "0\n",
        ),
        refused(
            "confined",
            &["PodSecurityContext.appArmorProfile=Localhost without AppArmor in the kernel"],
            pod(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
            "AppArmor is not enabled on the host",
        ),
        refused(
            "confined-so",
            &["SecurityContext.appArmorProfile=Localhost without AppArmor in the kernel"],
            main(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
            "AppArmor is not enabled on the host",
        ),
        refused(
            "confined-as-usual",
            &["PodSecurityContext.appArmorProfile=RuntimeDefault without AppArmor in the kernel"],
            pod(json!({"appArmorProfile": {"type": "RuntimeDefault"}})),
            "AppArmor is not enabled on the host",
        ),
        says(
            "unconfined-so",
            &[
                "PodSecurityContext.appArmorProfile=Unconfined",
                "SecurityContext.appArmorProfile=Unconfined",
            ],
            pod(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "echo there",
            "there\n",
        ),
        refused(
            "labelled",
            &["PodSecurityContext.seLinuxOptions=without SELinux in the kernel"],
            pod(json!({"seLinuxOptions": {"level": "s0:c1,c2"}})),
            "SELinux is not enabled on the host",
        ),
        refused(
            "labelled-so",
            &["SecurityContext.seLinuxOptions=without SELinux in the kernel"],
            main(json!({"seLinuxOptions": {"level": "s0:c1,c2"}})),
            "SELinux is not enabled on the host",
        ),
        says(
            "relabelled",
            &["PodSecurityContext.seLinuxChangePolicy"],
            pod(json!({"seLinuxChangePolicy": "Recursive"})),
            "echo there",
            "there\n",
        ),
    ]
}

fn variables() -> Vec<Case> {
    let env = |entry: Value| json!({"main": {"env": [entry]}});
    let from = |source: Value| env(json!({"name": "V", "valueFrom": source}));
    let file = |selector: Value| {
        let mut patch = from(json!({"fileKeyRef": selector}));
        patch["volumes"] = json!([{"name": "it", "emptyDir": {}}]);
        patch["initContainers"] = json!([{"name": "side", "image": "busybox", "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo \"PORT='5432'\" > /it/env"], "volumeMounts": [{"name": "it", "mountPath": "/it"}]}]);
        patch
    };
    vec![
        says(
            "told",
            &["Container.env"],
            json!({"main": {"env": [{"name": "A", "value": "1"}, {"name": "V", "value": "$(A)$(NONE)"}]}}),
            "echo $V",
            "1$(NONE)\n",
        ),
        says(
            "told-by-map",
            &["EnvVarSource.configMapKeyRef"],
            from(json!({"configMapKeyRef": {"name": "settings", "key": "level"}})),
            "echo $V",
            "high\n",
        ),
        refused(
            "told-by-none",
            &["EnvVarSource.configMapKeyRef"],
            from(json!({"configMapKeyRef": {"name": "settings", "key": "none"}})),
            "has no key `none`",
        ),
        says(
            "told-by-secret",
            &["EnvVarSource.secretKeyRef"],
            from(json!({"secretKeyRef": {"name": "key", "key": "password"}})),
            "echo $V",
            "hidden\n",
        ),
        says(
            "told-by-field",
            &["EnvVarSource.fieldRef"],
            from(json!({"fieldRef": {"fieldPath": "metadata.name"}})),
            "echo $V",
            "told-by-field\n",
        ),
        says(
            "told-by-resource",
            &["EnvVarSource.resourceFieldRef"],
            json!({"main": {"resources": {"limits": {"cpu": "1500m"}},
            "env": [{"name": "V", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}]}}),
            "echo $V",
            "1500\n",
        ),
        says(
            "told-by-file",
            &["EnvVarSource.fileKeyRef"],
            file(json!({"volumeName": "it", "path": "env", "key": "PORT"})),
            "echo $V",
            "5432\n",
        ),
        refused(
            "told-by-no-file",
            &["EnvVarSource.fileKeyRef"],
            file(json!({"volumeName": "it", "path": "other", "key": "PORT"})),
            "`other` of volume `it` is not there",
        ),
        has(
            "told-all",
            &[
                "Container.envFrom",
                "EnvFromSource.configMapRef",
                "EnvFromSource.secretRef",
                "EnvFromSource.prefix",
            ],
            json!({"main": {"envFrom": [{"prefix": "X_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "key"}}]}}),
            "env",
            &["X_MODE=fast", "password=hidden"],
        ),
        refused(
            "told-by-nobody",
            &["EnvFromSource.configMapRef"],
            json!({"main": {"envFrom": [{"configMapRef": {"name": "none"}}]}}),
            "none",
        ),
    ]
}

fn volumes() -> Vec<Case> {
    let plain = |volume: Value| mounted(volume, json!({}));
    let mut all = vec![
        says(
            "empty",
            &[
                "Volume.emptyDir",
                "Volume.name",
                "PodSpec.volumes",
                "Container.volumeMounts",
                "VolumeMount.name",
                "VolumeMount.mountPath",
            ],
            plain(json!({"emptyDir": {}})),
            "stat -c %a /it; touch /it/a && echo written",
            "777\nwritten\n",
        ),
        has(
            "in-memory",
            &["Volume.emptyDir"],
            plain(json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})),
            "grep ' /it ' /proc/self/mountinfo; head -c 2000000 /dev/zero > /it/a || echo full",
            &["tmpfs", "full"],
        ),
        says(
            "of-host",
            &["Volume.hostPath"],
            plain(json!({"hostPath": {"path": "/proc/version", "type": "File"}})),
            "cmp /it /proc/version && echo same",
            "same\n",
        ),
        refused(
            "of-no-host",
            &["Volume.hostPath"],
            plain(json!({"hostPath": {"path": "/proc/version", "type": "Socket"}})),
            "is not a socket",
        ),
        says(
            "of-map",
            &["Volume.configMap"],
            plain(
                json!({"configMap": {"name": "settings", "items": [{"key": "level", "path": "a/b"}]}}),
            ),
            "cat /it/a/b",
            "high",
        ),
        says(
            "of-secret",
            &["Volume.secret"],
            plain(json!({"secret": {"secretName": "key", "defaultMode": 256}})),
            "cat /it/password; stat -Lc %a /it/password",
            "hidden400\n",
        ),
        refused(
            "of-no-secret",
            &["Volume.secret"],
            plain(json!({"secret": {"secretName": "none"}})),
            "none",
        ),
        says(
            "of-fields",
            &["Volume.downwardAPI"],
            plain(
                json!({"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}),
            ),
            "cat /it/name",
            "of-fields",
        ),
        has(
            "of-many",
            &[
                "Volume.projected",
                "VolumeProjection.configMap",
                "VolumeProjection.secret",
                "VolumeProjection.downwardAPI",
                "VolumeProjection.serviceAccountToken",
            ],
            plain(
                json!({"projected": {"sources": [{"configMap": {"name": "settings"}}, {"secret": {"name": "key"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}, {"serviceAccountToken": {"path": "token"}}]}}),
            ),
            "ls /it",
            &["level", "password", "name", "token"],
        ),
        refused(
            "of-bundle",
            &["VolumeProjection.clusterTrustBundle"],
            plain(
                json!({"projected": {"sources": [{"clusterTrustBundle": {"name": "x", "path": "ca.pem"}}]}}),
            ),
            "does not support",
        ),
        says(
            "claimed",
            &["Volume.persistentVolumeClaim"],
            plain(json!({"persistentVolumeClaim": {"claimName": "claim"}})),
            "touch /it/a && echo written",
            "written\n",
        ),
        says(
            "own-claim",
            &["Volume.ephemeral"],
            plain(
                json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}}}}}}),
            ),
            "touch /it/a && echo written",
            "written\n",
        ),
        says(
            "of-image",
            &["Volume.image"],
            plain(json!({"image": {"reference": "busybox", "pullPolicy": "IfNotPresent"}})),
            "[ -e /it/bin/busybox ] && echo there; touch /it/a 2>/dev/null || echo no; /it/bin/busybox true 2>/dev/null || echo not-run; stat -c %u /it/bin",
            "there\nno\nnot-run\n0\n",
        ),
        refused(
            "of-no-image",
            &["Volume.image"],
            plain(json!({"image": {"reference": "none:1", "pullPolicy": "Never"}})),
            "ErrImageNeverPull",
        ),
        says(
            "part-of-image",
            &["Volume.image", "VolumeMount.subPath"],
            mounted(
                json!({"image": {"reference": "busybox", "pullPolicy": "IfNotPresent"}}),
                json!({"subPath": "bin"}),
            ),
            "[ -e /it/busybox ] && echo there",
            "there\n",
        ),
        says(
            "read-only",
            &["VolumeMount.readOnly", "VolumeMount.recursiveReadOnly"],
            mounted(
                json!({"emptyDir": {}}),
                json!({"readOnly": true, "recursiveReadOnly": "Enabled"}),
            ),
            "touch /it/a 2>/dev/null || echo no",
            "no\n",
        ),
        says(
            "part",
            &["VolumeMount.subPath"],
            mounted(json!({"configMap": {"name": "settings"}}), json!({"subPath": "level"})),
            "cat /it",
            "high",
        ),
        says(
            "part-by-name",
            &["VolumeMount.subPathExpr"],
            {
                let mut patch =
                    mounted(json!({"emptyDir": {}}), json!({"subPathExpr": "logs/$(ME)"}));
                patch["main"]["env"] = json!([{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
                patch["main"]["volumeMounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"name": "it", "mountPath": "/all"}));
                patch
            },
            "touch /it/a; find /all -type f",
            "/all/logs/part-by-name/a\n",
        ),
        has(
            "propagating",
            &["VolumeMount.mountPropagation"],
            mounted(
                json!({"hostPath": {"path": "@DATA@/shared", "type": "Directory"}}),
                json!({"mountPropagation": "HostToContainer"}),
            ),
            "until [ -e /it/late/a ]; do sleep 0.05; done; echo seen",
            &["seen"],
        ),
        refused(
            "propagating-back",
            &["VolumeMount.mountPropagation"],
            mounted(
                json!({"hostPath": {"path": "/tmp"}}),
                json!({"mountPropagation": "Bidirectional"}),
            ),
            "for privileged containers only",
        ),
    ];
    let nfs = |host: bool| {
        let volume = json!({"nfs": {"server": "192.0.2.1", "path": "/"}});
        let mut patch = mounted(volume, json!({}));
        patch["hostUsers"] = host.into();
        patch
    };
    all.push(refused(
        "of-nfs",
        &["Volume.nfs=without nfs-common on the node"],
        nfs(true),
        "install nfs-common",
    ));
    all.push(refused(
        "of-nfs-mapped",
        &["Volume.nfs=in a user namespace"],
        nfs(false),
        "say hostUsers: true",
    ));
    all.push(held("crates/node/agent/src/volume/nfs.rs", &["Volume.nfs"]));
    for (name, field, source) in [
        ("of-driver", &["Volume.csi"], json!({"csi": {"driver": "x.example"}})),
        (
            "of-iscsi",
            &["Volume.iscsi"],
            json!({"iscsi": {"targetPortal": "192.0.2.1", "iqn": "iqn.2000-01.example:x", "lun": 0}}),
        ),
        ("of-fibre", &["Volume.fc"], json!({"fc": {"targetWWNs": ["5000000000000001"], "lun": 0}})),
        ("of-ceph", &["Volume.cephfs"], json!({"cephfs": {"monitors": ["192.0.2.1"]}})),
        ("of-rbd", &["Volume.rbd"], json!({"rbd": {"monitors": ["192.0.2.1"], "image": "x"}})),
        ("of-git", &["Volume.gitRepo"], json!({"gitRepo": {"repository": "https://x.example"}})),
        ("of-flex", &["Volume.flexVolume"], json!({"flexVolume": {"driver": "example/x"}})),
        (
            "of-gluster",
            &["Volume.glusterfs"],
            json!({"glusterfs": {"endpoints": "x", "path": "y"}}),
        ),
        (
            "of-aws",
            &["Volume.awsElasticBlockStore"],
            json!({"awsElasticBlockStore": {"volumeID": "x"}}),
        ),
        (
            "of-azure",
            &["Volume.azureDisk"],
            json!({"azureDisk": {"diskName": "x", "diskURI": "y"}}),
        ),
        (
            "of-azure-file",
            &["Volume.azureFile"],
            json!({"azureFile": {"secretName": "x", "shareName": "y"}}),
        ),
        ("of-cinder", &["Volume.cinder"], json!({"cinder": {"volumeID": "x"}})),
        ("of-flocker", &["Volume.flocker"], json!({"flocker": {"datasetName": "x"}})),
        ("of-gce", &["Volume.gcePersistentDisk"], json!({"gcePersistentDisk": {"pdName": "x"}})),
        (
            "of-photon",
            &["Volume.photonPersistentDisk"],
            json!({"photonPersistentDisk": {"pdID": "x"}}),
        ),
        ("of-portworx", &["Volume.portworxVolume"], json!({"portworxVolume": {"volumeID": "x"}})),
        ("of-quobyte", &["Volume.quobyte"], json!({"quobyte": {"registry": "x:1", "volume": "y"}})),
        (
            "of-scale",
            &["Volume.scaleIO"],
            json!({"scaleIO": {"gateway": "x", "system": "y", "secretRef": {"name": "z"}, "volumeName": "v"}}),
        ),
        ("of-storageos", &["Volume.storageos"], json!({"storageos": {"volumeName": "x"}})),
        ("of-vsphere", &["Volume.vsphereVolume"], json!({"vsphereVolume": {"volumePath": "x"}})),
    ] {
        all.push(refused(name, field, plain(source), "does not support"));
    }
    all
}

fn elsewhere() -> Vec<Case> {
    const LIFE: &str = "bin/berth/tests/it/story/lifecycle.rs";
    const PROBES: &str = "crates/node/agent/src/http/tests.rs";
    vec![
        held(
            LIFE,
            &[
                "Container.lifecycle",
                "Lifecycle.postStart",
                "Lifecycle.preStop",
                "LifecycleHandler.exec",
                "LifecycleHandler.httpGet",
                "PodSpec.readinessGates",
                "PodSpec.terminationGracePeriodSeconds",
                "Container.readinessProbe",
                "Container.livenessProbe",
                "Probe.httpGet",
                "Probe.grpc",
                "Probe.periodSeconds",
                "Probe.failureThreshold",
                "Probe.terminationGracePeriodSeconds",
            ],
        ),
        held("crates/node/agent/src/pod/hook.rs", &["LifecycleHandler.sleep"]),
        nothing("fails when it runs, as upstream", &["LifecycleHandler.tcpSocket"]),
        held("crates/node/agent/src/pod/apply.rs", &["Lifecycle.stopSignal"]),
        held(PROBES, &["Probe.httpGet", "Probe.grpc", "Probe.tcpSocket", "Probe.timeoutSeconds"]),
        held(
            "crates/node/agent/src/probe.rs",
            &[
                "Container.startupProbe",
                "Probe.exec",
                "Probe.initialDelaySeconds",
                "Probe.successThreshold",
            ],
        ),
        held("bin/berth/tests/it/story/debug.rs", &["PodSpec.ephemeralContainers"]),
        held("bin/berth/tests/it/story/streams.rs", &["Container.stdinOnce"]),
        held(
            "bin/berth/tests/it/story/votes.rs",
            &[
                "Container.ports",
                "ContainerPort.containerPort",
                "ContainerPort.hostPort",
                "ContainerPort.hostIP",
                "ContainerPort.protocol",
            ],
        ),
        held("crates/control/apiserver/tests/it/proxies.rs", &["ContainerPort.name"]),
        held(
            "crates/control/scheduler/src/plan.rs",
            &["PodSpec.tolerations", "PodSpec.topologySpreadConstraints", "PodSpec.affinity"],
        ),
        held(
            "crates/node/agent/src/config.rs",
            &["Container.resources", "ResourceRequirements.limits"],
        ),
        held(
            "bin/berth/tests/it/story/pressure.rs",
            &["PodSpec.resources", "Container.resizePolicy"],
        ),
        held("crates/node/agent/src/image.rs", &["PodSpec.imagePullSecrets"]),
        held("bin/berth/tests/it/story/devices.rs", &["Container.volumeDevices"]),
        nothing("without meaning: nothing acts on workloads yet", &["PodSpec.workloadRef"]),
        nothing(
            "rejected by the API where the pod is for Linux",
            &["PodSecurityContext.windowsOptions", "SecurityContext.windowsOptions"],
        ),
        nothing("**refused**", &["VolumeProjection.podCertificate"]),
        held(
            "crates/node/agent/src/config/labels.rs",
            &[
                "PodSecurityContext.appArmorProfile",
                "SecurityContext.appArmorProfile",
                "PodSecurityContext.seLinuxOptions",
                "SecurityContext.seLinuxOptions",
            ],
        ),
    ]
}
