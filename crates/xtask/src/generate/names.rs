//! Kafka's CamelCase becomes Rust's snake_case.

/// `TransactionalId` becomes `transactional_id`; a keyword gets its `r#`.
pub fn field(name: &str) -> String {
    let snake = snake(name);
    if matches!(snake.as_str(), "type" | "match" | "gen" | "ref" | "move" | "use" | "mod") {
        return format!("r#{snake}");
    }
    snake
}

/// Without regard to keywords: for modules.
pub fn snake(name: &str) -> String {
    // The one name whose capitals are not words.
    let name = name.replace("KRaft", "Kraft");
    let letters: Vec<char> = name.chars().collect();
    let mut snake = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let after_lower = index > 0 && !letters[index - 1].is_ascii_uppercase();
        let before_lower = letters.get(index + 1).is_some_and(|next| next.is_ascii_lowercase());
        if letter.is_ascii_uppercase() && index > 0 && (after_lower || before_lower) {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_apart() {
        for (camel, snake) in [
            ("Isr", "isr"),
            ("TransactionalId", "transactional_id"),
            ("KRaftVersion", "kraft_version"),
            ("ISRSize", "isr_size"),
            ("Type", "r#type"),
            ("LastKnownElr", "last_known_elr"),
        ] {
            assert_eq!(field(camel), snake);
        }
    }
}
