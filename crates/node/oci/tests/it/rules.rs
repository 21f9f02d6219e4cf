//! The table of the specification's rules is true: every test it names is there, and every rule has one.

use std::path::Path;

#[test]
fn every_rule_in_the_reference_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("../../../docs/reference/oci.md")).unwrap();
    let mut rules = 0;
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [place, rule, tests] = cells[..] else { panic!("{line}") };
        assert!(place.ends_with(".md`") && !rule.is_empty() && !tests.is_empty(), "{line}");
        rules += 1;
        for test in tests.split(", ").map(|test| test.trim_matches('`')) {
            let (module, name) = test.split_once("::").unwrap_or_else(|| panic!("{line}"));
            let path = root.join("tests/it").join(format!("{module}.rs"));
            let source =
                std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{test} of {line}"));
            let found = source.contains(&format!("#[test]\nfn {name}()"));
            assert!(found, "{test} is named for a rule and not there: {line}");
        }
    }
    assert!(rules > 90, "only {rules} rules are listed");
}
