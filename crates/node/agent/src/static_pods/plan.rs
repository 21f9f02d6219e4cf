//! Which static pods begin and which end, from values alone.
//!
//! A file that cannot be used says nothing: the pod it made goes on, since most such files are only half written or
//! mistyped. Only a file that is gone, or says something else, ends its pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::folder::Files;
use super::parse::FileError;

/// Namespace and name.
pub type Key = (String, String);

/// A static pod that is on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Here {
    /// Its file.
    pub file: PathBuf,
    /// What the file made of it.
    pub pod: Arc<Pod>,
    /// It is on its way out.
    pub ending: bool,
}

/// What follows.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// UIDs of pods that end.
    pub end: Vec<String>,
    /// Pods that begin.
    pub start: Vec<(PathBuf, Arc<Pod>)>,
    /// Files that cannot be used, and why.
    pub wrong: BTreeMap<PathBuf, String>,
}

/// The name of a pod.
pub fn key(pod: &Pod) -> Key {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

/// What follows from the files and from the pods that are here, by UID.
pub fn plan(files: &Files, here: &BTreeMap<String, Here>) -> Plan {
    let mut plan = Plan::default();
    let mut taken: BTreeMap<Key, &Path> = BTreeMap::new();
    // Whoever has a name keeps it while his file says so, or says nothing.
    for one in here.values().filter(|one| !one.ending) {
        let stays = match files.get(&one.file) {
            Some(Ok(pod)) => key(pod) == key(&one.pod),
            Some(Err(_)) => true,
            None => false,
        };
        if stays {
            taken.insert(key(&one.pod), &one.file);
        }
    }
    let mut wanted: BTreeMap<&Path, &Arc<Pod>> = BTreeMap::new();
    for (file, said) in files {
        match said {
            Err(why) => drop(plan.wrong.insert(file.clone(), why.clone())),
            Ok(pod) => {
                let owner = *taken.entry(key(pod)).or_insert(file);
                if owner == file {
                    wanted.insert(file, pod);
                } else {
                    let (space, name) = key(pod);
                    let (pod, file_of) = (format!("{space}/{name}"), owner.to_owned());
                    let why = FileError::Taken { pod, file: file_of }.to_string();
                    plan.wrong.insert(file.clone(), why);
                }
            }
        }
    }
    for (uid, one) in here.iter().filter(|(_, one)| !one.ending) {
        let goes_on = match wanted.get(one.file.as_path()) {
            Some(pod) => pod.metadata.uid.as_ref() == Some(uid),
            None => plan.wrong.contains_key(&one.file),
        };
        if !goes_on {
            plan.end.push(uid.clone());
        }
    }
    // The name is free once the last trace of whoever had it is gone.
    let free = |pod: &Pod| here.values().all(|one| key(&one.pod) != key(pod));
    let new = wanted.into_iter().filter(|(_, pod)| free(pod));
    plan.start = new.map(|(file, pod)| (file.to_owned(), pod.clone())).collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let metadata = json!({"namespace": "default", "name": name, "uid": uid});
        Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
    }

    /// Files as `a=name:uid`, or `a=!` for one that cannot be used; pods as `uid=file:name`, with `-` where they end.
    fn planned(files: &str, here: &str) -> String {
        let files = files.split_whitespace().map(|text| {
            let (file, said) = text.split_once('=').unwrap();
            let said = said.split_once(':').map(|(name, uid)| pod(name, uid));
            (PathBuf::from(file), said.ok_or_else(|| "bad".to_owned()))
        });
        let here = here.split_whitespace().map(|text| {
            let (uid, rest) = text.trim_start_matches('-').split_once('=').unwrap();
            let (file, name) = rest.split_once(':').unwrap();
            let (file, pod, ending) = (file.into(), pod(name, uid), text.starts_with('-'));
            (uid.to_owned(), Here { file, pod, ending })
        });
        let plan = plan(&files.collect(), &here.collect());
        let ends = plan.end.iter().map(|uid| format!("-{uid}"));
        let starts = plan.start.iter().map(|(file, pod)| {
            format!("+{}:{}", file.display(), pod.metadata.uid.as_ref().unwrap())
        });
        let wrong = plan.wrong.keys().map(|file| format!("!{}", file.display()));
        ends.chain(starts).chain(wrong).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_file_makes_replaces_and_ends_its_pod() {
        assert_eq!(planned("a=x:1 b=y:2", ""), "+a:1 +b:2");
        assert_eq!(planned("a=x:1", "1=a:x"), "");
        assert_eq!(planned("a=x:2", "1=a:x"), "-1");
        assert_eq!(planned("a=x:2", "-1=a:x"), "", "the old one is not gone yet");
        assert_eq!(planned("a=x:2", ""), "+a:2");
        assert_eq!(planned("a=y:2", "1=a:x"), "-1 +a:2", "another name is free at once");
        assert_eq!(planned("", "1=a:x"), "-1");
        assert_eq!(planned("", "-1=a:x"), "");
        assert_eq!(planned("b=x:2", "1=a:x"), "-1", "renamed");
        assert_eq!(planned("a=x:1", "-1=a:x"), "", "put back before its pod was gone");
    }

    #[test]
    fn a_file_that_cannot_be_used_changes_nothing() {
        assert_eq!(planned("a=! b=y:2", "1=a:x"), "+b:2 !a");
        assert_eq!(planned("a=!", ""), "!a");
        assert_eq!(planned("a=!", "-1=a:x"), "!a");
        assert_eq!(planned("a=! b=x:2", "1=a:x"), "!a !b", "its pod keeps its name");
    }

    #[test]
    fn a_name_is_that_of_one_file() {
        assert_eq!(planned("a=x:1 b=x:2", ""), "+a:1 !b");
        assert_eq!(planned("a=x:1 b=x:2", "2=b:x"), "!a", "whoever runs has it");
        assert_eq!(planned("a=x:1 b=x:3", "2=b:x"), "-2 !a", "also while it is replaced");
        assert_eq!(planned("a=x:1", "2=b:x"), "-2");
        assert_eq!(
            planned("a=y:3 b=y:2", "1=a:x 2=b:y"),
            "!a",
            "its pod goes on under its own name"
        );
    }
}
