//! What a path says about a file.

/// The last component of `path` in lower case, unless a component is hidden: caches, checkpoints
/// of notebooks and resource forks (`._shard.tar`) are no data, whatever their names end with.
pub(crate) fn visible_name(path: &str) -> Option<String> {
    let hidden = |component: &str| component.starts_with('.') && component != ".";
    if path.split('/').any(hidden) {
        return None;
    }
    let name = path.rsplit('/').next()?;
    Some(name.to_ascii_lowercase())
}

/// `name` without the first of `endings` that it has.
pub(crate) fn without_ending<'a>(name: &'a str, endings: &[&str]) -> &'a str {
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}
