//! The table of docs/reference/pods.md, from the cases; and that no field of the specification is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cases::{Expect, cases};

const BEGIN: &str =
    "<!-- The tables are generated; BERTH_WRITE_DOCS=1 cargo nextest run -p berth document -->\n";
const END: &str = "<!-- end of the tables -->\n";

/// The types of the specification whose fields must be accounted for, with what people call them.
const TYPES: [(&str, &str); 16] = [
    ("PodSpec", "The pod"),
    ("PodSecurityContext", "Security of the pod"),
    ("Container", "Containers"),
    ("SecurityContext", "Security of a container"),
    ("Capabilities", "Capabilities"),
    ("ResourceRequirements", "Resources"),
    ("Lifecycle", "Hooks"),
    ("LifecycleHandler", "What a hook does"),
    ("Probe", "Probes"),
    ("ContainerPort", "Ports"),
    ("EnvVarSource", "Where a variable comes from"),
    ("EnvFromSource", "Where many variables come from"),
    ("VolumeMount", "Mounts"),
    ("Volume", "Volumes"),
    ("VolumeProjection", "Sources of a projected volume"),
    ("PodDNSConfig", "DNS"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All fields as `Type.field`.
fn fields() -> BTreeSet<String> {
    let schema = root().join("crates/api/objects/data/schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(schema).unwrap()).unwrap();
    let of = |kind: &str| {
        let properties = schema[format!("io.k8s.api.core.v1.{kind}")]["p"].as_object().cloned();
        let properties = properties.unwrap_or_else(|| panic!("the schema has no {kind}"));
        properties.into_iter().map(move |(field, _)| field).collect::<Vec<_>>()
    };
    TYPES
        .iter()
        .flat_map(|(kind, _)| of(kind).into_iter().map(move |field| format!("{kind}.{field}")))
        .collect()
}

fn tables() -> String {
    let mut rows: BTreeMap<&str, Vec<(String, String)>> = BTreeMap::new();
    for case in cases() {
        let (what, by) = match &case.expect {
            Expect::Says(..) | Expect::Has(..) | Expect::Becomes(_) => ("works", case.name),
            Expect::Refused(_) => ("**refused**", case.name),
            Expect::Rejected(_) => ("**rejected** by the API", case.name),
            Expect::Waits(_) => ("works", case.name),
            Expect::Held(by) => ("works", *by),
            Expect::Nothing(why) => (*why, ""),
        };
        for field in case.fields {
            let (name, only) =
                field.split_once('=').map_or((*field, ""), |(name, value)| (name, value));
            let what = if only.is_empty() { what.to_owned() } else { format!("`{only}`: {what}") };
            rows.entry(name).or_default().push((what, by.to_owned()));
        }
    }
    let mut text = String::new();
    for (kind, title) in TYPES {
        write!(text, "\n### {title} (`{kind}`)\n\n| Field | | Held by |\n|---|---|---|\n").unwrap();
        for (field, entries) in &rows {
            let Some(field) = field.strip_prefix(&format!("{kind}.")) else { continue };
            let what: BTreeSet<&str> = entries.iter().map(|(what, _)| what.as_str()).collect();
            // Where the field works, what is refused are mistakes.
            let works = what.contains("works");
            let what = what.into_iter().filter(|what| !works || !what.starts_with("**"));
            let what = what.collect::<Vec<_>>().join("; ");
            let by: BTreeSet<String> = entries
                .iter()
                .filter(|(_, by)| !by.is_empty())
                .map(|(_, by)| format!("`{by}`"))
                .collect();
            let by = by.into_iter().collect::<Vec<_>>().join(", ");
            writeln!(text, "| `{field}` | {what} | {by} |").unwrap();
        }
    }
    text
}

#[test]
fn every_field_is_accounted_for() {
    let cases = cases();
    let told: BTreeSet<String> = cases
        .iter()
        .flat_map(|case| case.fields)
        .map(|field| field.split('=').next().unwrap().to_owned())
        .collect();
    let known = fields();
    let missing: Vec<_> = known.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
    let names: BTreeSet<&str> =
        cases.iter().map(|case| case.name).filter(|name| !name.is_empty()).collect();
    assert_eq!(names.len(), cases.iter().filter(|case| !case.name.is_empty()).count());
    for case in &cases {
        if let Expect::Held(place) = &case.expect {
            assert!(root().join(place).exists(), "there is no {place}");
        }
    }
}

#[test]
fn the_document_says_what_the_cases_say() {
    let path = root().join("docs/reference/pods.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the tables begin");
    let (_, after) = rest.split_once(END).expect("the tables end");
    let wanted = format!("{before}{BEGIN}{}\n{END}{after}", tables());
    if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).unwrap();
    } else {
        assert!(text == wanted, "run BERTH_WRITE_DOCS=1 cargo nextest run -p berth document");
    }
}
