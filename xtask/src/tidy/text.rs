//! What no file may contain, and how each Rust file begins.
use super::Violation;
use super::source::File;

/// More lines than this make a file hard to read.
const MAX_LINES: usize = 500;

/// Registries are reached through their clients, which know where they are.
const HOSTS: [&str; 8] = [
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("crates", ".io"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("deb.", "debian.org"),
    concat!("archive.", "ubuntu.com"),
    concat!("pkg.", "go.dev"),
];
/// Folders of one machine.
const PLACES: [&str; 3] = [concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/ho", "me")];
/// What was left for later belongs in an issue.
const MARKS: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

/// A Rust file opens with what it is.
pub(super) fn opening(file: &File) -> Vec<Violation> {
    if !file.is_rust() || file.text.starts_with("//!") {
        return Vec::new();
    }
    vec![Violation::new(file, 1, "does not open with `//!`")]
}

/// No registry's host is named.
pub(super) fn hosts(file: &File) -> Vec<Violation> {
    // Cargo itself writes its registry there.
    if file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    found(file, &HOSTS, |_, _| true, "names a registry's host")
}

/// No path of one machine is named.
pub(super) fn places(file: &File) -> Vec<Violation> {
    let whole = |before: &str, after: &str| {
        let inside = |c: char| c.is_alphanumeric() || "._-~/}$*".contains(c);
        !before.ends_with(inside) && !after.starts_with(|c: char| c.is_alphanumeric() || "_-.".contains(c))
    };
    found(file, &PLACES, whole, "names a folder of one machine")
}

/// Nothing is left for later.
pub(super) fn marks(file: &File) -> Vec<Violation> {
    let whole = |before: &str, after: &str| {
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    };
    found(file, &MARKS, whole, "leaves something for later")
}

/// Says so if the file is long.
pub(super) fn length(file: &File) -> Option<Violation> {
    let lines = file.text.lines().count();
    (file.is_rust() && lines > MAX_LINES).then(|| {
        Violation::new(file, lines, format!("{lines} lines; over {MAX_LINES} a file is better split"))
    })
}

/// The lines with one of `patterns` for whose surroundings `counts` holds.
fn found(
    file: &File,
    patterns: &[&str],
    counts: impl Fn(&str, &str) -> bool,
    message: &str,
) -> Vec<Violation> {
    let hit = |line: &str| {
        patterns.iter().copied().find(|pattern| {
            line.match_indices(pattern).any(|(at, _)| {
                let (before, rest) = line.split_at(at);
                counts(before, rest.get(pattern.len()..).unwrap_or_default())
            })
        })
    };
    let lines = file.lines().filter_map(|(line, text)| Some((line, hit(text)?)));
    lines.map(|(line, pattern)| Violation::new(file, line, format!("{message}: {pattern}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(check: fn(&File) -> Vec<Violation>, path: &str, text: &str) -> Vec<usize> {
        check(&File::new(path, text)).iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_rust_file_opens_with_what_it_is() {
        assert_eq!(lines(opening, "a.rs", "use a;\n"), [1]);
        assert!(lines(opening, "a.rs", "//! A.\n").is_empty());
        assert!(lines(opening, "a.md", "# A\n").is_empty());
    }

    #[test]
    fn a_registry_s_host_is_found() {
        for host in HOSTS {
            assert_eq!(lines(hosts, "a.md", &format!("a\nhttps://{host}/a\n")), [2], "{host}");
        }
        assert!(lines(hosts, "Cargo.lock", HOSTS[2]).is_empty());
        assert!(lines(hosts, "a.md", "https://example.org").is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_part_of_a_word_is_none() {
        for place in PLACES {
            for text in [format!("cd {place}/main"), format!("\"{place}\""), format!("a={place}/b")] {
                assert_eq!(lines(places, "a.md", &text), [1], "{text}");
            }
            for text in [format!("https://a.org{place}/b"), format!("{place}flow"), format!("a{place}/b")] {
                assert!(lines(places, "a.md", &text).is_empty(), "{text}");
            }
        }
    }

    #[test]
    fn a_mark_for_later_is_found() {
        for mark in MARKS {
            assert_eq!(lines(marks, "a.rs", &format!("//! A.\n// {mark}: b\n")), [2]);
            assert!(lines(marks, "a.rs", &format!("//! {mark}S\n")).is_empty());
        }
    }

    #[test]
    fn only_long_rust_files_are_remarked_upon() {
        assert!(length(&File::new("a.rs", &"a\n".repeat(MAX_LINES))).is_none());
        assert!(length(&File::new("a.rs", &"a\n".repeat(MAX_LINES + 1))).is_some());
        assert!(length(&File::new("a.json", &"a\n".repeat(MAX_LINES + 1))).is_none());
    }
}
