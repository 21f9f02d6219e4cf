//! What `up` and `down` are given: a Compose project, or Kubernetes manifests, told apart by what is in the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_compose::{LoadError, LoadRequest, Project, load};
use serde_json::Value;

use crate::failure::{Doing, Failure};

/// What is to run.
#[derive(Debug)]
pub enum Input {
    /// A Compose project.
    Compose(Box<Project>),
    /// Objects, in the order of the files.
    Manifests(Vec<Value>),
}

/// Splits arguments into files and services: what looks like a path or is one here is a file.
pub fn split(arguments: &[String]) -> (Vec<PathBuf>, Vec<String>) {
    let mut files = Vec::new();
    let mut services = Vec::new();
    for argument in arguments {
        let extension = Path::new(argument).extension().and_then(|extension| extension.to_str());
        let is_file = argument.contains('/')
            || argument == "."
            || argument == ".."
            || matches!(extension, Some("yaml" | "yml" | "json"));
        if is_file {
            files.push(PathBuf::from(argument));
        } else {
            services.push(argument.clone());
        }
    }
    (files, services)
}

fn here() -> Result<PathBuf, Failure> {
    std::env::current_dir().doing("cannot find the current directory")
}

fn environment() -> BTreeMap<String, String> {
    // A variable that is no text cannot stand in a Compose file.
    let text = |value: std::ffi::OsString| value.into_string().ok();
    std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
}

fn request(
    files: Vec<PathBuf>,
    project: Option<String>,
    profiles: Vec<String>,
) -> Result<LoadRequest, Failure> {
    let mut directory = here()?;
    let mut files = files;
    // A directory stands for the Compose file in it.
    if let [only] = files.as_slice()
        && only.is_dir()
    {
        directory = directory
            .join(only)
            .canonicalize()
            .doing(format!("cannot open `{}`", only.display()))?;
        files.clear();
    }
    Ok(LoadRequest {
        files,
        directory,
        project_name: project,
        profiles,
        environment: environment(),
    })
}

/// Reads and checks everything; nothing is changed anywhere.
pub fn read(
    files: Vec<PathBuf>,
    project: Option<String>,
    profiles: Vec<String>,
) -> Result<Input, Failure> {
    let mut manifests = Vec::new();
    let mut compose = Vec::new();
    for file in &files {
        if file.is_dir() {
            compose.push(file);
            continue;
        }
        let text =
            std::fs::read_to_string(file).doing(format!("cannot read `{}`", file.display()))?;
        if looks_like_manifests(&text) {
            manifests.extend(objects(file, &text)?);
        } else {
            compose.push(file);
        }
    }
    match (manifests.is_empty(), compose.is_empty()) {
        (false, true) => Ok(Input::Manifests(manifests)),
        (false, false) => Err(Failure::usage(format!(
            "`{}` is a Compose file and others are Kubernetes manifests",
            compose[0].display()
        ))
        .hint("give them to two commands")),
        (true, _) => {
            let project = load(request(files, project, profiles)?).map_err(unloadable)?;
            Ok(Input::Compose(Box::new(project)))
        }
    }
}

fn unloadable(error: LoadError) -> Failure {
    match error {
        LoadError::Problems(problems) => {
            let mut lines = problems.iter().map(ToString::to_string);
            let count = problems.len();
            let first = lines.next().unwrap_or_default();
            let failure = Failure::new(first);
            let failure = lines.fold(failure, Failure::detail);
            failure.hint(if count == 1 {
                "correct it and try again; nothing was changed".to_owned()
            } else {
                format!("correct these {count} mistakes and try again; nothing was changed")
            })
        }
        LoadError::NotFound { .. } => Failure::new("there is nothing to run here")
            .because(error)
            .hint("go to the directory of a Compose file, or name one with `-f FILE`"),
        LoadError::Variables { .. } | LoadError::Name { .. } => {
            Failure::new("cannot load the project").because(error)
        }
    }
}

