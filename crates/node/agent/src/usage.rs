//! What the node, its pods and their containers use, read when somebody asks.
//!
//! A rate needs two readings. So that whoever asks need not wait for the second, the processor times alone are kept every few
//! seconds: one file for each container, no memory statistics. The first reading of a container is its start, when it had
//! used nothing. What is too young for a rate has none, rather than a guess.

mod disk;
mod machine;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_runtime::cgroup::{Cgroup, Hierarchies, Usage};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub use disk::{Disks, Space, walk};
pub use machine::{Machine, Traffic};

use crate::agent::Shared;
use crate::rhythm::Rhythm;

/// How often processor times are kept.
const RHYTHM: Duration = Duration::from_secs(10);
/// The shortest time a rate is made of. Less says more about the moment than about the container.
const SHORTEST: Duration = Duration::from_secs(5);
/// Kept times of one cgroup.
const KEPT: usize = 3;

/// A pod that has containers here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resident {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// When it was taken in.
    pub since: Option<Timestamp>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// The host's end of its network, if it has its own.
    pub interface: Option<String>,
    /// Containers that run.
    pub containers: Vec<Running>,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Name.
    pub name: String,
    /// Instance, which names its cgroup.
    pub instance: String,
    /// Image, as asked for.
    pub image: String,
    /// Since when.
    pub since: Timestamp,
}

/// Processor use over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Thousand millionths of a core.
    pub nano_cores: u64,
    /// The time it is the mean of.
    pub window: Duration,
}

/// A container's use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUse {
    /// Which.
    pub container: Running,
    /// When it was read.
    pub at: Timestamp,
    /// What was read.
    pub usage: Usage,
    /// Absent while it is too young.
    pub rate: Option<Rate>,
}

/// A pod's use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUse {
    /// Which.
    pub pod: Resident,
    /// When it was read.
    pub at: Timestamp,
    /// Ended containers included.
    pub usage: Usage,
    /// Its network, if it has its own.
    pub traffic: Option<Traffic>,
    /// Containers that run.
    pub containers: Vec<ContainerUse>,
}

/// The node's use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUse {
    /// When it was read.
    pub at: Timestamp,
    /// Processor time since the start of the machine, in nanoseconds.
    pub cpu: u64,
    /// Absent just after the agent's start.
    pub rate: Option<Rate>,
    /// Memory and network of the machine.
    pub machine: Machine,
    /// Pods, by namespace and name.
    pub pods: Vec<PodUse>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    cpu: u64,
}

/// Who runs here, and what they had used a while ago.
#[derive(Debug)]
pub struct Meter {
    hierarchies: Hierarchies,
    /// The cgroup of all pods.
    root: PathBuf,
    residents: Mutex<HashMap<String, Resident>>,
    /// By cgroup; the empty path stands for the machine.
    samples: Mutex<HashMap<PathBuf, VecDeque<Sample>>>,
    /// Sizes of directories, which are dear to find out.
    pub disks: Disks,
}

impl Meter {
    /// A meter for the cgroups below `root`.
    pub fn new(hierarchies: Hierarchies, root: &str) -> Self {
        Self {
            hierarchies,
            root: root.into(),
            residents: Mutex::default(),
            samples: Mutex::default(),
            disks: Disks::default(),
        }
    }

    /// Says what runs of a pod.
    pub fn set(&self, resident: Resident) {
        let mut residents = self.residents.lock().unwrap_or_else(PoisonError::into_inner);
        residents.insert(resident.uid.clone(), resident);
    }

    /// The pod is gone.
    pub fn drop_pod(&self, uid: &str) {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn residents(&self) -> Vec<Resident> {
        let residents = self.residents.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Resident> = residents.values().cloned().collect();
        all.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        all
    }

    fn cgroup(&self, path: &Path) -> Cgroup {
        Cgroup::at(&self.hierarchies, path)
    }

    /// Keeps the processor times of all that runs, for later rates. Blocks for about one file a container.
    pub fn sample(&self) {
        let mut paths = vec![PathBuf::new()];
        for resident in self.residents() {
            let pod = &resident.cgroup;
            paths.extend(resident.containers.iter().map(|one| pod.join(&one.instance)));
        }
        let read = |path: &PathBuf| {
            // A container that ends meanwhile has no further samples.
            let cpu = self.cgroup(path).cpu_time().ok()?;
            Some((path.clone(), Sample { at: Instant::now(), cpu }))
        };
        let read: Vec<_> = paths.iter().filter_map(read).collect();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|path, _| paths.contains(path));
        for (path, sample) in read {
            let kept = samples.entry(path).or_default();
            kept.push_back(sample);
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
    }

    /// The mean since the latest sample that is old enough, else since the start.
    fn rate(&self, path: &Path, now: Sample, age: Option<Duration>) -> Option<Rate> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let since = |sample: &Sample| now.at.saturating_duration_since(sample.at);
        let kept = samples.get(path).into_iter().flatten().rev();
        let earlier = kept.map(|sample| (since(sample), sample.cpu));
        let start = age.map(|age| (age, 0));
        drop_first(earlier.chain(start), SHORTEST)
            .map(|(window, before)| mean(now.cpu, before, window))
    }

    /// The memory that all pods use together and cannot be had back at once, in bytes.
    ///
    /// # Errors
    /// When the kernel does not account.
    pub fn pod_memory(&self) -> Result<u64, berth_runtime::cgroup::CgroupError> {
        Ok(self.cgroup(&self.root).usage()?.memory.working_set)
    }

