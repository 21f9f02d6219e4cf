//! A file's text as a static pod: what the API would make of it, and what only an API could give refused.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use berth_objects::{FieldError, Object, WrongType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{HASH, SEEN, SOURCE};

/// The largest file, in bytes: the API would not take a larger pod either.
const LARGEST: u64 = 1 << 20;
/// Letters of a UID.
const UID: usize = 32;

/// Why a file is no static pod. Each text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("it cannot be read ({0}): mend that")]
    Read(#[from] io::Error),
    /// It is a folder, a pipe or the like.
    #[error("it is no regular file: remove it")]
    Irregular,
    /// Others could become root by it.
    #[error("others than root may write to it, and would be root with it: `chmod go-w` it")]
    Open,
    /// It is beyond all reason.
    #[error("it is larger than 1 MiB: put one pod into it")]
    Large,
    /// Its text has no sense.
    #[error("it is neither YAML nor JSON ({0}): mend it")]
    Text(String),
    /// More than one pod.
    #[error("it has more than one document: put each pod into a file of its own")]
    Several,
    /// Something else than a pod.
    #[error("it holds `{0}`: only a `Pod` of `v1` can be static")]
    Kind(String),
    /// Fields that mean nothing.
    #[error("a pod has no such fields: {0}: mend their names or remove them")]
    Unknown(String),
    /// A field of the wrong form.
    #[error("{0}: mend it")]
    Form(#[from] WrongType),
    /// No name.
    #[error("`metadata.name` is missing: name the pod")]
    Name,
    /// Another node is meant.
    #[error("`spec.nodeName` is `{0}`, and this node another: remove it")]
    Node(String),
    /// It needs the API.
    #[error(
        "`{0}` refers to another object of the API, without which a static pod must start: remove it"
    )]
    Reference(String),
    /// The API would refuse it.
    #[error("{0}: mend it")]
    Invalid(String),
    /// Another file has the name.
    #[error("pod `{pod}` is that of `{}` already: give one of them another name", .file.display())]
    Taken {
        /// Namespace and name.
        pod: String,
        /// The other file.
        file: PathBuf,
    },
}

/// Reads a static pod of this node.
///
/// # Errors
/// Says why it is none.
pub fn read(path: &Path, node: &str) -> Result<Pod, FileError> {
    use rustix::fs::{Mode, OFlags, open};
    // A pipe would have us wait for whoever writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FileError::Irregular);
    }
    if is_open(&metadata) {
        return Err(FileError::Open);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(FileError::Large);
    }
    let text = String::from_utf8(bytes).map_err(|error| FileError::Text(error.to_string()))?;
    parse(&text, path, node, Timestamp::now())
}

/// Whether others than root may write to it.
pub fn is_open(metadata: &std::fs::Metadata) -> bool {
    let own = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    !own || metadata.permissions().mode() & 0o022 != 0
}

/// The pod of a text that stands in a file of this path.
///
/// # Errors
/// Says why it is none.
pub fn parse(text: &str, path: &Path, node: &str, now: Timestamp) -> Result<Pod, FileError> {
    if documents(text) > 1 {
        return Err(FileError::Several);
    }
    let mut value =
        berth_objects::yaml::parse(text).map_err(|error| FileError::Text(error.to_string()))?;
    let what = (value.text(&["apiVersion"]), value.text(&["kind"]));
    if what != ("v1", "Pod") {
        return Err(FileError::Kind(format!("{} {}", what.0, what.1).trim().to_owned()));
    }
    let uid = uid(&value, path, node);
    let resource = berth_rules::find("", "v1", "pods").expect("pods are a built-in kind");
    let unknown = berth_objects::fit(resource, &mut value)?;
    if !unknown.is_empty() {
        return Err(FileError::Unknown(unknown.join(", ")));
    }
    place(&mut value, &uid, node, now)?;
    if let Some(field) = berth_rules::reference(&value) {
        return Err(FileError::Reference(field));
    }
    berth_rules::default(resource, &mut value);
    let errors = berth_rules::validate(resource, &value);
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        return Err(FileError::Invalid(errors.join("; ")));
    }
    value.unset(&["metadata", "annotations", berth_rules::MIRROR]);
    serde_json::from_value(value).map_err(|error| FileError::Invalid(error.to_string()))
}

/// How many documents a text has: what stands before a line of three dashes counts if there is anything.
fn documents(text: &str) -> usize {
    let is_break = |line: &&str| *line == "---" || line.starts_with("--- ");
    let mut count = 0;
    let mut begun = false;
    for line in text.lines() {
        if is_break(&line) {
            begun = false;
        } else if !begun && !line.trim().is_empty() && !line.trim_start().starts_with('#') {
            begun = true;
            count += 1;
        }
    }
    count
}

