//! Reads the project's files, with what they include and extend, into one tree.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::canonical::{self, Base};
use super::environment;
use super::interpolate::{self, Variables};
use super::merge::{merge, settle};
use super::node::{Mapping, Node, Value, View};
use super::yaml;
use crate::report::{Position, Report};
use crate::value::name::suggestion;

/// File names that are looked for, in this order.
pub(crate) const NAMES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];
const MAX_INCLUDES: usize = 64;

/// The project's file in `directory` or the nearest parent that has one, with its override file.
pub(crate) fn discover(directory: &Path) -> Option<Vec<PathBuf>> {
    for directory in directory.ancestors() {
        let existing = |names: &[&str]| {
            names.iter().map(|name| directory.join(name)).find(|path| path.is_file())
        };
        if let Some(main) = existing(&NAMES) {
            return Some([Some(main), existing(&OVERRIDES)].into_iter().flatten().collect());
        }
    }
    None
}

/// Reads a file, unless it is larger than any Compose file has reason to be.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    if std::fs::metadata(path)?.len() > yaml::MAX_BYTES as u64 {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large"));
    }
    std::fs::read_to_string(path)
}

/// The project name that the files themselves give, before anything else is known.
pub(crate) fn declared_name(files: &[PathBuf], variables: &Variables) -> Option<String> {
    files.iter().rev().find_map(|path| {
        let text = read_text(path).ok()?;
        // Mistakes are reported when the file is read in earnest.
        let documents = yaml::parse(&text, &path.as_path().into(), &mut Report::default());
        let name = documents.iter().rev().find_map(|document| document.get("name")?.as_text())?;
        interpolate::interpolate(name, variables, &mut Vec::new()).ok()
    })
}

pub(crate) struct Reader<'r> {
    pub(crate) report: &'r mut Report,
    included: HashSet<PathBuf>,
}

impl<'r> Reader<'r> {
    pub(crate) fn new(report: &'r mut Report) -> Self {
        Self { report, included: HashSet::new() }
    }

    /// The merged tree of files that belong together, with what they extend and include.
    pub(crate) fn group(
        &mut self,
        files: &[PathBuf],
        directory: &Path,
        variables: &Variables,
    ) -> Option<Node> {
        let mut tree: Option<Node> = None;
        for file in files {
            let document = self.file(file, directory, variables)?;
            tree = Some(match tree {
                None => document,
                Some(tree) => merge(tree, document, &[]),
            });
        }
        let mut tree = tree?;
        settle(&mut tree);
        self.extend_all(&mut tree, directory, variables);
        self.include_all(tree, directory, variables)
    }