    /// Reads what everything uses. Blocks: about five files a container and as many a pod.
    ///
    /// # Errors
    /// When the machine's own files cannot be read.
    pub fn read(&self) -> std::io::Result<NodeUse> {
        let machine = Machine::read()?;
        let now = Instant::now();
        let cpu = self.cgroup(Path::new("")).cpu_time().map_err(std::io::Error::other)?;
        let rate = self.rate(Path::new(""), Sample { at: now, cpu }, None);
        let pods = self.residents().into_iter().filter_map(|pod| self.read_pod(pod, &machine));
        let pods = pods.collect();
        Ok(NodeUse { at: Timestamp::now(), cpu, rate, pods, machine })
    }

    /// A pod that has gone meanwhile has no use.
    fn read_pod(&self, pod: Resident, machine: &Machine) -> Option<PodUse> {
        let path = pod.cgroup.clone();
        let containers = pod.containers.iter().filter_map(|container| {
            let path = path.join(&container.instance);
            let usage = self.cgroup(&path).usage().ok()?;
            let (at, now) = (Timestamp::now(), Instant::now());
            let age = Duration::try_from(at.duration_since(container.since)).ok();
            let rate = self.rate(&path, Sample { at: now, cpu: usage.cpu }, age);
            Some(ContainerUse { container: container.clone(), at, usage, rate })
        });
        let containers = containers.collect();
        let usage = self.cgroup(&path).usage().ok()?;
        let traffic = pod.interface.as_deref().and_then(|name| machine.behind(name));
        Some(PodUse { pod, at: Timestamp::now(), usage, traffic, containers })
    }
}

/// The first that is long enough ago.
fn drop_first(
    mut all: impl Iterator<Item = (Duration, u64)>,
    shortest: Duration,
) -> Option<(Duration, u64)> {
    all.find(|(window, _)| *window >= shortest)
}

fn mean(now: u64, before: u64, window: Duration) -> Rate {
    let used = u128::from(now.saturating_sub(before)) * 1_000_000_000;
    let nano_cores = used / window.as_nanos().max(1);
    Rate { nano_cores: u64::try_from(nano_cores).unwrap_or(u64::MAX), window }
}

/// Keeps processor times until told to stop.
pub async fn run(shared: &Arc<Shared>, stop: CancellationToken) {
    let mut rhythm = Rhythm::new(RHYTHM, stop);
    while rhythm.next().await {
        let shared = shared.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || shared.meter.sample()).await {
            tracing::warn!(%error, "processor times were not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter::new(
            Hierarchies::detect().unwrap(),
            &format!("berth-test/meter-{}", std::process::id()),
        )
    }

    fn resident(meter: &Meter, number: usize, since: Timestamp) -> Resident {
        let container = Running {
            name: "main".to_owned(),
            instance: "main.1".to_owned(),
            image: "busybox".to_owned(),
            since,
        };
        Resident {
            namespace: "default".to_owned(),
            name: format!("pod-{number:03}"),
            uid: number.to_string(),
            since: Some(since),
            cgroup: meter.root.join(format!("pod{number}")),
            interface: None,
            containers: vec![container],
        }
    }

    #[test]
    fn a_rate_needs_two_readings_that_are_far_enough_apart() {
        let meter = meter();
        let at = Instant::now();
        let ago = |seconds| at.checked_sub(Duration::from_secs(seconds)).unwrap();
        let path = Path::new("a");
        let now = Sample { at, cpu: 20_000_000_000 };
        assert_eq!(meter.rate(path, now, None), None);
        assert_eq!(meter.rate(path, now, Some(Duration::from_secs(4))), None);
        // Two cores for ten seconds since its start.
        let window = Duration::from_secs(10);
        let two = Rate { nano_cores: 2_000_000_000, window };
        assert_eq!(meter.rate(path, now, Some(window)), Some(two));
        // The latest sample that is old enough: a quarter of a core.
        let kept = [(18, 0), (8, 18_000_000_000), (1, 19_000_000_000)];
        let kept = kept.map(|(seconds, cpu)| Sample { at: ago(seconds), cpu });
        meter.samples.lock().unwrap().insert("a".into(), kept.into());
        let rate = meter.rate(path, now, Some(window)).unwrap();
        assert_eq!((rate.nano_cores, rate.window.as_secs()), (250_000_000, 8));
    }

    /// Makes real cgroups of a hundred pods and says what looking at them costs.
    #[test]
    fn a_hundred_pods_are_read_in_a_few_milliseconds() {
        const PODS: usize = 100;
        let meter = meter();
        let since = Timestamp::now() - jiff::SignedDuration::from_secs(60);
        let mut made = Vec::new();
        for number in 0..PODS {
            let pod = resident(&meter, number, since).cgroup;
            made.push(pod.join("main.1"));
            Cgroup::create(&meter.hierarchies, &pod.join("main.1")).unwrap();
            made.push(pod);
            meter.set(resident(&meter, number, since));
        }
        let began = Instant::now();
        meter.sample();
        let sampled = began.elapsed();
        let began = Instant::now();
        let read = meter.read().unwrap();
        let elapsed = began.elapsed();
        made.push(meter.root.clone());
        made.iter().for_each(|path| meter.cgroup(path).remove().unwrap());
        assert_eq!(read.pods.len(), PODS);
        assert!(read.pods.iter().all(|pod| pod.containers[0].rate.is_some()));
        assert_eq!(meter.samples.lock().unwrap().len(), PODS + 1);
        // Measured: 6 and 25 ms, unoptimised, on two busy cores. The bound is for machines that do ten other things.
        assert!(sampled < Duration::from_millis(200), "keeping the times took {sampled:?}");
        assert!(elapsed < Duration::from_millis(500), "reading took {elapsed:?}");
        meter.drop_pod("7");
        assert_eq!(meter.residents().len(), PODS - 1);
        eprintln!("100 pods: times kept in {sampled:?}, all read in {elapsed:?}");
    }
}
