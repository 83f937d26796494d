//! The recipes are built on what every user has.

use std::path::Path;

/// Calls `visit` with the path and text of each source below a directory.
fn for_each_source(directory: &Path, visit: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("a readable directory").path();
        if path.is_dir() {
            for_each_source(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path, &std::fs::read_to_string(&path).expect("a readable source"));
        }
    }
}

#[test]
fn recipes_use_nothing_of_the_client_that_is_not_public() {
    const PRIVATE: [&str; 7] = [
        "coordd_proto",
        "crate::call::",
        "crate::connector",
        "crate::convert",
        "crate::session",
        "crate::watcher::",
        ".shared()",
    ];
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/recipes");
    let mut sources = 0;
    for_each_source(&recipes, &mut |path, text| {
        sources += 1;
        // Documentation shows a generated client, and takes the one that is at hand.
        let text: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for private in PRIVATE {
            assert!(!text.contains(private), "{} uses {private}", path.display());
        }
    });
    assert!(sources > 10, "{sources} sources in {}", recipes.display());
}
