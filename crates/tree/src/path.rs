use crate::{Detail, ErrorKind, OpError, PathFault};

/// Whether `path` can name a znode, by ZooKeeper's rules: absolute, no empty, `.` or `..` component, no trailing
/// slash except for the root itself, and none of the characters ZooKeeper refuses (control characters, private use,
/// specials, and whatever needs two UTF-16 units).
///
/// # Errors
///
/// `BadArguments` that says what is wrong and at which byte.
pub fn validate_path(path: &str) -> Result<(), OpError> {
    if is_plain(path) {
        return Ok(());
    }
    match fault(path) {
        None => Ok(()),
        Some((at, fault)) => {
            let detail = Detail::InvalidPath { at: at as u32, fault };
            Err(OpError::new(ErrorKind::BadArguments, path, detail))
        }
    }
}

/// Whether a path is valid at first sight, as nearly all are: of printable ASCII, and no name is empty or
/// begins with a dot.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    let is_allowed = |&byte: &u8| {
        let begins_name = std::mem::replace(&mut before, byte) == b'/';
        matches!(byte, b' '..=b'~') && !(begins_name && matches!(byte, b'/' | b'.'))
    };
    path.starts_with('/') && path.as_bytes().iter().all(is_allowed) && before != b'/'
}

fn fault(path: &str) -> Option<(usize, PathFault)> {
    if path.is_empty() {
        return Some((0, PathFault::Empty));
    }
    if !path.starts_with('/') {
        return Some((0, PathFault::NotAbsolute));
    }
    if path == "/" {
        return None;
    }
    if path.ends_with('/') {
        return Some((path.len() - 1, PathFault::TrailingSlash));
    }
    let mut at = 1;
    for name in path[1..].split('/') {
        match name {
            "" => return Some((at, PathFault::EmptyComponent)),
            "." | ".." => return Some((at, PathFault::RelativeComponent)),
            _ => {}
        }
        if let Some((offset, _)) = name.char_indices().find(|&(_, c)| is_refused(c)) {
            return Some((at + offset, PathFault::Character));
        }
        at += name.len() + 1;
    }
    None
}

/// Characters above U+FFFF are surrogate pairs in ZooKeeper's strings, and it refuses surrogates.
fn is_refused(c: char) -> bool {
    matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// What cannot be deleted because the system lives there.
pub(crate) fn is_reserved(path: &str) -> bool {
    matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config")
}

/// Splits at the last slash: `/a/b` into `/a` and `b`, `/a` into `/` and `a`. `None` without a slash. Neither
/// part is validated: a create looks for its parent before it looks at the syntax of the whole, as ZooKeeper does.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let slash = path.rfind('/')?;
    Some((if slash == 0 { "/" } else { &path[..slash] }, &path[slash + 1..]))
}

/// The path of the child `name` of `parent`.
pub(crate) fn join(parent: &str, name: &str) -> String {
    let mut path = String::with_capacity(parent.len() + 1 + name.len());
    path.push_str(parent);
    if parent != "/" {
        path.push('/');
    }
    path.push_str(name);
    path
}

/// The root, every ancestor of `path`, and `path` itself, from the top down.
pub(crate) fn lineage(path: &str) -> impl Iterator<Item = &str> {
    let ancestors = path.match_indices('/').skip(1).map(|(slash, _)| &path[..slash]);
    let itself = (path != "/").then_some(path);
    std::iter::once("/").chain(ancestors).chain(itself)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zookeepers_rules_hold() {
        for good in ["/", "/a", "/a/b", "/.a", "/a.", "/...", "/a/..b", "/ü/日本", "/a b"] {
            assert!(validate_path(good).is_ok(), "{good:?}");
        }
        for bad in [
            "",
            "a",
            "a/b",
            "/a/",
            "//",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/a/.",
            "/a/../b",
            "/a\0",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{fff0}",
            "/\u{1f600}",
        ] {
            assert_eq!(validate_path(bad).unwrap_err().kind, ErrorKind::BadArguments, "{bad:?}");
        }
    }

    /// What passes at first sight has no fault: all paths of five of these bytes.
    #[test]
    fn plain_paths_have_no_fault() {
        let bytes = b"/.a~\x1f\x7f ";
        for number in 0..bytes.len().pow(5) {
            let byte = |place: u32| bytes[number / bytes.len().pow(place) % bytes.len()];
            let path: String = (0..5).map(|place| char::from(byte(place))).collect();
            assert!(!is_plain(&path) || fault(&path).is_none(), "{path:?}");
            assert_eq!(fault(&path[..3]).is_none(), validate_path(&path[..3]).is_ok());
        }
        assert!(is_plain("/a/b-0000000001") && !is_plain("/") && !is_plain("/a/"));
    }

    #[test]
    fn a_bad_path_is_told_with_its_position() {
        let error = validate_path("/abc/../d").unwrap_err();
        assert_eq!(error.message(), r#"invalid path "/abc/../d": relative component at byte 5"#);
    }

    #[test]
    fn lineage_goes_from_the_root_to_the_path() {
        assert_eq!(lineage("/").collect::<Vec<_>>(), ["/"]);
        assert_eq!(lineage("/a").collect::<Vec<_>>(), ["/", "/a"]);
        assert_eq!(lineage("/a/b/c").collect::<Vec<_>>(), ["/", "/a", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn split_and_join_are_inverse() {
        for (path, parent, name) in [("/a", "/", "a"), ("/a/b", "/a", "b"), ("/a/b/c", "/a/b", "c")] {
            assert_eq!(split(path), Some((parent, name)));
            assert_eq!(join(parent, name), path);
        }
        assert_eq!(split("a"), None);
    }
}
