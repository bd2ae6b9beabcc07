//! "Did you mean": the valid name that is nearest to a wrong one.

/// The candidate nearest to `word`, ignoring case; `None` if none is near enough.
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

/// Edit distance between two words, with a swap of neighbours as one edit; if one word begins with the other, at most 1.
fn distance(word: &str, candidate: &str) -> usize {
    let edits = strsim::osa_distance(word, candidate);
    let is_part =
        word.len() >= 4 && candidate.len() >= 4 && (candidate.starts_with(word) || word.starts_with(candidate));
    if is_part { edits.min(1) } else { edits }
}

/// A hint with the nearest candidate, if one is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).map(|name| format!("Did you mean `{name}`?"))
}

/// The names in backticks, separated by commas.
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
