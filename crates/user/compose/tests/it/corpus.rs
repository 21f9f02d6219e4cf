//! Files as people write them: our own handful always, the large collections where they are at hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_compose::{LoadError, Project, objects};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use proptest::prelude::*;
use serde_json::Value;

use super::support::{Folder, data, one};

/// Files that are refused, and the words that every problem with them must hold. Most are templates whose variables a
/// platform sets.
const REFUSED: &[(&str, &str)] = &[
    // `backrest/data` without `./` is the name of a volume that is described nowhere.
    ("templates/backrest.yaml", "`backrest/"),
    ("samples/plex.yaml", UNSET),
    ("templates/ampache.yaml", UNSET),
    ("templates/audiobookshelf.yaml", UNSET),
    ("templates/bazarr.yaml", UNSET),
    ("templates/cloudflare-ddns.yaml", UNSET),
    ("templates/cloudflared.yaml", UNSET),
    ("templates/crowdsec.yaml", UNSET),
    ("templates/documenso.yaml", UNSET),
    ("templates/evershop.yaml", UNSET),
    ("templates/glitchtip.yaml", UNSET),
    ("templates/java.yaml", UNSET),
    ("templates/lavalink.yaml", UNSET),
    ("templates/livekit.yaml", UNSET),
    ("templates/ntfy.yaml", UNSET),
    ("templates/openobserve.yaml", UNSET),
    ("templates/postgres-pgdog.yaml", UNSET),
    ("templates/pre0.22.5-supabase.yaml", UNSET),
    ("templates/seafile.yaml", UNSET),
    ("templates/spliit.yaml", UNSET),
    ("templates/supabase.yaml", UNSET),
    ("templates/teable.yaml", UNSET),
    ("templates/zulip.yaml", UNSET),
];
const UNSET: &str = "is not set";

const OWN: &[(&str, &str)] = &[
    ("votes", include_str!("corpus/votes.yaml")),
    ("anchors", include_str!("corpus/anchors.yaml")),
    ("settings", include_str!("corpus/settings.yaml")),
    ("kitchen", include_str!("corpus/kitchen.yaml")),
];

/// Loads the file in a directory of its own, where the files and folders it names are made as they are found missing.
fn load(text: &str) -> Result<Project, Vec<String>> {
    let folder = Folder::new(&[("compose.yaml", text)]);
    for _ in 0..3 {
        let problems = match folder.load() {
            Ok(project) => return Ok(project),
            Err(LoadError::Problems(problems)) => problems,
            Err(other) => return Err(vec![other.to_string()]),
        };
        let missing: Vec<&PathBuf> = problems
            .iter()
            .filter_map(|problem| problem.missing.as_ref())
            .filter(|path| path.starts_with(folder.path()))
            .collect();
        if missing.is_empty() || missing.len() < problems.len() {
            let other = problems.iter().filter(|problem| problem.missing.is_none());
            for problem in problems.iter() {
                assert!(problem.position.line > 0 && problem.position.column > 0);
            }
            return Err(other.map(ToString::to_string).collect());
        }
        for path in missing {
            let directory = problems
                .iter()
                .any(|p| p.missing.as_ref() == Some(path) && p.message.contains("build context"));
            if directory {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, "").unwrap();
            }
        }
    }
    Err(vec!["files stay missing however often they are made".to_owned()])
}

/// Loads and plans, and says what is wrong with the file or with what became of it.
fn judge(text: &str) -> Vec<String> {
    let project = match load(text) {
        Ok(project) => project,
        Err(problems) => return problems,
    };
    let images: BTreeMap<_, _> = project
        .services
        .keys()
        .map(|key| {
            let image = berth_compose::ServiceImage {
                reference: format!("test/{}", key.to_lowercase()),
                ..berth_compose::ServiceImage::default()
            };
            (key.clone(), image)
        })
        .collect();
    let planned = objects(&project, &images).unwrap();
    let mut wrong = Vec::new();
    let mut names = std::collections::HashSet::new();
    for planned in &planned {
        let kind = planned.object["kind"].as_str().unwrap().to_owned();
        let name = planned.object["metadata"]["name"].as_str().unwrap().to_owned();
        if name.is_empty() || name.len() > 63 + 20 {
            wrong.push(format!("bad name {kind}/{name}"));
        }
        if let Some(difference) = typed(&planned.object) {
            wrong.push(format!("{kind}/{name}: {difference}"));
        }
        if !names.insert((kind.clone(), name.clone())) {
            wrong.push(format!("two objects {kind}/{name}"));
        }
    }
    let workloads = planned
        .iter()
        .filter(|planned| matches!(planned.object["kind"].as_str(), Some("Deployment" | "Pod")));
    if workloads.count() != project.services.len() {
        wrong.push("a service without a workload".to_owned());
    }
    wrong
}

/// What the typed API loses of the object or refuses in it.
fn typed(object: &Value) -> Option<String> {
    match object["kind"].as_str()? {
        "Namespace" => back::<Namespace>(object),
        "Secret" => back::<Secret>(object),
        "ConfigMap" => back::<ConfigMap>(object),
        "PersistentVolumeClaim" => back::<PersistentVolumeClaim>(object),
        "Service" => back::<Service>(object),
        "Pod" => back::<Pod>(object),
        "Deployment" => back::<Deployment>(object),
        "NetworkPolicy" => back::<NetworkPolicy>(object),
        other => Some(format!("unexpected kind {other}")),
    }
}

fn back<T: Serialize + DeserializeOwned>(object: &Value) -> Option<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Err(error) => Some(error.to_string()),
        Ok(typed) => {
            let back = serde_json::to_value(typed).unwrap();
            (back != *object).then(|| format!("came back as {back}\nfrom {object}"))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is torn out of a file, every step copes with the rest.
    #[test]
    fn torn_files_never_panic(file in 0..OWN.len(), from in 0_usize..2500, length in 0_usize..40) {
        let characters: Vec<char> = OWN[file].1.chars().collect();
        let from = from % characters.len();
        let rest = characters.iter().skip(from + length);
        let torn: String = characters.iter().take(from).chain(rest).collect();
        if let Err(LoadError::Problems(problems)) = one(&torn).load() {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| problem.position.line > 0));
        }
    }
}

#[test]
fn our_own_files_load_and_plan() {
    for (name, text) in OWN {
        assert_eq!(judge(text), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_files_of_the_collections_load_and_plan() {
    let mut files: Vec<PathBuf> = Vec::new();
    for folder in ["compose/samples", "compose/templates"].iter().filter_map(|name| data(name)) {
        let entries = std::fs::read_dir(folder).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.sort();
    // Without the collections the test still holds something: the same judgement on our own files.
    let mut texts: Vec<(String, String)> =
        OWN.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    for file in &files {
        let folder = file.parent().and_then(Path::file_name).unwrap().to_string_lossy();
        let name = format!("{folder}/{}", file.file_name().unwrap().to_string_lossy());
        texts.push((name, std::fs::read_to_string(file).unwrap()));
    }
    let mut unexpected = Vec::new();
    for (name, text) in &texts {
        let problems = judge(text);
        let allowed = REFUSED.iter().find(|(refused, _)| refused == name);
        match allowed {
            Some((_, reason)) => {
                if problems.is_empty() || !problems.iter().all(|problem| problem.contains(reason)) {
                    unexpected.push(format!("{name}: expected only `{reason}`: {problems:?}"));
                }
            }
            None => unexpected.extend(problems.iter().map(|problem| format!("{name}: {problem}"))),
        }
    }
    assert!(unexpected.is_empty(), "{} files\n{}", texts.len(), unexpected.join("\n"));
}
