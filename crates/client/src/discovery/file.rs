use std::path::Path;

use tokio::io::AsyncReadExt as _;

use super::source::{Source, endpoint};

const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The endpoints in a file, one "host:port" a line. Empty lines and what follows a "#" do not count. A file that is not
/// right to the last line is not used at all: it may be half written.
pub(super) async fn read(path: &Path) -> Result<Vec<Source>, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).await;
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("larger than {FILE_BYTES_MAX} bytes"));
    }
    parse(&text)
}

pub(super) fn parse(text: &str) -> Result<Vec<Source>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()).enumerate();
    let endpoints = lines.filter(|(_, line)| !line.is_empty());
    endpoints
        .map(|(index, line)| {
            endpoint(line).ok_or_else(|| format!("line {}: {line:?} is not host:port", index + 1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_an_endpoint_a_line() {
        let found = parse("# the nodes\n127.0.0.1:1\n\n  b:2   # the second\n").unwrap();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:1", "b:2"]);
        assert_eq!(parse("a:1\nb\n").unwrap_err(), "line 2: \"b\" is not host:port");
        assert!(parse("file:/other\n").is_err(), "files do not include files");
    }
}
