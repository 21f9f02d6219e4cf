//! Carrying out a plan's steps, each safe to repeat.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_client::demand::Quality;
use berth_content::Image;
use berth_network::Attachment;
use berth_registry::Credentials;
use berth_runtime::cgroup::Cgroup;
use berth_runtime::remove_tree;
use berth_shim::Shim;
use berth_shim::client::ShimError;
use berth_shim::protocol::{Root, Sandbox, Start, Visibility};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt;

use super::names::{self, Resolver};
use super::worker::Images;
use super::{ephemeral, refuse, rest};
use crate::agent::Shared;
use crate::command::Target;
use crate::config::{self, Cause, Ingredients};
use crate::devices::{Device, Given};
use crate::directory::{PodDirectory, Record};
use crate::environment::{self, Facts};
use crate::groups;
use crate::huge_pages;
use crate::image::{credentials_of, lease};
use crate::status::chain;
use crate::volume::{self, Mounted, Propagation};

/// Size at which a container's log is rotated, and how many files are kept.
const LOG_SIZE: u64 = 10 << 20;
const LOG_FILES: u32 = 5;
/// Ids of a pod's user namespace.
const IDS: u32 = 65_536;

/// Everything a step needs.
pub struct Workshop {
    pub shared: Arc<Shared>,
    pub directory: PodDirectory,
}

impl Workshop {
    pub fn shim(&self) -> Shim {
        Shim::at(self.directory.path())
    }

    pub fn facts(&self, record: &Record) -> Facts {
        let settings = &self.shared.settings;
        Facts {
            address: record
                .address
                .map_or_else(|| settings.address.to_string(), |address| address.to_string()),
            node: settings.node.clone(),
            node_address: settings.address.to_string(),
            api: Ipv4Addr::from_bits(settings.network.services.0.to_bits() + 1),
        }
    }

    /// Writes the record down.
    pub fn save(&self, record: &Record) -> Result<(), Cause> {
        self.directory
            .write(record)
            .map_err(|error| Cause::create(format!("cannot write the pod's record: {error}")))
    }

