//! Paths from outside: of a catalog, a manifest or an archive.

use std::path::{Path, PathBuf};

/// Checks that a path from outside stays within the folder it is joined to, and returns it without `.` and
/// doubled slashes.
pub(crate) fn relative_path(path: &str) -> Result<PathBuf, String> {
    if path.starts_with('/') || path.contains(['\\', '\0', ':']) {
        return Err(format!("expected a relative path with forward slashes, got `{}`", path.escape_debug()));
    }
    let mut clean = PathBuf::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(format!("expected a path that stays inside, got `{}`", path.escape_debug())),
            part => clean.push(part),
        }
    }
    if clean.as_os_str().is_empty() {
        return Err("expected the path of a file, got an empty one".to_owned());
    }
    Ok(clean)
}

/// Writes a relative path with forward slashes.
pub(crate) fn slashes(path: &Path) -> String {
    path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Component;

    proptest! {
        #[test]
        fn an_accepted_path_stays_inside(path in "[a./\\\\:]{0,12}") {
            if let Ok(clean) = relative_path(&path) {
                prop_assert!(clean.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert!(Path::new("/store").join(&clean).starts_with("/store"));
            }
        }

        #[test]
        fn a_cleaned_path_is_accepted_unchanged(path in "([a-z.]{1,4}/){0,3}[a-z]{1,4}") {
            if let Ok(clean) = relative_path(&path) {
                prop_assert_eq!(relative_path(&slashes(&clean)).unwrap(), clean);
            }
        }
    }
}
