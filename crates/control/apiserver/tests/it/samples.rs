//! One manifest of every kind, for tests that go through all of them.

use berth_objects::{Object, Resource};
use serde_json::Value;

pub const MANIFESTS: &str = include_str!("samples.yaml");

/// A sample with the resource that serves it.
pub struct Sample {
    pub resource: &'static Resource<'static>,
    pub object: Value,
}

impl Sample {
    /// The path of the set it belongs to.
    pub fn folder(&self) -> String {
        let root = match self.resource.group {
            "" => format!("/api/{}", self.resource.version),
            group => format!("/apis/{group}/{}", self.resource.version),
        };
        let namespace = if self.resource.namespaced() { "/namespaces/default" } else { "" };
        format!("{root}{namespace}/{}", self.resource.plural)
    }

    /// Its own path.
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.object.name())
    }
}

/// All samples, in the order of the file.
pub fn samples() -> Vec<Sample> {
    let sample = |text: &str| {
        let object = berth_objects::yaml::parse(text).unwrap();
        let (version, kind) = (object.text(&["apiVersion"]), object.text(&["kind"]));
        let resource = berth_rules::resources()
            .find(|resource| resource.api_version() == version && resource.kind == kind)
            .unwrap_or_else(|| panic!("{version} {kind} is not served"));
        Sample { resource, object }
    };
    MANIFESTS.split("\n---\n").map(sample).collect()
}

#[test]
fn there_is_a_sample_of_every_kind() {
    let samples = samples();
    // Access control, bindings and definitions of kinds have tests of their own.
    let elsewhere = [
        "apiextensions.k8s.io",
        "rbac.authorization.k8s.io",
        "certificates.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "metrics.k8s.io",
    ];
    for resource in berth_rules::resources() {
        let found = samples.iter().any(|sample| std::ptr::eq(sample.resource, resource));
        assert!(
            found || elsewhere.contains(&resource.group) || resource.kind == "Binding",
            "{} {} has no sample",
            resource.api_version(),
            resource.kind
        );
    }
}
