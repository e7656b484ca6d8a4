//! A file, and just enough of Rust's syntax to check it: comments, words, documentation, functions.

/// A text file of the checkout.
#[derive(Debug, Clone)]
pub(super) struct File {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    #[cfg(test)]
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines, counted from one.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The public functions that belong to no type, in this file's own module.
    pub(super) fn public_functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        let mut docs = String::new();
        for (line, text) in self.lines() {
            if let Some(Function { signature, .. }) = found.last_mut()
                && !signature.ends_with(['{', ';', '}'])
            {
                signature.push('\n');
                signature.push_str(text);
            }
            if let Some(doc) = text.strip_prefix("///") {
                docs.push_str(doc);
                docs.push('\n');
            } else if let Some(name) = function_name(text) {
                let docs = std::mem::take(&mut docs);
                found.push(Function { line, name: name.into(), signature: text.into(), docs });
            } else if !text.starts_with("#[") && !text.starts_with("//") {
                docs.clear();
            }
        }
        found
    }
}

/// A function and what is written above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) line: usize,
    pub(super) name: String,
    /// From `pub` to the brace that opens the body.
    pub(super) signature: String,
    pub(super) docs: String,
}

fn function_name(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ")?.trim_start_matches("const ").trim_start_matches("unsafe ");
    rest.strip_prefix("fn ")?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The line without a comment at its end. A `//` in a string is none.
pub(super) fn code(line: &str) -> &str {
    let mut in_string = false;
    let mut before = ' ';
    for (index, c) in line.char_indices() {
        match c {
            '"' if before != '\\' && before != '\'' => in_string = !in_string,
            '/' if before == '/' && !in_string => return line.get(..index - 1).unwrap_or_default(),
            _ => {}
        }
        before = if before == '\\' && c == '\\' { ' ' } else { c };
    }
    line
}

/// The identifiers and other words of a line, whole: `ImageFolder`, `image_size`.
pub(super) fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The words of an identifier in lower case: `image` and `folder` of `ImageFolder`.
pub(super) fn words(identifier: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = '_';
    for c in identifier.chars() {
        let starts = before == '_' || (c.is_uppercase() && !before.is_uppercase());
        match words.last_mut() {
            _ if c == '_' => {}
            Some(word) if !starts => word.extend(c.to_lowercase()),
            _ => words.push(c.to_lowercase().collect()),
        }
        before = c;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_the_code_and_strings_do_not() {
        assert_eq!(code("let a = 1; // image"), "let a = 1; ");
        assert_eq!(code("//! image"), "");
        assert_eq!(code(r#"let a = "http://image"; // b"#), r#"let a = "http://image"; "#);
        assert_eq!(code(r#"let a = "\\"; // b"#), r#"let a = "\\"; "#);
        assert_eq!(code("let a = '\"'; // b"), "let a = '\"'; ");
    }

    #[test]
    fn identifiers_fall_into_words() {
        assert_eq!(words("ImageFolder"), ["image", "folder"]);
        assert_eq!(words("image_size"), ["image", "size"]);
        assert_eq!(words("MAX_PIXELS"), ["max", "pixels"]);
        assert_eq!(words("imagery"), ["imagery"]);
    }

    #[test]
    fn a_function_has_the_docs_right_above_it() {
        let file = File::new(
            "a.rs",
            "/// Other.\nstruct A;\n\n/// One.\n/// # Shapes\n#[must_use]\npub fn one<T>() {}\n\
             impl A {\n    pub fn two() {}\n}\npub(crate) fn three() {}\npub const fn four() {}\n",
        );
        let functions = file.public_functions();
        let brief: Vec<(usize, &str, &str)> =
            functions.iter().map(|f| (f.line, f.name.as_str(), f.docs.as_str())).collect();
        assert_eq!(brief, [(7, "one", " One.\n # Shapes\n"), (12, "four", "")]);
    }

    #[test]
    fn a_signature_goes_up_to_the_body() {
        let file = File::new("a.rs", "pub fn one(\n    a: A,\n) -> B {\n    c()\n}\npub fn two() {}\n");
        let signatures: Vec<String> = file.public_functions().into_iter().map(|f| f.signature).collect();
        assert_eq!(signatures, ["pub fn one(\n    a: A,\n) -> B {", "pub fn two() {}"]);
    }
}