/// A manifest has `apiVersion` and `kind` at its top level; a Compose file has neither.
fn looks_like_manifests(text: &str) -> bool {
    let has = |key: &str| {
        text.lines().any(|line| {
            let line = line.trim_start_matches(['{', '"', ' ']);
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start_matches('"').trim_start().starts_with(':'))
        })
    };
    let top = |key: &str| text.lines().any(|line| line.starts_with(key));
    let is_json = text.trim_start().starts_with('{');
    if is_json { has("apiVersion") && has("kind") } else { top("apiVersion:") && top("kind:") }
}

/// The objects of a file with several documents; a `List` stands for what is in it.
fn objects(file: &Path, text: &str) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for (line, document) in documents(text) {
        let place = format!("{}:{line}", file.display());
        let value = berth_objects::yaml::parse(&document)
            .doing(format!("{place}: cannot read the document"))?;
        if value.is_null() {
            continue;
        }
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version.is_empty() || kind.is_empty() {
            return Err(Failure::new(format!(
                "{place}: the document has no `apiVersion` and `kind`"
            )));
        }
        if kind == "List" {
            let items = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            objects.extend(items);
            continue;
        }
        if crate::cluster::kind(version, kind).is_none() {
            return Err(Failure::new(format!(
                "{place}: the server has no kind `{kind}` in `{version}`"
            ))
            .hint("`kubectl api-resources` lists the kinds it has"));
        }
        if value.pointer("/metadata/name").and_then(Value::as_str).is_none() {
            return Err(Failure::new(format!("{place}: the {kind} has no `metadata.name`")));
        }
        objects.push(value);
    }
    Ok(objects)
}

/// The documents of a YAML stream, each with the line it begins at.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut documents = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            documents.push((index + 2, String::new()));
        } else if let Some((_, document)) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    documents.retain(|(_, document)| !document.trim().is_empty());
    documents
}

/// The project of the Compose file in this directory or above, if there is one that can be read.
pub fn project_here() -> Option<String> {
    if let Ok(name) = std::env::var("COMPOSE_PROJECT_NAME")
        && !name.is_empty()
    {
        return Some(name);
    }
    let request = request(Vec::new(), None, vec!["*".to_owned()]).ok()?;
    load(request).ok().map(|project| project.name)
}

/// The project that is meant: the one named, that of the files, or that of the directory.
pub fn project_name(named: Option<String>, files: Vec<PathBuf>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name);
    }
    let request = request(files, None, vec!["*".to_owned()])?;
    let project = load(request).map_err(|error| {
        unloadable(error).hint("or name the project with `-p NAME`; `berth ps` lists projects")
    })?;
    Ok(project.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_services_are_told_apart() {
        let words = ["web", "a/compose.yaml", "db", "x.yml", "."].map(str::to_owned);
        let (files, services) = split(&words);
        assert_eq!(files, [PathBuf::from("a/compose.yaml"), "x.yml".into(), ".".into()]);
        assert_eq!(services, ["web", "db"]);
    }

    #[test]
    fn manifests_are_known_by_their_content() {
        assert!(looks_like_manifests("apiVersion: v1\nkind: Pod\n"));
        assert!(looks_like_manifests("{\"apiVersion\": \"v1\",\n \"kind\": \"Pod\"}"));
        assert!(!looks_like_manifests("services:\n  a:\n    image: x\n    kind: y\n"));
    }

    #[test]
    fn documents_keep_their_lines() {
        let text = "# note\n---\na: 1\n---\n---\nb: 2\n";
        let found = documents(text);
        assert_eq!(
            found,
            [(1, "# note\n".to_owned()), (3, "a: 1\n".to_owned()), (6, "b: 2\n".to_owned())]
        );
        let error = objects(Path::new("x.yaml"), "apiVersion: v1\nkind: Nope\n").unwrap_err();
        assert_eq!(error.to_string(), "x.yaml:1: the server has no kind `Nope` in `v1`");
    }
}
