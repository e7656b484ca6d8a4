//! Every method has a recipe and passes the contract test.
use super::Violation;
use super::source::{File, code};

/// How tests call the contract: itself, or what a crate's methods share to call it.
const CHECKS: [&str; 2] = ["check_method(", "check_method_of::<"];

/// Looks at each file of a `methods` folder, its `mod.rs` aside.
pub(super) fn check(files: &[File]) -> Vec<Violation> {
    files
        .iter()
        .filter_map(|file| Some((file, method(&file.path)?)))
        .flat_map(|(file, method)| {
            let recipe = format!("crates/{}/recipes/{}.json", method.package, method.name);
            let missing = !files.iter().any(|other| other.path == recipe);
            let missing = missing.then(|| Violation::new(file, 1, format!("no recipe {recipe}")));
            let untested = !calls_contract(&file.text);
            let untested = untested.then(|| Violation::new(file, 1, "its tests do not call check_method"));
            missing.into_iter().chain(untested)
        })
        .collect()
}

struct Method<'a> {
    package: &'a str,
    name: &'a str,
}

fn method(path: &str) -> Option<Method<'_>> {
    let (package, inside) = path.strip_prefix("crates/")?.split_once("/src/methods/")?;
    let name = inside.strip_suffix(".rs")?;
    // A method that needs a folder is its `mod.rs`.
    let name = name.strip_suffix("/mod").unwrap_or(name);
    (name != "mod" && !name.contains('/')).then_some(Method { package, name })
}

fn calls_contract(text: &str) -> bool {
    let tests = text.split_once("#[cfg(test)]").map_or("", |(_, tests)| tests);
    tests.lines().any(|line| CHECKS.iter().any(|check| code(line).contains(check)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_needs_a_recipe_and_the_contract_test() {
        let path = "crates/ssl-vision/src/methods/simclr.rs";
        let tested = "//! A.\n#[cfg(test)]\nmod tests {\n    fn a() { check_method(1) }\n}\n";
        let recipe = File::new("crates/ssl-vision/recipes/simclr.json", "{}");
        assert!(check(&[File::new(path, tested), recipe.clone()]).is_empty());
        let other = File::new("crates/ssl-vision/recipes/rotation.json", "{}");
        let found = check(&[File::new(path, tested), other]);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("no recipe crates/ssl-vision/recipes/simclr.json"), "{found:?}");
        for untested in ["//! A.\n", "//! check_method(\n", "#[cfg(test)]\n// check_method(\n"] {
            assert_eq!(check(&[File::new(path, untested), recipe.clone()]).len(), 1, "{untested}");
        }
        for no_method in ["mod.rs", "dino/head.rs"] {
            let path = format!("crates/ssl-vision/src/methods/{no_method}");
            assert!(check(&[File::new(&path, "//! A.\n")]).is_empty(), "{path}");
        }
    }

    #[test]
    fn a_method_in_a_folder_is_not_overlooked() {
        let found = check(&[File::new("crates/ssl-text/src/methods/bert/mod.rs", "//! A.\n")]);
        let messages: Vec<&str> = found.iter().map(|violation| violation.message.as_str()).collect();
        let recipe = "no recipe crates/ssl-text/recipes/bert.json";
        assert_eq!(messages, [recipe, "its tests do not call check_method"]);
    }
}