    fn file(&mut self, path: &Path, directory: &Path, variables: &Variables) -> Option<Node> {
        let file: Arc<Path> = path.into();
        let start = Position { file: Arc::clone(&file), line: 1, column: 1 };
        let text = match read_text(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("cannot read the file: {error}");
                if error.kind() == io::ErrorKind::NotFound {
                    self.report.missing(&start, "", path, message);
                } else {
                    self.report.problem(&start, "", message);
                }
                return None;
            }
        };
        let mut tree: Option<Node> = None;
        let before = self.report.problems();
        let documents = yaml::parse(&text, &file, self.report);
        if self.report.problems() > before {
            return None;
        }
        for mut document in documents {
            if document.is_null() {
                continue;
            }
            if document.as_mapping().is_none() {
                let message = "a Compose file is a mapping with `services:`";
                self.report.problem(&document.position, "", message);
                return None;
            }
            interpolate::tree(&mut document, "", variables, self.report);
            canonical::document(&mut document, &Base { directory, variables }, self.report);
            tree = Some(match tree {
                None => document,
                Some(tree) => merge(tree, document, &[]),
            });
        }
        Some(tree.unwrap_or_else(|| Node::new(start, Value::Mapping(Mapping::new()))))
    }

    fn extend_all(&mut self, tree: &mut Node, directory: &Path, variables: &Variables) {
        let Some(services) = tree.get("services").and_then(Node::as_mapping) else { return };
        let original = services.clone();
        let origin = tree.position.file.to_path_buf();
        let mut extended = Mapping::new();
        for (name, service) in &original {
            let mut chain = vec![(origin.clone(), name.clone())];
            let place = Place { services: &original, directory, variables };
            extended.insert(name.clone(), self.extend(service.clone(), &place, &mut chain));
        }
        if let Some(slot) = tree.as_mapping_mut().and_then(|root| root.get_mut("services")) {
            slot.value = Value::Mapping(extended);
        }
    }

    /// The service on top of the one it extends.
    fn extend(
        &mut self,
        mut service: Node,
        place: &Place<'_>,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Node {
        let Some(extends) = service.as_mapping_mut().and_then(|map| map.shift_remove("extends"))
        else {
            return service;
        };
        let own = chain.first().map(|(_, name)| name.clone()).unwrap_or_default();
        let view = View::new(&extends, format!("services.{own}.extends"));
        let Some(target) = view.get("service").and_then(|target| target.text(self.report)) else {
            if extends.as_mapping().is_some() {
                view.problem(self.report, "`service` is missing; name the service to extend");
            }
            return service;
        };
        let file = view.get("file").and_then(|file| file.text(self.report)).map(PathBuf::from);
        let step = (
            file.clone().or_else(|| chain.last().map(|(file, _)| file.clone())).unwrap_or_default(),
            target.clone(),
        );
        if chain.contains(&step) {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
            let message = format!("services extend each other: {} → {target}", names.join(" → "));
            view.problem(self.report, message);
            return service;
        }
        chain.push(step);
        let base = match &file {
            None => self.extend_from(&view, &target, place, chain),
            Some(path) => {
                let directory = path.parent().unwrap_or(place.directory).to_owned();
                if !path.is_file() {
                    let message = format!("the file `{}` does not exist", path.display());
                    self.report.missing(&extends.position, &view.path, path, message);
                    return service;
                }
                let Some(mut other) = self.file(path, &directory, place.variables) else {
                    return service;
                };
                settle(&mut other);
                let empty = Mapping::new();
                let services = other.get("services").and_then(Node::as_mapping).unwrap_or(&empty);
                let place = Place { services, directory: &directory, variables: place.variables };
                self.extend_from(&view, &target, &place, chain)
            }
        };
        match base {
            Some(base) => merge(base, service, &["services", &own]),
            None => service,
        }
    }

    fn extend_from(
        &mut self,
        view: &View<'_>,
        target: &str,
        place: &Place<'_>,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Option<Node> {
        let Some(base) = place.services.get(target) else {
            let hint = suggestion(target, place.services.keys().map(String::as_str));
            view.problem(self.report, format!("there is no service `{target}`{hint}"));
            return None;
        };
        Some(self.extend(base.clone(), place, chain))
    }

    fn include_all(
        &mut self,
        mut tree: Node,
        directory: &Path,
        variables: &Variables,
    ) -> Option<Node> {
        let Some(mut include) = tree.as_mapping_mut().and_then(|map| map.shift_remove("include"))
        else {
            return Some(tree);
        };
        if include.as_text().is_some() {
            include.value = Value::Sequence(vec![include.clone()]);
        }
        let mut whole: Option<Node> = None;
        for item in View::new(&include, "include").items(self.report) {
            let Some(included) = self.include(&item, directory, variables) else { continue };
            whole = Some(match whole {
                None => included,
                Some(whole) => merge(whole, included, &[]),
            });
        }
        Some(match whole {
            None => tree,
            Some(mut whole) => {
                // The name of an included project is its own affair.
                if let Some(root) = whole.as_mapping_mut() {
                    root.shift_remove("name");
                }
                merge(whole, tree, &[])
            }
        })
    }

    fn include(
        &mut self,
        item: &View<'_>,
        directory: &Path,
        variables: &Variables,
    ) -> Option<Node> {
        let base = Base { directory, variables };
        let long = item.node.as_mapping().is_some();
        let paths = if long {
            item.get("path").map(|path| path.texts(self.report)).unwrap_or_default()
        } else {
            item.text(self.report).into_iter().collect()
        };
        let files: Vec<PathBuf> = paths.iter().map(|path| base.absolute(path)).collect();
        let Some(first) = files.first() else {
            item.problem(self.report, "`path` is missing; name the file to include");
            return None;
        };
        for file in &files {
            if file.is_file() {
                continue;
            }
            let message = if file.to_string_lossy().contains("://") {
                "only files of this machine can be included".to_owned()
            } else {
                format!("the file `{}` does not exist", file.display())
            };
            self.report.missing(&item.node.position, &item.path, file, message);
            return None;
        }
        if self.included.len() >= MAX_INCLUDES || !self.included.insert(first.clone()) {
            let message = format!("`{}` is included more than once", first.display());
            item.problem(self.report, message);
            return None;
        }
        let directory = item
            .get("project_directory")
            .and_then(|directory| directory.text(self.report))
            .map(|text| base.absolute(&text))
            .or_else(|| first.parent().map(Path::to_owned))?;
        let variables = self.include_variables(item, &base, &directory)?;
        self.group(&files, &directory, &variables)
    }

    /// The outer variables over the included project's own.
    fn include_variables(
        &mut self,
        item: &View<'_>,
        base: &Base<'_>,
        directory: &Path,
    ) -> Option<Variables> {
        let named = item.get("env_file").map(|files| files.texts(self.report));
        let files = match &named {
            Some(names) => names.iter().map(|name| base.absolute(name)).collect(),
            None => vec![directory.join(".env")],
        };
        let mut variables = base.variables.clone();
        for file in files {
            if named.is_none() && !file.is_file() {
                continue;
            }
            let message = match read_text(&file) {
                Ok(text) => match environment::parse(&text, base.variables) {
                    Ok(values) => {
                        for (name, value) in values {
                            if !base.variables.contains_key(&name) {
                                variables.insert(name, value);
                            }
                        }
                        continue;
                    }
                    Err(error) => format!("`{}`: {error}", file.display()),
                },
                Err(error) => format!("cannot read `{}`: {error}", file.display()),
            };
            item.problem(self.report, message);
            return None;
        }
        Some(variables)
    }
}

/// Where an extended service is looked up.
struct Place<'p> {
    services: &'p Mapping,
    directory: &'p Path,
    variables: &'p Variables,
}
