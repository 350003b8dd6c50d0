//! The table "Which test shows what" in CONTRIBUTING.md names tests that exist.

use std::{fs, path::Path};

/// The sources in which a test of this name may stand.
fn sources(name: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places =
        [format!("tests/{name}.rs"), format!("src/{name}.rs"), format!("src/{name}/tests.rs")];
    places.iter().filter_map(|place| fs::read_to_string(root.join(place)).ok()).collect()
}

/// Whether a function of this name is there; one that ends in "…" is shortened.
fn has(sources: &[String], function: &str) -> bool {
    let start = match function.strip_suffix('…') {
        Some(start) => format!("\nfn {start}"),
        None => format!("\nfn {function}("),
    };
    sources.iter().any(|text| text.replace("\n    fn ", "\nfn ").contains(&start))
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let text = include_str!("../CONTRIBUTING.md");
    let (_, rest) = text.split_once("## Which test shows what").expect("the table has a heading");
    let (table, _) = rest.split_once("\n## ").expect("something follows the table");
    let named: Vec<(&str, &str)> =
        table.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    assert!(named.len() > 50, "{} were found", named.len());
    for (file, function) in named {
        let sources = sources(file);
        assert!(!sources.is_empty(), "{file} is no file of tests");
        assert!(has(&sources, function), "{file} has no {function}");
    }
}
