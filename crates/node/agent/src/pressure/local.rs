//! The disk that pods use on their node, and the limits they have of it.

use std::collections::BTreeMap;
use std::path::Path;

use berth_client::demand::{Amounts, amounts};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::directory::PodDirectory;
use crate::tally::Excess;
use crate::usage::walk;

const STORAGE: &str = "ephemeral-storage";

/// Stands for what cannot be counted: more than there can be.
pub const UNKNOWN: u64 = 1 << 62;

/// Bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

impl Held {
    fn of(path: &Path) -> Self {
        let walked = walk(path);
        if walked.partial {
            // Who makes what cannot be counted has more than anybody else.
            return Self { bytes: UNKNOWN, files: UNKNOWN };
        }
        Self { bytes: walked.bytes, files: walked.files }
    }

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes).min(UNKNOWN);
        self.files = self.files.saturating_add(other.files).min(UNKNOWN);
    }
}

/// What a pod has on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalUse {
    /// What containers wrote beside volumes, and their logs.
    pub containers: BTreeMap<String, Held>,
    /// Empty directories, those in memory included.
    pub volumes: BTreeMap<String, Held>,
    /// All of the disk.
    pub whole: Held,
}

/// Measures a pod. Blocks while it walks the pod's directories.
pub fn measure(
    directory: &PodDirectory,
    pod: &Pod,
    containers: &BTreeMap<String, String>,
) -> LocalUse {
    let mut local = LocalUse::default();
    for (name, instance) in containers {
        let mut held = Held::of(&directory.scratch(instance).join("upper"));
        held.add(logs(directory, name));
        local.whole.add(held);
        local.containers.insert(name.clone(), held);
    }
    for (name, memory) in empty_dirs(pod.spec.as_ref()) {
        let held = Held::of(&directory.volume(name));
        if !memory {
            local.whole.add(held);
        }
        local.volumes.insert(name.to_owned(), held);
    }
    // Its containers may write to its `hosts` and to what they leave as their last words.
    local.whole.add(Held::of(&directory.path().join("etc")));
    local
}

/// The logs of all instances of a container.
fn logs(directory: &PodDirectory, container: &str) -> Held {
    let entries = std::fs::read_dir(directory.path().join("logs")).into_iter().flatten().flatten();
    let mut held = Held::default();
    for entry in entries {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(container)?.strip_prefix('.'));
        // After the name comes the number of the instance; `a.b` is another container than `a`.
        if rest.is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit())) {
            held.add(Held::of(&entry.path()));
        }
    }
    held
}

fn empty_dirs(spec: Option<&PodSpec>) -> impl Iterator<Item = (&str, bool)> {
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| {
        let medium = volume.empty_dir.as_ref()?.medium.as_deref().unwrap_or_default();
        Some((volume.name.as_str(), !medium.is_empty()))
    })
}

fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn limit(container: &Container) -> Option<i64> {
    let limits = container.resources.as_ref()?.limits.as_ref();
    amounts(limits).get(STORAGE).copied()
}

/// Whether anything of a pod is limited, so that it is worth measuring.
pub fn is_limited(spec: &PodSpec) -> bool {
    let mut volumes = spec.volumes.iter().flatten();
    volumes.any(|volume| volume.empty_dir.as_ref().is_some_and(|empty| empty.size_limit.is_some()))
        || lasting(spec).any(|container| limit(container).is_some())
}

/// What the containers of a pod ask for of the disk.
pub fn requests(spec: &PodSpec) -> BTreeMap<String, u64> {
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        let mut asked = amounts(resources.and_then(|it| it.limits.as_ref()));
        asked.extend(amounts(resources.and_then(|it| it.requests.as_ref())));
        amount_of(&asked, STORAGE)
    };
    lasting(spec).map(|container| (container.name.clone(), of(container))).collect()
}

/// An amount, as a number that is not negative.
pub fn amount_of(amounts: &Amounts, name: &str) -> u64 {
    amounts.get(name).and_then(|amount| u64::try_from(*amount).ok()).unwrap_or(0)
}