    /// Runs blocking work on its own thread.
    pub(super) async fn blocking<T: Send + 'static, E: std::error::Error + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Cause> {
        let result = tokio::task::spawn_blocking(move || {
            work().map_err(|error| Cause::create(chain(&error)))
        })
        .await;
        result.unwrap_or_else(|error| Err(Cause::create(format!("the node agent broke: {error}"))))
    }

    pub async fn create_sandbox(
        &self,
        pod: &Pod,
        promised: &PodSpec,
        record: &mut Record,
    ) -> Result<(), Cause> {
        let spec = pod.spec.as_ref().ok_or_else(|| Cause::config("the pod has no spec"))?;
        if let Some(class) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
            refuse::runtime(&self.shared.client, class).await?;
        }
        self.directory
            .create()
            .map_err(|error| Cause::create(format!("cannot make the pod's directory: {error}")))?;
        let own_network = !spec.host_network.unwrap_or(false);
        if own_network && record.address.is_none() {
            let address =
                self.shared.take_address().map_err(|error| Cause::create(chain(&error)))?;
            record.address = Some(address);
        }
        if wants_user_namespace(spec) && record.user.is_none() {
            record.user = Some(self.shared.take_ids().map_err(Cause::create)?);
        }
        if record.cgroup.is_none() {
            let quality = Quality::of(spec);
            record.cgroup =
                Some(groups::of_pod(&self.shared.settings.instance, quality, &record.uid));
        }
        self.save(record)?;
        self.limit_pod(promised, record).await?;
        self.write_etc(pod, spec, record)?;
        let names = names::names(pod, spec, &self.shared.settings.domain)?;
        let sandbox = sandbox(pod, spec, record, names.hostname);
        let (shared, directory, shim) = (self.shared.clone(), self.directory.clone(), self.shim());
        let network = self
            .blocking(move || -> Result<_, ZygoteOrShim> {
                // What an interrupted attempt left would hold the old namespaces.
                shim.shutdown()?;
                shared.zygote.fork(directory.path())?;
                Ok(shim.create_sandbox(sandbox)?)
            })
            .await?;
        if let (Some(network), Some(address)) = (network, record.address) {
            let attachment = Attachment::of(&self.shared.settings.network, address);
            self.blocking(move || attachment.attach(std::os::fd::AsFd::as_fd(&network))).await?;
        }
        record.sandbox = true;
        self.save(record)
    }

    /// Holds the pod as a whole to its limits.
    pub async fn limit_pod(&self, spec: &PodSpec, record: &Record) -> Result<(), Cause> {
        let limits = groups::pod_limits(spec, self.shared.settings.limits.pod_processes);
        let (shared, path) = (self.shared.clone(), self.pod_cgroup(record));
        self.blocking(move || Cgroup::create(&shared.hierarchies, &path)?.limit(&limits)).await
    }

    /// Gives the pods of a quality together what they ask for.
    pub async fn weigh(&self, quality: Quality) -> Result<(), Cause> {
        let shared = self.shared.clone();
        self.blocking(move || {
            shared.roster.with_weight(quality, |weight| {
                groups::weigh(&shared.hierarchies, &shared.settings.instance, quality, weight)
            })
        })
        .await
    }

    fn write_etc(&self, pod: &Pod, spec: &PodSpec, record: &Record) -> Result<(), Cause> {
        let settings = &self.shared.settings;
        let names = names::names(pod, spec, &settings.domain)?;
        let failed =
            |error: io::Error| Cause::create(format!("cannot write the pod's files: {error}"));
        let write = |name: &str, text: &str| fs::write(self.directory.etc(name), text);
        write("hostname", &format!("{}\n", names.hostname)).map_err(failed)?;
        let host_network = spec.host_network.unwrap_or(false);
        let of_node = host_network.then(|| fs::read_to_string("/etc/hosts")).transpose();
        let of_node = of_node.map_err(failed)?;
        let hosts = names::hosts(spec, &names, record.address, of_node.as_deref());
        write("hosts", &hosts).map_err(failed)?;
        let namespace = pod.namespace().unwrap_or_default();
        let resolver = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
            "None" => Resolver::default(),
            "Default" => of_host().map_err(failed)?,
            "ClusterFirst" if host_network => of_host().map_err(failed)?,
            _ => Resolver::of_cluster(settings.network.dns, &namespace, &settings.domain),
        };
        write("resolv.conf", &resolver.with(spec).render()).map_err(failed)
    }

    /// Who the pod is to registries, and what is wrong with its Secrets: an image may be had without them.
    pub async fn credentials(&self, pod: &Pod) -> (Option<Credentials>, Vec<String>) {
        let spec = pod.spec.as_ref();
        let named = spec.and_then(|spec| spec.image_pull_secrets.as_ref());
        let Some(named) = named.filter(|named| !named.is_empty()) else { return (None, vec![]) };
        let namespace = pod.namespace().unwrap_or_default();
        let (mut all, mut wrong) = (Credentials::default(), Vec::new());
        for reference in named {
            let name = &reference.name;
            let secret = environment::secret(&self.shared.client, &namespace, name, false).await;
            let found = secret
                .map_err(|cause| cause.message)
                .and_then(|secret| credentials_of(&secret.unwrap_or_default(), name));
            match found {
                Ok(found) => all.add(found),
                Err(why) => wrong.push(why),
            }
        }
        (Some(all), wrong)
    }

    /// Starts a container; its record's counter has been raised already.
    pub async fn start(
        &self,
        pod: &Pod,
        container: &Container,
        images: Images,
        record: &Record,
    ) -> Result<Target, Cause> {
        refuse::check(pod, container)?;
        if let Some(lacks) = huge_pages::lacking(container, &self.shared.capacity.whole) {
            let name = &container.name;
            return Err(Cause::config(format!("spec.containers[{name}].{lacks} on this node")));
        }
        let known = record.containers.get(&container.name).cloned().unwrap_or_default();
        let instance = known.instance(&container.name);
        let facts = self.facts(record);
        let layers = self.hold(record, container, &images)?;
        let (prepared, devices) = self.furnish(pod, container, &images, &instance, &facts).await?;
        let resources = config::resources(pod, container, &devices)?;
        let scratch = self.directory.scratch(&instance);
        fs::create_dir_all(&scratch).map_err(|error| {
            Cause::create(format!("cannot make the container's directory: {error}"))
        })?;
        let cgroup = self.cgroup(record, &instance);
        let order = Start {
            container: instance.clone(),
            spec: prepared.spec.clone(),
            root: Root::Overlay { lower: layers, scratch },
            user: prepared.user.clone(),
            cgroup: cgroup.clone(),
            filter: prepared.filter.clone(),
            stdin: container.stdin.unwrap_or(false),
            terminal: container.tty.unwrap_or(false).then_some((0, 0)),
            processes_of: ephemeral::target(pod, &container.name, record)?,
            log: self.directory.log(&instance),
            log_size: LOG_SIZE,
            log_files: LOG_FILES,
        };
        let (shared, shim) = (self.shared.clone(), self.shim());
        let started = tokio::task::spawn_blocking(move || -> Result<i32, Cause> {
            let group = Cgroup::create(&shared.hierarchies, &cgroup)
                .and_then(|group| group.limit(&resources).map(|()| group));
            group.map_err(|error| Cause::create(chain(&error)))?;
            shim.start(order).map_err(|error| start_cause(&error))
        })
        .await;
        started
            .unwrap_or_else(|error| Err(Cause::create(format!("the node agent broke: {error}"))))?;
        Ok(Target {
            shim: self.shim(),
            instance,
            spec: prepared.spec,
            user: prepared.user,
            filter: prepared.filter,
            address: facts.address,
        })
    }

    /// Keeps a container's images from collection while the pod is here. Returns the layers of its own.
    fn hold(
        &self,
        record: &Record,
        container: &Container,
        images: &Images,
    ) -> Result<Vec<PathBuf>, Cause> {
        let store = self.shared.images.store();
        let lease =
            lease(&record.uid, &container.name).map_err(|error| Cause::create(chain(&error)))?;
        let all: Vec<&Image> = [&images.own].into_iter().chain(images.volumes.values()).collect();
        store.lease(&lease, &all).map_err(|error| Cause::create(chain(&error)))?;
        store.layer_dirs(&images.own).map_err(|error| Cause::create(chain(&error)))
    }

    /// Makes volumes, environment and configuration of a container.
    async fn furnish(
        &self,
        pod: &Pod,
        container: &Container,
        images: &Images,
        instance: &str,
        facts: &Facts,
    ) -> Result<(config::Prepared, Vec<Device>), Cause> {
        let shares_host = pod.spec.as_ref().and_then(|spec| spec.host_ipc).unwrap_or(false);
        if !shares_host {
            // A pod that an older version made has none yet.
            volume::share_memory(&self.directory.shared_memory()).map_err(|error| {
                Cause::create(format!("cannot make the pod's shared memory: {error}"))
            })?;
        }
        let mut volumes = volume::prepare(&self.shared, pod, &self.directory, facts).await?;
        for (name, image) in &images.volumes {
            let layers = self.shared.images.store().layer_dirs(image);
            let layers = layers.map_err(|error| Cause::create(chain(&error)))?;
            volumes.insert(name.clone(), volume::Source::Layers(layers));
        }
        let image = &images.own;
        let of_image = image.config.config().as_ref().and_then(|config| config.env().clone());
        let of_image = of_image.unwrap_or_default();
        let client = &self.shared.client;
        let environment =
            environment::resolve(client, pod, container, &of_image, facts, &volumes).await?;
        let mut mounts = volume::mounts(container, &volumes, &environment)?;
        self.own_mounts(container, instance, &mut mounts).map_err(|error| {
            Cause::create(format!("cannot write the container's files: {error}"))
        })?;
        let profiles = &self.shared.settings.data.join("seccomp");
        let shared_memory = &self.directory.shared_memory();
        let mut devices = volume::devices(pod, container, &volumes)?;
        let given = self.shared.devices.furnish(pod, &container.name).await;
        let given = given.map_err(Cause::create)?;
        devices.extend(given_devices(pod, container, &given)?);
        mounts.extend(given.mounts.iter().map(|(destination, source, readonly)| Mounted {
            source: source.clone(),
            layers: vec![],
            inside: None,
            destination: destination.clone(),
            readonly: *readonly,
            propagation: Propagation::Private,
        }));
        let environment = config::with_given(environment, container, &given.variables);
        let ingredients = Ingredients {
            pod,
            container,
            image,
            environment,
            mounts,
            devices: &devices,
            annotations: &given.annotations,
            labels: config::labels::of(pod, container)?,
            profiles,
            shared_memory,
        };
        let prepared = config::prepare(ingredients)?;
        self.remember(container, instance, &prepared).map_err(|error| {
            Cause::create(format!("cannot write the container's configuration: {error}"))
        })?;
        Ok((prepared, devices))
    }

    fn cgroup(&self, record: &Record, instance: &str) -> PathBuf {
        self.pod_cgroup(record).join(instance)
    }

    /// The cgroup of the pod.
    pub fn pod_cgroup(&self, record: &Record) -> PathBuf {
        record.cgroup(&self.shared.settings.instance)
    }

    fn own_mounts(
        &self,
        container: &Container,
        instance: &str,
        mounts: &mut Vec<Mounted>,
    ) -> io::Result<()> {
        let termination = self.directory.termination(instance);
        fs::write(&termination, "")?;
        fs::set_permissions(&termination, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
        let path = container.termination_message_path.clone().filter(|path| !path.is_empty());
        // Who may write nothing of his own may not write these either; else they are his, as in docker, and counted.
        let context = container.security_context.as_ref();
        let sealed = context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false);
        let etc = |name: &str| (self.directory.etc(name), Path::new("/etc").join(name), sealed);
        let mut files = vec![etc("hosts"), etc("hostname"), etc("resolv.conf")];
        files.extend(path.map(|path| (termination, PathBuf::from(path), false)));
        for (source, destination, readonly) in files {
            if !mounts.iter().any(|mount| mount.destination == destination) {
                mounts.push(Mounted {
                    source,
                    layers: vec![],
                    inside: None,
                    destination,
                    readonly,
                    propagation: Propagation::Private,
                });
            }
        }
        Ok(())
    }

    /// Keeps the configuration for `exec` and for probes after a restart of the agent.
    fn remember(
        &self,
        container: &Container,
        instance: &str,
        prepared: &config::Prepared,
    ) -> io::Result<()> {
        let kept = crate::access::Remembered {
            spec: prepared.spec.clone(),
            user: prepared.user.clone(),
            filter: prepared.filter.clone(),
            input_once: container.stdin_once.unwrap_or(false) && !container.tty.unwrap_or(false),
        };
        fs::write(self.directory.etc(&format!("{instance}.json")), serde_json::to_vec(&kept)?)
    }

    /// Drops what an ended instance leaves, but its log and record.
    pub async fn clean_instance(&self, record: &Record, instance: &str) -> Result<(), Cause> {
        let shim = self.shim();
        let (scratch, name) = (self.directory.scratch(instance), instance.to_owned());
        let group = Cgroup::at(&self.shared.hierarchies, &self.cgroup(record, instance));
        self.blocking(move || -> io::Result<()> {
            match shim.forget(&name) {
                Ok(()) | Err(ShimError::Absent { .. }) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
            remove_tree(&scratch)?;
            group.remove().map_err(io::Error::other)
        })
        .await
    }

    pub async fn signal(&self, instance: &str, signal: i32) -> Result<(), Cause> {
        let (shim, instance) = (self.shim(), instance.to_owned());
        self.blocking(move || match shim.signal(&instance, signal) {
            // Without a shim there is nothing left to end.
            Ok(()) | Err(ShimError::Absent { .. }) => Ok(()),
            Err(error) => Err(error),
        })
        .await
    }

    /// Takes processes, network, cgroups and writable layers away.
    pub async fn remove_sandbox(&self, record: &mut Record) -> Result<(), Cause> {
        let shim = self.shim();
        let prefix = self.pod_cgroup(record);
        // What it wrote goes with a pod that ended for the good of others.
        let discard = record.failed.as_ref().is_some_and(|failed| failed.disrupted);
        let instances = rest::instances(record);
        let attachment =
            record.address.map(|address| Attachment::of(&self.shared.settings.network, address));
        let (shared, directory) = (self.shared.clone(), self.directory.clone());
        self.blocking(move || -> io::Result<()> {
            for instance in &instances {
                // Also where the shim was killed and its containers were not.
                Cgroup::at(&shared.hierarchies, &prefix.join(instance))
                    .kill()
                    .map_err(io::Error::other)?;
            }
            shim.shutdown().map_err(io::Error::other)?;
            if let Some(attachment) = attachment {
                attachment.detach().map_err(io::Error::other)?;
            }
            for instance in &instances {
                remove_busy(&Cgroup::at(&shared.hierarchies, &prefix.join(instance)))?;
            }
            remove_busy(&Cgroup::at(&shared.hierarchies, &prefix))?;
            // Memory that nobody uses any more.
            crate::volume::unmount_below(directory.path())?;
            if discard {
                directory.discard(&["volumes"])?;
            }
            remove_tree(&directory.path().join("scratch"))
        })
        .await?;
        if let Some(address) = record.address.take() {
            self.shared.release_address(address);
        }
        if let Some(ids) = record.user.take() {
            self.shared.release_ids(ids);
        }
        record.sandbox = false;
        self.save(record)
    }

    /// Takes everything away.
    pub async fn remove(&self, record: &mut Record) -> Result<(), Cause> {
        if self.directory.path().exists() {
            self.remove_sandbox(record).await?;
        }
        for name in record.containers.keys() {
            let lease = lease(&record.uid, name).map_err(|error| Cause::create(chain(&error)))?;
            self.shared
                .images
                .store()
                .release(&lease)
                .map_err(|error| Cause::create(chain(&error)))?;
        }
        let directory = self.directory.clone();
        self.blocking(move || directory.remove()).await
    }
}

