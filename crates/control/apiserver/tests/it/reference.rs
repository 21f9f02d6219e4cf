//! docs/reference/api.md says what is served. Its table is written from the table of kinds by this test, when asked to.

use std::fmt::Write;
use std::path::PathBuf;

use berth_objects::{Resource, VERBS};

const BEGIN: &str = "<!-- The table is generated; BERTH_WRITE_DOCS=1 cargo nextest run -p berth-apiserver reference -->\n";
const END: &str = "<!-- end of the table -->\n";

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/api.md")
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" ")
}

fn row(resource: &Resource) -> String {
    let parts: Vec<_> = resource.subresources.iter().map(|part| part.name()).collect();
    let columns: Vec<_> = resource
        .columns
        .iter()
        .map(
            |column| {
                if column.wide { format!("({})", column.name) } else { column.name.to_owned() }
            },
        )
        .collect();
    let kept = resource.verbs.len() == VERBS.len();
    let names = [&[resource.plural], resource.short].concat();
    format!(
        "| {} | {} | {} | {} | {} | {} | {} |\n",
        resource.kind,
        code(&names),
        if resource.namespaced() { "namespace" } else { "cluster" },
        code(&parts),
        code(resource.selectable),
        if kept { columns.join(", ") } else { String::new() },
        match (kept, berth_rules::inert(resource)) {
            (false, _) if resource.verbs.contains(&"create") => "answered, not kept: `create` only",
            (false, _) => "answered, not kept: `get` and `list` only",
            (true, Some(_)) => "kept only",
            (true, None) => "",
        },
    )
}

fn table() -> String {
    let mut text = String::new();
    let mut versions: Vec<String> = Vec::new();
    for resource in berth_rules::resources() {
        if !versions.contains(&resource.api_version()) {
            versions.push(resource.api_version());
        }
    }
    versions[1..].sort();
    for version in versions {
        write!(
            text,
            "\n### {version}\n\n| Kind | Names | Scope | Subresources | Fields to select by | Columns (only wide) | |\n\
             |---|---|---|---|---|---|---|\n"
        )
        .unwrap();
        let mut rows: Vec<_> = berth_rules::resources()
            .filter(|resource| resource.api_version() == version)
            .map(row)
            .collect();
        rows.sort();
        text.extend(rows);
    }
    text + "\n"
}

#[test]
fn the_reference_lists_what_is_served() {
    let page = std::fs::read_to_string(file()).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the page has an end of the table");
    let wanted = format!("{head}{BEGIN}{}{END}{tail}", table());
    if std::env::var_os("BERTH_WRITE_DOCS").is_some() {
        std::fs::write(file(), &wanted).unwrap();
    }
    let page = std::fs::read_to_string(file()).unwrap();
    assert!(page == wanted, "docs/reference/api.md is not what is served; {BEGIN}");
    for verb in VERBS {
        assert!(page.contains(&format!("`{verb}`")), "the page does not say {verb}");
    }
}
