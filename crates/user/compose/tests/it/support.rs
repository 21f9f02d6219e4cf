//! A project in a directory of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_compose::{LoadError, LoadRequest, Planned, Project, ServiceImage, load, objects};
use serde_json::Value;

pub(crate) struct Folder {
    directory: tempfile::TempDir,
    pub(crate) request: LoadRequest,
}

impl Folder {
    /// A folder with these files, and a request for the project in it, which is called `app`.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let request = LoadRequest {
            directory: directory.path().to_owned(),
            project_name: Some("app".to_owned()),
            ..LoadRequest::default()
        };
        let folder = Self { directory, request };
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.request.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn load(&self) -> Result<Project, LoadError> {
        load(self.request.clone())
    }

    #[track_caller]
    pub(crate) fn project(&self) -> Project {
        match self.load() {
            Ok(project) => project,
            Err(error) => panic!("{}", self.relative(&error.to_string())),
        }
    }

    /// What is said about the files, with paths relative to the folder.
    #[track_caller]
    pub(crate) fn mistakes(&self) -> String {
        self.relative(&self.load().expect_err("a project with mistakes").to_string())
    }

    #[track_caller]
    pub(crate) fn findings(&self) -> String {
        let findings = self.project().findings;
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        self.relative(&lines.join("\n"))
    }

    fn relative(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.path().display()), "")
    }

    /// The objects, with `images` for what is built.
    #[track_caller]
    pub(crate) fn plan(&self, images: &BTreeMap<String, ServiceImage>) -> Plan {
        Plan(objects(&self.project(), images).unwrap())
    }
}

/// A project of one file.
pub(crate) fn one(text: &str) -> Folder {
    Folder::new(&[("compose.yaml", text)])
}

pub(crate) struct Plan(pub(crate) Vec<Planned>);

impl Plan {
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0
            .iter()
            .map(|planned| &planned.object)
            .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    #[track_caller]
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.names()))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let name = |object: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
        };
        self.0.iter().map(|planned| name(&planned.object)).collect()
    }

    #[track_caller]
    pub(crate) fn pod(&self, service: &str) -> &Value {
        &self.get("Deployment", service)["spec"]["template"]["spec"]
    }

    #[track_caller]
    pub(crate) fn container(&self, service: &str) -> &Value {
        &self.pod(service)["containers"][0]
    }
}

/// Plans one service `web` with this body, in flow style.
#[track_caller]
pub(crate) fn web(body: &str) -> Plan {
    one(&format!("services:\n  web: {{image: nginx, {body}}}\n")).plan(&BTreeMap::new())
}

/// A folder or file below the workspace's data directory, if that is there.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    [workspace.join("../shared/data"), workspace.join("../../shared/data")]
        .iter()
        .map(|data| data.join(name))
        .find(|path| path.exists())
}
