//! Holds what ARCHITECTURE.md says about the crates: who may import whom, and what each must have.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Each crate, and the crates of the workspace that it may import: for tests and build scripts too.
const ARROWS: [(&str, &[&str]); 7] = [
    ("skysail-proto", &[]),
    ("skysail-selection", &["skysail-proto"]),
    ("skysail-cache", &["skysail-proto"]),
    ("skysail-containers", &["skysail-proto"]),
    ("skysail", &["skysail-proto", "skysail-selection", "skysail-cache", "skysail-containers"]),
    // Drives the product over the wire; experiments may need a policy or a controller alone.
    (
        "skysail-bench",
        &["skysail-proto", "skysail-selection", "skysail-cache", "skysail-containers"],
    ),
    ("skysail-xtask", &[]),
];

fn metadata() -> Result<Metadata, cargo_metadata::Error> {
    MetadataCommand::new()
        .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .no_deps()
        .exec()
}

fn folder(package: &Package) -> Result<&Path, Box<dyn Error>> {
    let folder = package.manifest_path.parent().ok_or("a manifest is in a folder")?;
    Ok(folder.as_std_path())
}

#[test]
fn every_crate_imports_only_what_its_arrows_allow() -> Result<(), Box<dyn Error>> {
    let metadata = metadata()?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into();
    let packages = metadata.workspace_packages();
    let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(
        members,
        allowed.keys().copied().collect(),
        "a crate without arrows, or none for them"
    );

    let wrong: Vec<String> = packages
        .iter()
        .flat_map(|package| {
            package.dependencies.iter().map(move |dependency| (package, dependency))
        })
        .filter(|(_, dependency)| members.contains(dependency.name.as_str()))
        .filter(|(package, dependency)| {
            !allowed[package.name.as_str()].contains(&dependency.name.as_str())
        })
        .map(|(package, dependency)| {
            format!("{} -> {} ({})", package.name, dependency.name, dependency.kind)
        })
        .collect();
    assert!(wrong.is_empty(), "not allowed: {wrong:?}");
    Ok(())
}

#[test]
fn every_crate_has_a_readme() -> Result<(), Box<dyn Error>> {
    for package in metadata()?.workspace_packages() {
        let readme = folder(package)?.join("README.md");
        assert!(readme.is_file(), "{} is missing", readme.display());
    }
    Ok(())
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() -> Result<(), Box<dyn Error>> {
    for package in metadata()?.workspace_packages() {
        let manifest: toml::Table = std::fs::read_to_string(&package.manifest_path)?.parse()?;
        let inherited = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        assert_eq!(
            inherited.and_then(toml::Value::as_bool),
            Some(true),
            "{} does not say `[lints] workspace = true`",
            package.name
        );
    }
    Ok(())
}
