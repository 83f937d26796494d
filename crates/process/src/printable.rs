//! Text of others on its way to a terminal. Names, values and messages come from anybody who can reach the
//! ensemble, and from any server: what a terminal would obey instead of show is escaped.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a terminal shows this character, as a person expects it.
///
/// Controls (C0, DEL, C1), breaks of lines and paragraphs, what changes the direction of the text around it,
/// and what does not show at all are not printable. Combining characters and variation selectors are: they
/// belong to the character before them.
pub fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' // Marks of direction.
            | '\u{2028}' | '\u{2029}'
            | '\u{202a}'..='\u{202e}' // Embeddings and overrides.
            | '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{feff}' // Of no width.
            | '\u{2060}'..='\u{206f}' // Joiners and operators of no width, isolates.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Fillers.
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' // Beams and slurs of music.
            | '\u{e0000}'..='\u{e007f}' // Tags.
        )
}

/// Returns a field in one line: every character that is not printable is escaped, newlines too.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Returns several lines that were made here: newlines stay, everything else is escaped as in [`plain`].
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n')
}

/// Returns a value for a terminal: newlines and tabs stay, and what is not UTF-8 shows as `\xNN`.
pub fn plain_value(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        shown += &escaped(chunk.valid(), |c| matches!(c, '\n' | '\t'));
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// Returns the text of an error in one line, except that each endpoint has a line of its own where the SDK
/// lists several.
pub fn plain_error(text: &str) -> String {
    let Some((before, lines)) = text.split_once(ENDPOINTS) else { return plain(text).into_owned() };
    let lines: Vec<_> = lines.split("\n  ").map(plain).collect();
    format!("{}{ENDPOINTS}{}", plain(before), lines.join("\n  "))
}

/// Behind it the SDK's errors have a line for each endpoint.
const ENDPOINTS: &str = " endpoints could be used:";

fn escaped(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_kept = |c: char| is_printable(c) || keeps(c);
    if text.chars().all(is_kept) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_kept(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B6: escape sequences, newlines, C1 controls and overrides of direction are shown and not obeyed.
    #[test]
    fn controls_are_escaped() {
        for (text, shown) in [
            (
                "plain text, größer, 日本, e\u{301}, a\\b \"c\"",
                "plain text, größer, 日本, e\u{301}, a\\b \"c\"",
            ),
            ("\u{1b}[2J\u{1b}]0;title\u{7}", r"\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("a\r\nb\tc\u{0}", r"a\r\nb\tc\u{0}"),
            ("\u{9b}31m\u{7f}", r"\u{9b}31m\u{7f}"),
            ("\u{202e}gpj\u{2066}\u{200f}\u{2028}", r"\u{202e}gpj\u{2066}\u{200f}\u{2028}"),
        ] {
            assert_eq!(plain(text), shown);
        }
        for c in "\u{ad}\u{34f}\u{200b}\u{200c}\u{200d}\u{2060}\u{2064}\u{feff}\u{3164}\u{e0041}".chars() {
            assert_eq!(plain(&c.to_string()), c.escape_default().to_string());
        }
        assert_eq!(plain_lines("a\u{1b}\nb\r\n"), "a\\u{1b}\nb\\r\n");
    }

    /// B6 and C5: of what others say nothing but the lines of the endpoints breaks a line.
    #[test]
    fn errors_are_printable() {
        assert_eq!(plain_error("NotServing: no\nroom\u{1b}[2J"), "NotServing: no\\nroom\\u{1b}[2J");
        assert_eq!(
            plain_error("none of 2 endpoints could be used:\n  a:1: refused\n  b:1: no \u{202e}leader"),
            "none of 2 endpoints could be used:\n  a:1: refused\n  b:1: no \\u{202e}leader"
        );
    }

    /// A value on a terminal keeps its lines and tabs, and nothing else that a terminal obeys.
    #[test]
    fn values_show_on_terminals() {
        assert_eq!(plain_value(b"a\n\tb\x1b[31m\xff\xfe\r"), "a\n\tb\\u{1b}[31m\\xff\\xfe\\r");
        assert_eq!(plain_value("é\u{85}".as_bytes()), "é\\u{85}");
    }
}