/// The UID says what is in the file, which file it is and whose: with any other it is another pod. A comment changes nothing.
fn uid(value: &Value, path: &Path, node: &str) -> String {
    let mut hash = Sha256::new();
    let content = sorted(value).to_string();
    for part in [path.as_os_str().as_encoded_bytes(), node.as_bytes(), content.as_bytes()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(UID);
    text
}

/// A value whose fields stand in the order of their names, so that the order in a file says nothing.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, Value> =
                fields.iter().map(|(name, value)| (name, sorted(value))).collect();
            sorted.into_iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Gives the pod its place on this node.
fn place(value: &mut Value, uid: &str, node: &str, now: Timestamp) -> Result<(), FileError> {
    let name = value.name().to_owned();
    if name.is_empty() {
        return Err(FileError::Name);
    }
    let given = value.text(&["spec", "nodeName"]).to_owned();
    if !given.is_empty() && given != node {
        return Err(FileError::Node(given));
    }
    if value.namespace().is_empty() {
        value.set(&["metadata", "namespace"], "default");
    }
    value.set(&["metadata", "name"], format!("{name}-{node}"));
    let none =
        ["generateName", "resourceVersion", "managedFields", "ownerReferences", "finalizers"];
    let ended = ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];
    for field in none.into_iter().chain(ended) {
        value.unset(&["metadata", field]);
    }
    let time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    value.set(&["metadata", "uid"], uid);
    value.set(&["metadata", "generation"], 1);
    value.set(&["metadata", "creationTimestamp"], time.as_str());
    // As its mirror: without an account. Of the pod itself it is not true.
    value.set(&["metadata", "annotations", berth_rules::MIRROR], uid);
    for (name, text) in [(HASH, uid), (SOURCE, "file"), (SEEN, &now.to_string())] {
        value.set(&["metadata", "annotations", name], text);
    }
    value.set(&["spec", "nodeName"], node);
    // The Services of a namespace are known to the API alone.
    value.set(&["spec", "enableServiceLinks"], false);
    // It is the node's own: what others think of the node does not end it.
    let all = json!({"operator": "Exists", "effect": "NoExecute"});
    match value.place(&["spec", "tolerations"]) {
        Value::Array(known) if known.contains(&all) => {}
        Value::Array(known) => known.push(all),
        none => *none = json!([all]),
    }
    value.set(&["status"], json!({"startTime": time}));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: a\n    image: x\n";

    fn parsed(text: &str) -> Result<Pod, String> {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        parse(text, Path::new("/f/web.yaml"), "node", now).map_err(|error| error.to_string())
    }

    fn uid_of(text: &str, path: &str, node: &str) -> String {
        parse(text, Path::new(path), node, Timestamp::now()).unwrap().metadata.uid.unwrap()
    }

    #[test]
    fn a_file_becomes_what_the_api_would_make_of_it() {
        let pod = parsed(WEB).unwrap();
        let metadata = &pod.metadata;
        assert_eq!(metadata.name.as_deref(), Some("web-node"));
        assert_eq!(metadata.namespace.as_deref(), Some("default"));
        assert_eq!(metadata.annotations.as_ref().unwrap()[SOURCE], "file");
        assert_eq!(metadata.annotations.as_ref().unwrap().get(HASH), metadata.uid.as_ref());
        assert!(!metadata.annotations.as_ref().unwrap().contains_key(berth_rules::MIRROR));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("node"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.service_account_name, None);
        assert_eq!(spec.tolerations.unwrap()[0].effect.as_deref(), Some("NoExecute"));
        let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}"#;
        assert!(parsed(json).is_ok() && parsed(&format!("---\n# one\n{WEB}---\n")).is_ok());
    }

    #[test]
    fn another_content_file_or_node_is_another_pod() {
        let of = |text: &str| uid_of(text, "/f/web.yaml", "node");
        assert_eq!(of(WEB), of(&format!("# a remark\n{WEB}")));
        assert_eq!(of(WEB).len(), UID);
        let other_order = WEB.replace("apiVersion: v1\nkind: Pod\n", "kind: Pod\napiVersion: v1\n");
        assert_eq!(of(WEB), of(&other_order));
        let others = [
            of(&WEB.replace("image: x", "image: y")),
            uid_of(WEB, "/f/b.yaml", "node"),
            uid_of(WEB, "/f/web.yaml", "other"),
        ];
        assert!(!others.contains(&of(WEB)));
        // Nobody chooses it: it is the name of a directory.
        let chosen = WEB.replace("name: web", "name: web\n  uid: ../../x");
        assert!(of(&chosen).bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn mistakes_are_named_with_what_to_do() {
        let with = |line: &str| format!("{WEB}{line}\n");
        for (text, wanted) in [
            (String::new(), "it holds ``: only a `Pod`"),
            ("a: [".to_owned(), "it is neither YAML nor JSON"),
            ("just words".to_owned(), "only a `Pod` of `v1` can be static"),
            (format!("{WEB}---\n{WEB}"), "more than one document"),
            (WEB.replace("kind: Pod", "kind: Secret"), "it holds `v1 Secret`"),
            (WEB.replace("  name: web", "  labels: {}"), "`metadata.name` is missing"),
            (WEB.replace("name: web", "name: Web"), "metadata.name"),
            (with("  contaners: []"), "no such fields"),
            (with("  nodeName: other"), "`spec.nodeName` is `other`"),
            (with("  restartPolicy: 3"), "mend it"),
            (with("  restartPolicy: Maybe"), "spec.restartPolicy: Unsupported value"),
            (with("  serviceAccountName: a"), "`spec.serviceAccountName` refers to"),
            (with("  volumes: [{name: a, secret: {secretName: b}}]"), "`spec.volumes[0].secret`"),
            (with("  ephemeralContainers: [{name: a, image: b}]"), "spec.ephemeralContainers"),
            (WEB.replace("    image: x\n", ""), "spec.containers[0].image"),
        ] {
            let why = parsed(&text).unwrap_err();
            assert!(why.contains(wanted), "{wanted}: {why}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_to_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::write(&path, WEB).unwrap();
        std::fs::set_permissions(&path, mode(0o644)).unwrap();
        assert!(read(&path, "node").is_ok());
        std::fs::set_permissions(&path, mode(0o664)).unwrap();
        assert!(matches!(read(&path, "node"), Err(FileError::Open)));
        std::fs::set_permissions(&path, mode(0o644)).unwrap();
        std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
        assert!(matches!(read(&path, "node"), Err(FileError::Large)));
        assert!(matches!(read(&folder.path().join("b"), "node"), Err(FileError::Read(_))));
        let pipe = folder.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        assert!(matches!(read(&pipe, "node"), Err(FileError::Irregular)));
    }
}
