//! "Did you mean": the nearest of the names that would have been right.

/// The candidate nearest to `word`, ignoring case; `None` when nothing is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = match word.chars().count() {
        0 | 1 => 0,
        2..=4 => 1,
        5..=8 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, candidate)| (*distance, candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// Edits between two words, where a swap of neighbours is one; one word as the beginning of the other counts as one.
fn distance(word: &str, candidate: &str) -> usize {
    let edits = strsim::osa_distance(word, candidate);
    let is_part =
        word.len() >= 4 && candidate.len() >= 4 && (candidate.starts_with(word) || word.starts_with(candidate));
    if is_part { edits.min(1) } else { edits }
}

/// A hint that names the nearest candidate, if one is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|name| format!("Did you mean `{name}`?"))
}

/// `a`, `b`, `c` in backticks.
pub fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_a_stranger_finds_none() {
        let names = ["topic", "format", "bootstrap_servers", "starting_offsets"];
        assert_eq!(nearest("topci", names), Some("topic"));
        assert_eq!(nearest("BOOTSTRAP_SERVER", names), Some("bootstrap_servers"));
        assert_eq!(nearest("starting", names), Some("starting_offsets"));
        assert_eq!(nearest("compression", names), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
