//! The loader's front: from a request to a checked project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::Project;
use crate::report::{Problem, Report};
use crate::source::environment;
use crate::source::interpolate::Variables;
use crate::source::read::{self, Reader};
use crate::value::name;
use crate::{check, schema, typing};

/// What to load.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// The files, later ones over earlier ones. Empty: `COMPOSE_FILE`, or `compose.yaml`, `compose.yml`,
    /// `docker-compose.yaml` or `docker-compose.yml` in `directory` or a parent, with its override file.
    pub files: Vec<PathBuf>,
    /// Where to look, and where relative `files` begin.
    pub directory: PathBuf,
    /// The project's name, over everything that the files say.
    pub project_name: Option<String>,
    /// Active profiles, besides those in `COMPOSE_PROFILES`. `*` activates all.
    pub profiles: Vec<String>,
    /// The caller's environment. It wins over the `.env` file beside the first file.
    pub environment: BTreeMap<String, String>,
}

/// Why a project cannot be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// No Compose file here or above.
    #[error("there is no `compose.yaml` in `{}` or a directory above it", .directory.display())]
    NotFound {
        /// Where the search began.
        directory: PathBuf,
    },
    /// The `.env` file cannot be used.
    #[error("cannot read the variables in `{}`: {reason}", .file.display())]
    Variables {
        /// The file.
        file: PathBuf,
        /// What is wrong, with its line.
        reason: String,
    },
    /// No name can be made of what there is.
    #[error("`{name}` cannot name a project; give it another name with letters or digits")]
    Name {
        /// What was to become the name.
        name: String,
    },
    /// Mistakes in the files, in the order they stand there.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Loads a project: reads, merges, interpolates and checks its files, and reads the files that they name.
///
/// # Errors
/// All mistakes of the files together, or the reason why there is nothing to read.
pub fn load(mut request: LoadRequest) -> Result<Project, LoadError> {
    request.directory = std::path::absolute(&request.directory)
        .map_err(|_| LoadError::NotFound { directory: request.directory })?;
    let files = files(&request)?;
    let directory =
        files.first().and_then(|file| file.parent()).unwrap_or(&request.directory).to_owned();
    let mut variables = variables(&directory, &request.environment)?;
    let name = project_name(&request, &files, &directory, &variables)?;
    variables.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
    let profiles = profiles(&request, &variables);

    let mut report = Report::default();
    let Some(tree) = Reader::new(&mut report).group(&files, &directory, &variables) else {
        return Err(LoadError::Problems(report.finish().err().unwrap_or_default()));
    };
    schema::check(&tree, &mut report);
    let mut context = typing::Context {
        directory: &directory,
        variables: &variables,
        profiles: &profiles,
        report: &mut report,
    };
    let mut project = typing::project(&tree, name, files, &mut context);
    check::check(&tree, &mut project, &mut report);
    project.findings = report.finish().map_err(LoadError::Problems)?;
    Ok(project)
}

fn files(request: &LoadRequest) -> Result<Vec<PathBuf>, LoadError> {
    let named: Vec<PathBuf> = if request.files.is_empty() {
        let separator =
            request.environment.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
        let listed = request.environment.get("COMPOSE_FILE").map_or("", String::as_str);
        let parts = listed.split(separator).filter(|part| !part.is_empty());
        parts.map(PathBuf::from).collect()
    } else {
        request.files.clone()
    };
    if named.is_empty() {
        return read::discover(&request.directory)
            .ok_or_else(|| LoadError::NotFound { directory: request.directory.clone() });
    }
    Ok(named.iter().map(|file| request.directory.join(file)).collect())
}

fn variables(
    directory: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<Variables, LoadError> {
    let file = directory.join(".env");
    let mut variables = environment.clone();
    if !file.is_file() {
        return Ok(variables);
    }
    let fail = |reason: String| LoadError::Variables { file: file.clone(), reason };
    let text = read::read_text(&file).map_err(|error| fail(error.to_string()))?;
    let values = environment::parse(&text, environment).map_err(|error| fail(error.to_string()))?;
    for (name, value) in values {
        variables.entry(name).or_insert(value);
    }
    Ok(variables)
}

fn project_name(
    request: &LoadRequest,
    files: &[PathBuf],
    directory: &Path,
    variables: &Variables,
) -> Result<String, LoadError> {
    let filled = |name: &String| !name.is_empty();
    let written = request
        .project_name
        .clone()
        .filter(filled)
        .or_else(|| read::declared_name(files, variables).filter(filled))
        .or_else(|| variables.get("COMPOSE_PROJECT_NAME").cloned().filter(filled))
        .or_else(|| directory.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "default".to_owned());
    let name = name::label(&written);
    if name.is_empty() { Err(LoadError::Name { name: written }) } else { Ok(name) }
}

fn profiles(request: &LoadRequest, variables: &Variables) -> Vec<String> {
    let more = variables.get("COMPOSE_PROFILES").map_or("", String::as_str);
    let more = more.split(',').map(str::trim).filter(|profile| !profile.is_empty());
    request.profiles.iter().cloned().chain(more.map(str::to_owned)).collect()
}
