//! Volumes, secrets and configs: their objects, and how a pod mounts them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Subject, project_metadata};
use crate::model::{BindKind, FileSource, Mount, MountSource, Project};

/// What a claim asks for; a Compose file does not say.
const CLAIM_SIZE: &str = "1Gi";
/// The key under which a secret's or config's content is kept.
const CONTENT_KEY: &str = "content";

/// Secrets and config maps with their content.
pub(super) fn sources(project: &Project) -> Vec<Value> {
    let secrets = project.secrets.values().filter_map(|secret| {
        let data = STANDARD.encode(secret.content.as_ref()?.bytes());
        Some(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": project_metadata(project, &secret.object_name, &secret.object_name),
            "type": "Opaque",
            "data": { CONTENT_KEY: data },
        }))
    });
    let configs = project.configs.values().filter_map(|config| {
        let bytes = config.content.as_ref()?.bytes();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": project_metadata(project, &config.object_name, &config.object_name),
        });
        match std::str::from_utf8(bytes) {
            Ok(text) => object["data"] = json!({ CONTENT_KEY: text }),
            Err(_) => object["binaryData"] = json!({ CONTENT_KEY: STANDARD.encode(bytes) }),
        }
        Some(object)
    });
    secrets.chain(configs).collect()
}

pub(super) fn claims(project: &Project) -> Vec<Value> {
    let own = project.volumes.values().filter(|volume| !volume.external && volume.bind.is_none());
    own.map(|volume| {
        let mut metadata = project_metadata(project, &volume.object_name, &volume.object_name);
        if !volume.annotations.is_empty() {
            metadata["annotations"] = json!(volume.annotations);
        }
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": CLAIM_SIZE } },
            },
        })
    })
    .collect()
}

/// Changes when a mounted secret or config does, so that the service is rolled.
pub(super) fn content_hash(subject: &Subject<'_>) -> Option<String> {
    let project = subject.project;
    let secrets = subject.service.secrets.iter().map(|mount| project.secrets.get(&mount.source));
    let configs = subject.service.configs.iter().map(|mount| project.configs.get(&mount.source));
    let mut hash = Sha256::new();
    let mut any = false;
    for source in secrets.chain(configs).flatten() {
        let Some(content) = &source.content else { continue };
        any = true;
        // Lengths keep two contents from looking like one.
        hash.update(source.object_name.len().to_le_bytes());
        hash.update(source.object_name.as_bytes());
        hash.update(content.bytes().len().to_le_bytes());
        hash.update(content.bytes());
    }
    any.then(|| hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The pod's volumes, and the container's mounts of them.
pub(super) fn mounted(subject: &Subject<'_>) -> (Vec<Value>, Vec<Value>) {
    let mut mounted = Mounted { volumes: Vec::new(), mounts: Vec::new() };
    for mount in &subject.service.mounts {
        mounted.add(subject.project, mount);
    }
    for path in &subject.image.volumes {
        if !mounted.has(path) {
            mounted.mount("data", json!({ "emptyDir": {} }), json!({ "mountPath": path }));
        }
    }
    if let Some(size) = subject.service.shm_size
        && !mounted.has("/dev/shm")
    {
        let memory = json!({ "emptyDir": { "medium": "Memory", "sizeLimit": size.to_string() } });
        mounted.mount("shm", memory, json!({ "mountPath": "/dev/shm" }));
    }
    for mount in &subject.service.secrets {
        if let Some(source) = subject.project.secrets.get(&mount.source) {
            let volume = json!({ "secret": {
                "secretName": source.object_name,
                "defaultMode": mount.mode,
            } });
            mounted.mount("secret", volume, file(source, &mount.target));
        }
    }
    for mount in &subject.service.configs {
        if let Some(source) = subject.project.configs.get(&mount.source) {
            let volume = json!({ "configMap": {
                "name": source.object_name,
                "defaultMode": mount.mode,
            } });
            mounted.mount("config", volume, file(source, &mount.target));
        }
    }
    (mounted.volumes, mounted.mounts)
}

/// One file rather than a directory, so that several go into one directory. What exists already in the cluster keeps its
/// content under its own name.
fn file(source: &FileSource, target: &str) -> Value {
    let key = if source.content.is_some() { CONTENT_KEY } else { &source.object_name };
    json!({ "mountPath": target, "subPath": key, "readOnly": true })
}

struct Mounted {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
}

impl Mounted {
    fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.mounts.iter().any(|mount| {
            mount["mountPath"].as_str().is_some_and(|other| other.trim_end_matches('/') == path)
        })
    }

    /// Adds the volume, or takes the one that is the same, and mounts it.
    fn mount(&mut self, kind: &str, volume: Value, mut mount: Value) {
        let shared = volume.get("emptyDir").is_none();
        let same = |other: &&Value| {
            volume.as_object().is_some_and(|fields| {
                fields.iter().all(|(name, value)| other.get(name) == Some(value))
            })
        };
        let existing = self.volumes.iter().find(same).filter(|_| shared);
        let name = match existing {
            Some(existing) => existing["name"].clone(),
            None => {
                let name = json!(format!("{kind}-{}", self.volumes.len()));
                let mut named = json!({ "name": name });
                for (field, value) in volume.as_object().into_iter().flatten() {
                    named[field.as_str()] = value.clone();
                }
                self.volumes.push(named);
                name
            }
        };
        mount["name"] = name;
        self.mounts.push(mount);
    }

    fn add(&mut self, project: &Project, mount: &Mount) {
        let mut place = json!({ "mountPath": mount.target });
        if mount.read_only {
            place["readOnly"] = json!(true);
        }
        match &mount.source {
            MountSource::Volume { volume, subpath } => {
                if let Some(subpath) = subpath {
                    place["subPath"] = json!(subpath);
                }
                let Some(volume) = project.volumes.get(volume) else { return };
                let source = match &volume.bind {
                    Some(path) => json!({ "hostPath": {
                        "path": path,
                        "type": host_path_type(BindKind::DirectoryOrCreate),
                    } }),
                    None => json!({ "persistentVolumeClaim": { "claimName": volume.object_name } }),
                };
                self.mount("volume", source, place);
            }
            MountSource::Anonymous => self.mount("data", json!({ "emptyDir": {} }), place),
            MountSource::Bind { path, kind, propagation } => {
                if let Some(propagation) = propagation {
                    place["mountPropagation"] = json!(propagation);
                }
                let source = json!({ "hostPath": { "path": path, "type": host_path_type(*kind) } });
                self.mount("bind", source, place);
            }
            MountSource::Memory { size } => {
                let mut memory = json!({ "emptyDir": { "medium": "Memory" } });
                if let Some(size) = size {
                    memory["emptyDir"]["sizeLimit"] = json!(size.to_string());
                }
                self.mount("memory", memory, place);
            }
        }
    }
}

fn host_path_type(kind: BindKind) -> &'static str {
    match kind {
        BindKind::DirectoryOrCreate => "DirectoryOrCreate",
        BindKind::Directory => "Directory",
        BindKind::File => "File",
        BindKind::Socket => "Socket",
        BindKind::Any => "",
    }
}
