//! Every public loss says what it takes and where it is from.
use super::Violation;
use super::source::{File, Function, identifiers, words};

const SECTIONS: [&str; 2] = ["# Shapes", "# Source"];

/// Finds losses without those sections: the public functions in files of losses, those of methods that return a
/// tensor, and those named so anywhere.
pub(super) fn documented(file: &File) -> Vec<Violation> {
    let Some(place) = place(&file.path) else { return Vec::new() };
    file.public_functions()
        .iter()
        .filter(|function| match place {
            Place::Losses => true,
            Place::Methods => named_so(function) || returns_a_tensor(function),
            Place::Elsewhere => named_so(function),
        })
        .flat_map(|function| {
            SECTIONS.iter().filter(|section| !has(&function.docs, section)).map(|section| {
                let message = format!("the loss `{}` has no section `{section}`", function.name);
                Violation::new(file, function.line, message)
            })
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Losses,
    Methods,
    Elsewhere,
}

fn place(path: &str) -> Option<Place> {
    let (_, inside) = path.strip_prefix("crates/")?.strip_suffix(".rs")?.split_once("/src/")?;
    let mut parts = inside.split('/');
    if parts.clone().any(|part| part == "loss" || part == "losses") {
        return Some(Place::Losses);
    }
    Some(if parts.any(|part| part == "methods") { Place::Methods } else { Place::Elsewhere })
}

fn named_so(function: &Function) -> bool {
    words(&function.name).iter().any(|word| word == "loss")
}

fn returns_a_tensor(function: &Function) -> bool {
    let head = function.signature.split('{').next().unwrap_or_default();
    let head = head.split("\nwhere").next().unwrap_or_default();
    let returned = head.rsplit_once("->").map_or("", |(_, returned)| returned);
    identifiers(returned).any(|word| word == "Tensor")
}

fn has(docs: &str, section: &str) -> bool {
    docs.lines().any(|line| line.trim() == section)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "/// A.\n///\n/// # Shapes\n/// `a`: `[B, D]`.\n///\n/// # Source\n/// B, 2020.\n";

    fn count(path: &str, text: &str) -> usize {
        documented(&File::new(path, text)).len()
    }

    #[test]
    fn a_loss_without_its_sections_is_found() {
        let bare = "/// A.\npub fn nt_xent() {}\n";
        for path in ["crates/a/src/loss.rs", "crates/a/src/loss/info_nce.rs"] {
            assert_eq!(count(path, bare), 2, "{path}");
            assert_eq!(count(path, &format!("{WHOLE}pub fn nt_xent() {{}}\n")), 0, "{path}");
        }
        let half = WHOLE.replace("# Source", "# Sauce");
        assert_eq!(count("crates/a/src/loss.rs", &format!("{half}pub fn nt_xent() {{}}\n")), 1);
    }

    #[test]
    fn in_methods_the_name_or_the_result_tells_a_loss_from_the_rest() {
        let path = "crates/a/src/methods/b.rs";
        assert_eq!(count(path, "pub fn b_loss() {}\n"), 2);
        assert_eq!(count(path, "pub fn barlow(a: &Tensor) -> Result<Tensor> {\n}\n"), 2);
        assert_eq!(count(path, "pub fn barlow(\n    a: &Tensor,\n) -> Result<(Tensor, Tensor)> {\n}\n"), 2);
        let bounded = "pub fn barlow<F>(f: F) -> Result<Tensor>\nwhere\n    F: Fn() -> bool,\n{\n}\n";
        assert_eq!(count(path, bounded), 2);
        assert_eq!(count(path, "pub fn build(a: &Tensor) -> Result<B> {\n    f(|| -> Tensor { a })\n}\n"), 0);
    }

    #[test]
    fn elsewhere_the_name_alone_tells() {
        assert_eq!(count("crates/a/src/gloss.rs", "pub fn a_loss() {}\n"), 2);
        assert_eq!(count("crates/a/src/gloss.rs", "pub fn gloss() -> Tensor {}\n"), 0);
        assert_eq!(count("examples/a/src/main.rs", "pub fn a_loss() {}\n"), 0);
    }
}