/// Why a pod must go that uses more than it may, if it does, in the words people know.
pub fn exceeded(spec: &PodSpec, local: &LocalUse) -> Option<(Excess, String)> {
    for volume in spec.volumes.iter().flatten() {
        let Some(size) = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref())
        else {
            continue;
        };
        let most = size.0.parse::<berth_objects::Quantity>().map_or(0, |size| size.value());
        let used = local.volumes.get(&volume.name).map_or(0, |held| held.bytes);
        if most > 0 && i128::from(used) > i128::from(most) {
            let (name, size) = (&volume.name, &size.0);
            let message =
                format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{size}\". ");
            return Some((Excess::Volume, message));
        }
    }
    let limits: Vec<(&Container, i64)> =
        lasting(spec).filter_map(|container| Some((container, limit(container)?))).collect();
    if limits.is_empty() {
        return None;
    }
    let texts = |container: &Container| {
        let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
        limits.and_then(|limits| limits.get(STORAGE)).map(|it| it.0.clone()).unwrap_or_default()
    };
    let sum: i128 = limits.iter().map(|(_, limit)| i128::from(*limit)).sum();
    if i128::from(local.whole.bytes) > sum {
        let sum = crate::capacity::binary(u64::try_from(sum).unwrap_or(0));
        let only = match limits.as_slice() {
            [(container, _)] => texts(container),
            _ => sum,
        };
        let message = format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {only}. "
        );
        return Some((Excess::Pod, message));
    }
    limits.into_iter().find_map(|(container, limit)| {
        let used = local.containers.get(&container.name).map_or(0, |held| held.bytes);
        (i128::from(used) > i128::from(limit)).then(|| {
            let (name, limit) = (&container.name, texts(container));
            let message = format!(
                "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
            );
            (Excess::Container, message)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a", "uid": "1"}, "spec": spec}))
            .unwrap()
    }

    fn limited(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    #[test]
    fn what_a_pod_wrote_is_found_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PodDirectory::of(folder.path(), "1");
        directory.create().unwrap();
        let write = |path: std::path::PathBuf, size: usize| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![1; size]).unwrap();
        };
        write(directory.scratch("a.2").join("upper/x/file"), 300_000);
        write(directory.log("a.1"), 20_000);
        write(directory.path().join("logs/a.2.log.1"), 20_000);
        write(directory.log("a.b.1"), 50_000);
        write(directory.volume("cache").join("file"), 100_000);
        write(directory.volume("secret").join("file"), 100_000);
        let pod = pod(json!({
            "containers": [{"name": "a"}],
            "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "secret", "secret": {}}],
        }));
        let local = measure(&directory, &pod, &[("a".to_owned(), "a.2".to_owned())].into());
        let a = local.containers["a"];
        assert!((340_000..400_000).contains(&a.bytes), "{a:?}");
        assert_eq!(a.files, 5, "two directories, a file and two logs");
        let cache = local.volumes["cache"];
        assert!((100_000..120_000).contains(&cache.bytes), "{cache:?}");
        assert_eq!(local.volumes.len(), 1);
        let before = local.whole.bytes - a.bytes - cache.bytes;
        assert!(before < 10_000, "{local:?}");
        write(directory.termination("a.2"), 200_000);
        let local = measure(&directory, &pod, &[("a".to_owned(), "a.2".to_owned())].into());
        let words = local.whole.bytes - a.bytes - cache.bytes;
        assert!((200_000..220_000).contains(&words), "{local:?}");
    }

    #[test]
    fn each_limit_has_its_words() {
        let mib = |count: u64| Held { bytes: count << 20, files: 1 };
        let of = |spec: Value, local: &LocalUse| {
            exceeded(pod(spec).spec.as_ref().unwrap(), local).map(|(_, message)| message)
        };
        let local = LocalUse {
            containers: [("a".to_owned(), mib(3)), ("b".to_owned(), mib(1))].into(),
            volumes: [("cache".to_owned(), mib(5))].into(),
            whole: mib(9),
        };
        let volume = |limit: Value| json!([{"name": "cache", "emptyDir": limit}]);
        let plain = json!([{"name": "a"}, {"name": "b"}]);
        let spec = json!({"containers": plain, "volumes": volume(json!({"sizeLimit": "4Mi"}))});
        assert!(is_limited(pod(spec.clone()).spec.as_ref().unwrap()));
        assert_eq!(
            of(spec, &local).unwrap(),
            "Usage of EmptyDir volume \"cache\" exceeds the limit \"4Mi\". "
        );
        let spec = json!({"containers": plain, "volumes": volume(json!({"sizeLimit": "5Mi"}))});
        assert_eq!(of(spec, &local), None, "as much as it may");
        let spec = json!({"containers": [limited("a", "3Mi"), limited("b", "5Mi")]});
        assert_eq!(
            of(spec, &local).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 8Mi. "
        );
        let spec = json!({"containers": [limited("a", "2Mi"), limited("b", "1Gi")]});
        assert_eq!(
            of(spec, &local).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"2Mi\". "
        );
        let spec = json!({"containers": [limited("a", "4Mi"), limited("b", "1Gi")]});
        assert_eq!(of(spec, &local), None);
        let spec = json!({"containers": plain, "volumes": volume(json!({}))});
        assert!(!is_limited(pod(spec.clone()).spec.as_ref().unwrap()));
        assert_eq!(of(spec, &local), None);
    }
}
