use std::path::PathBuf;

/// Where the shell keeps its history: `$XDG_STATE_HOME/coordctl/history`, by default under `~/.local/state`. `None` if
/// there is no home.
pub(crate) fn history_path() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("coordctl/history"))
}