/// The devices that plugins give a container.
fn given_devices(pod: &Pod, container: &Container, given: &Given) -> Result<Vec<Device>, Cause> {
    let device = |(at, path, access): &(PathBuf, PathBuf, String)| {
        let found = Device::of(path, at, access).map_err(|error| {
            Cause::create(format!("cannot use the device `{}`: {error}", path.display()))
        })?;
        Ok(found.owned(pod, container))
    };
    given.devices.iter().map(device).collect()
}

/// Either side of a shim's start.
#[derive(Debug, thiserror::Error)]
enum ZygoteOrShim {
    #[error(transparent)]
    Zygote(#[from] berth_shim::zygote::ZygoteError),
    #[error(transparent)]
    Shim(#[from] ShimError),
}

fn start_cause(error: &ShimError) -> Cause {
    match error {
        ShimError::Failed { message, exit_code } if *exit_code >= 126 => {
            Cause { reason: "StartError", message: message.clone(), exit_code: Some(*exit_code) }
        }
        other => Cause::create(chain(other)),
    }
}

/// A killed process leaves its cgroup a little after its parent has heard of it.
pub fn remove_busy(group: &Cgroup) -> io::Result<()> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    loop {
        match group.remove() {
            Ok(()) => return Ok(()),
            Err(error)
                if error.source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error())
                    && std::time::Instant::now() < deadline =>
            {
                let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000 };
                // There is no event for an emptied version 1 cgroup.
                rustix::event::poll(&mut [], Some(&pause))?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

/// By default every pod has its own; not those that share the host's other namespaces or are privileged. Who says, has it.
pub(crate) fn wants_user_namespace(spec: &PodSpec) -> bool {
    if let Some(host) = spec.host_users {
        return !host;
    }
    let shares_host =
        [spec.host_network, spec.host_pid, spec.host_ipc].into_iter().flatten().any(|yes| yes);
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(config::is_privileged);
    !shares_host && !privileged
}

/// What the node itself asks.
fn of_host() -> io::Result<Resolver> {
    Ok(Resolver::parse(&fs::read_to_string("/etc/resolv.conf")?))
}

fn sandbox(pod: &Pod, spec: &PodSpec, record: &Record, hostname: String) -> Sandbox {
    let host_network = spec.host_network.unwrap_or(false);
    let mut sysctls: Vec<(String, String)> = spec
        .security_context
        .iter()
        .flat_map(|context| context.sysctls.iter().flatten())
        // Containers of a pod that asks for others do not start.
        .filter(|sysctl| refuse::is_own(spec, &sysctl.name))
        .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
        .collect();
    if !host_network {
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 65535")]
        {
            if !sysctls.iter().any(|(known, _)| known == name) {
                sysctls.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    if spec.share_process_namespace.unwrap_or(false)
        && !spec.containers.iter().any(config::is_privileged)
        && !config::may_execute_memory(pod)
    {
        sysctls.extend(config::sealed_memory());
    }
    let processes = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => Visibility::Host,
        (_, Some(true)) => Visibility::Pod,
        (_, _) => Visibility::Own,
    };
    Sandbox {
        user: record.user.map(|base| (base, IDS)),
        network: !host_network,
        ipc: !spec.host_ipc.unwrap_or(false),
        processes,
        hostname: (!host_network).then_some(hostname),
        sysctls,
    }
}

/// The signal that asks a container to end.
pub fn stop_signal(container: &Container, image: Option<&Image>) -> i32 {
    let own = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    let from_image = image.and_then(|image| image.config.config().as_ref()?.stop_signal().clone());
    own.or(from_image).as_deref().and_then(signal_number).unwrap_or(15)
}

/// `SIGTERM`, `TERM` or `15`; real-time signals as `SIGRTMIN+3`.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(34 + offset);
    }
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let position = NAMES.iter().position(|known| *known == name)?;
    i32::try_from(position + 1).ok()
}

/// Raises a container's counter before its start, so that no name is ever used twice.
pub fn next_instance(record: &mut Record, container: &str) {
    let known = record.containers.entry(container.to_owned()).or_default();
    if let Some(ended) = known.ended.take() {
        known.previous = Some(ended);
    }
    known.starts += 1;
    known.resizing = false;
    known.started = Some(Timestamp::now());
}
