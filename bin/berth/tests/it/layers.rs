//! Folders are layers: a crate uses its own folder or one further up the list.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// From the bottom up. Folders on one line are closed to each other.
const LAYERS: [&[&str]; 7] = [
    &["base"],
    &["api"],
    &["images"],
    &["security"],
    &["control", "node", "traffic"],
    &["user"],
    &["bin"],
];

fn layer(root: &Path, manifest: &str) -> String {
    let relative = PathBuf::from(manifest).strip_prefix(root).unwrap().to_owned();
    let parts: Vec<String> =
        relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if parts[0] == "bin" { "bin".to_owned() } else { parts[1].clone() }
}

fn level(folder: &str) -> usize {
    LAYERS
        .iter()
        .position(|folders| folders.contains(&folder))
        .unwrap_or_else(|| panic!("folder `{folder}` is not in the list of layers"))
}

#[test]
fn no_crate_uses_a_layer_above_or_beside_its_own() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let root = PathBuf::from(metadata["workspace_root"].as_str().unwrap());
    let packages = metadata["packages"].as_array().unwrap();
    let folders: BTreeMap<&str, String> = packages
        .iter()
        .map(|package| {
            (
                package["name"].as_str().unwrap(),
                layer(&root, package["manifest_path"].as_str().unwrap()),
            )
        })
        .collect();
    assert!(folders.len() > 3, "the workspace has crates");
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let folder = &folders[name];
        for dependency in package["dependencies"].as_array().unwrap() {
            // Tests may use what is above, to be run as users run it.
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = dependency["name"].as_str().unwrap();
            let Some(used_folder) = folders.get(used) else { continue };
            if folder != used_folder && level(used_folder) >= level(folder) {
                wrong.push(format!("{folder}/{name} uses {used_folder}/{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
