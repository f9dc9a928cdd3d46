//! The known key that somebody probably meant.

/// The closest of `known` to `name`, if it is close enough to be a slip: edits of letters, and swapped neighbours.
pub fn nearest_key<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer keys are mistyped in more places; past a quarter it is another key.
    let most = (name.len() / 4).clamp(1, 6);
    known
        .map(|key| (distance(name.as_bytes(), key.as_bytes(), most), key))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, key)| key)
}

/// The optimal string alignment distance; anything above `most` may come out as `most + 1`.
fn distance(a: &[u8], b: &[u8], most: usize) -> usize {
    if a.len().abs_diff(b.len()) > most {
        return most + 1;
    }
    let mut before_previous: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_previous[j - 2] + 1);
            }
        }
        before_previous = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::broker_definitions;

    #[test]
    fn finds_what_was_meant() {
        let nearest = |name: &str| nearest_key(name, broker_definitions().iter().map(|known| known.name));
        assert_eq!(nearest("log.dir "), Some("log.dir"));
        assert_eq!(nearest("lisetners"), Some("listeners"));
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("auto.create.topic.enabled"), Some("auto.create.topics.enable"));
        assert_eq!(nearest("zookeeper.connect"), None);
        assert_eq!(nearest(""), None);
    }
}
