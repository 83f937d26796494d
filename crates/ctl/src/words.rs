/// Splits a line into words as a shell does, without its substitutions: blanks separate, quotes of either kind keep
/// blanks, a backslash keeps the next character (in single quotes it is itself), `#` at the start of a word begins a
/// comment.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let escaped = chars.next().ok_or("a backslash at the end of the line")?;
                word.get_or_insert_default().push(escaped);
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                // An empty pair of quotes is a word.
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a {open} is not closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_splits_as_in_a_shell() {
        for (line, words) in [
            ("  set /a  b ", vec!["set", "/a", "b"]),
            (r#"set /a "b c" 'd "e"' f\ g"#, vec!["set", "/a", "b c", "d \"e\"", "f g"]),
            (r#"set /a """#, vec!["set", "/a", ""]),
            (r#"set /a 'b\n' "q\"q""#, vec!["set", "/a", r"b\n", "q\"q"]),
            ("get /a#b # a comment", vec!["get", "/a#b"]),
            ("# nothing", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_an_error() {
        assert!(split("set /a 'b").is_err());
        assert!(split("set /a \\").is_err());
    }
}
