//! Parsing one config value by its definition, with Kafka's words for what is wrong.
//!
//! Accepts what Kafka accepts (surrounding blanks, `+5`, `TRUE`, `.5`, Java's `1d`) and shows values as Kafka shows
//! them, since clients compare. Does not know which layer a value came from.

use std::fmt;

use super::{
    ConfigError,
    definition::{Check, ConfigType, Definition},
};

/// A typed config value.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigValue {
    /// BOOLEAN.
    Boolean(bool),
    /// STRING and CLASS.
    String(String),
    /// SHORT, INT and LONG, within the bounds of the type.
    Integer(i64),
    /// DOUBLE.
    Double(f64),
    /// LIST, without duplicates.
    List(Vec<String>),
    /// PASSWORD.
    Password(Secret),
}

/// A value that must not appear in logs or answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

impl fmt::Display for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::String(value) => f.write_str(value),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Double(value) => f.write_str(&java_double(*value)),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Password(_) => f.write_str("[hidden]"),
        }
    }
}

impl ConfigValue {
    /// The number, if it is a whole one.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }
}

/// Parses and checks `text` as a value of `definition`.
pub fn parse_value(definition: &Definition, text: &str) -> Result<ConfigValue, ConfigError> {
    let mut value = parse_type(definition, text)?;
    if let (ConfigValue::List(items), Check::Items { .. }) = (&mut value, &definition.check) {
        remove_duplicates(items);
    }
    check(definition, &value)?;
    Ok(value)
}

fn parse_type(definition: &Definition, text: &str) -> Result<ConfigValue, ConfigError> {
    let invalid = |problem: &str| ConfigError::invalid_value(definition.name, text, problem);
    let integer = |min: i64, max: i64| {
        let parsed = text.trim().parse::<i64>().ok().filter(|value| (min..=max).contains(value));
        let problem = || format!("Not a number of type {}", definition.config_type.name());
        parsed.map(ConfigValue::Integer).ok_or_else(|| invalid(&problem()))
    };
    match definition.config_type {
        ConfigType::Boolean => {
            let trimmed = text.trim();
            if trimmed.eq_ignore_ascii_case("true") {
                Ok(ConfigValue::Boolean(true))
            } else if trimmed.eq_ignore_ascii_case("false") {
                Ok(ConfigValue::Boolean(false))
            } else {
                Err(invalid("Expected value to be either true or false"))
            }
        }
        ConfigType::String | ConfigType::Class => Ok(ConfigValue::String(text.trim().to_owned())),
        ConfigType::Password => Ok(ConfigValue::Password(Secret(text.to_owned()))),
        ConfigType::Short => integer(i64::from(i16::MIN), i64::from(i16::MAX)),
        ConfigType::Int => integer(i64::from(i32::MIN), i64::from(i32::MAX)),
        ConfigType::Long => integer(i64::MIN, i64::MAX),
        ConfigType::Double => parse_java_double(text)
            .map(ConfigValue::Double)
            .ok_or_else(|| invalid("Not a number of type DOUBLE")),
        ConfigType::List => Ok(ConfigValue::List(split_list(text))),
    }
}

/// Splits a LIST value: blanks around items go, an empty text is an empty list, empty items stay.
pub fn split_list(text: &str) -> Vec<String> {
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

fn remove_duplicates(items: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    items.retain(|item| seen.insert(item.clone()));
}

fn check(definition: &Definition, value: &ConfigValue) -> Result<(), ConfigError> {
    let name = definition.name;
    let fail = |problem: String| Err(ConfigError::invalid_value(name, &value.to_string(), &problem));
    match (&definition.check, value) {
        (Check::Range { min, max }, ConfigValue::Integer(_) | ConfigValue::Double(_)) => {
            let number = match value {
                // Bounds are small; a rounded i64 stays on its side of them.
                ConfigValue::Integer(number) => *number as f64,
                ConfigValue::Double(number) => *number,
                _ => return Ok(()),
            };
            if let Some(min) = min.filter(|min| number < *min) {
                return fail(format!("Value must be at least {min}"));
            }
            if let Some(max) = max.filter(|max| number > *max) {
                return fail(format!("Value must be no more than {max}"));
            }
            Ok(())
        }
        (Check::OneOf(words), ConfigValue::String(text)) => {
            if words.contains(&text.as_str()) {
                Ok(())
            } else {
                fail(format!("String must be one of: {}", words.join(", ")))
            }
        }
        (Check::OneOfAnyCase(words), ConfigValue::String(text)) => {
            if words.iter().any(|word| word.eq_ignore_ascii_case(text)) {
                Ok(())
            } else {
                fail(format!("String must be one of (case insensitive): {}", words.join(", ")))
            }
        }
        (Check::Items { allowed, may_be_empty }, ConfigValue::List(items)) => {
            check_items(name, allowed, *may_be_empty, items)
        }
        (Check::NonEmpty, ConfigValue::String(text)) if text.is_empty() => {
            fail("String must be non-empty".to_owned())
        }
        (Check::GzipLevel, ConfigValue::Integer(level)) if *level != -1 && !(1..=9).contains(level) => {
            fail("Value must be between 1 and 9 or equal to -1".to_owned())
        }
        (Check::ThrottledReplicas, ConfigValue::List(items)) => {
            let is_pair = |item: &String| {
                item.is_empty()
                    || item
                        .split_once(':')
                        .is_some_and(|(partition, broker)| digits(partition) && digits(broker))
            };
            if items.iter().all(is_pair) || matches!(items.as_slice(), [star] if star == "*") {
                return Ok(());
            }
            let problem = format!(
                "{name} must be the literal '*' or a list of replicas in the following format: \
                 [partitionId]:[brokerId],[partitionId]:[brokerId],..."
            );
            Err(ConfigError::invalid_value(name, &format!("[{}]", items.join(", ")), &problem))
        }
        (Check::QuorumVoters, ConfigValue::List(items)) => {
            if items.iter().all(|item| is_voter(item)) {
                return Ok(());
            }
            Err(ConfigError::Malformed { name, form: "{id}@{host}:{port}" })
        }
        (Check::BootstrapServers, ConfigValue::List(items)) => {
            if items.iter().all(|item| is_address(item)) {
                return Ok(());
            }
            Err(ConfigError::Malformed { name, form: "{host}:{port}" })
        }
        (Check::OffsetReset, ConfigValue::String(text)) => {
            let is_valid = match text.strip_prefix("by_duration:") {
                Some(duration) => is_duration(duration),
                None => text == "earliest" || text == "latest",
            };
            if is_valid {
                return Ok(());
            }
            fail(format!(
                "Invalid value `{text}` for configuration {name}. The value must be either 'earliest', 'latest' or \
                 of the format 'by_duration:<PnDTnHnMn.nS>'."
            ))
        }
        _ => Ok(()),
    }
}

fn check_items(
    name: &'static str,
    allowed: &[&str],
    may_be_empty: bool,
    items: &[String],
) -> Result<(), ConfigError> {
    if items.is_empty() && !may_be_empty {
        let allowed = if allowed.is_empty() {
            "any non-empty value".to_owned()
        } else {
            format!("[{}]", allowed.join(", "))
        };
        return Err(ConfigError::EmptyList { name, allowed });
    }
    for item in items {
        if item.is_empty() {
            return Err(ConfigError::EmptyItem(name));
        }
        if !allowed.is_empty() && !allowed.contains(&item.as_str()) {
            let problem = format!("String must be one of: {}", allowed.join(", "));
            return Err(ConfigError::invalid_value(name, item, &problem));
        }
    }
    Ok(())
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_voter(text: &str) -> bool {
    text.split_once('@').is_some_and(|(id, address)| id.parse::<i32>().is_ok() && is_address(address))
}

fn is_address(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((host, port)) => !host.contains('@') && port.parse::<u16>().is_ok(),
        None => false,
    }
}

/// ISO-8601 days and time (`P1DT2H3M4.5S`), not negative.
fn is_duration(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(['P', 'p']) else { return false };
    let (days, time) = match rest.split_once(['T', 't']) {
        Some((_, "")) => return false,
        Some((days, time)) => (days, time),
        None => (rest, ""),
    };
    if days.is_empty() && time.is_empty() {
        return false;
    }
    amounts(days, "D").is_some() && amounts(time, "HMS").is_some()
}

/// Reads `<number><unit>` pairs whose units appear in the order of `units`; only seconds have fractions.
fn amounts(text: &str, units: &str) -> Option<()> {
    let mut units = units;
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let unit = rest[at..].chars().next()?.to_ascii_uppercase();
        let (whole, fraction) = rest[..at].split_once('.').unwrap_or((&rest[..at], "0"));
        if !digits(whole) || !digits(fraction) || (unit != 'S' && rest[..at].contains('.')) {
            return None;
        }
        units = &units[units.find(unit)? + 1..];
        rest = &rest[at + 1..];
    }
    Some(())
}

/// Java's `Double.parseDouble`, without hexadecimal numbers.
fn parse_java_double(text: &str) -> Option<f64> {
    let text = text.trim();
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "NaN" {
        return Some(f64::NAN);
    }
    if unsigned == "Infinity" {
        return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    let number = text.strip_suffix(['d', 'D', 'f', 'F']).unwrap_or(text);
    if !number.starts_with(['+', '-', '.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        || number.bytes().any(|byte| byte.is_ascii_alphabetic() && !byte.eq_ignore_ascii_case(&b'e'))
    {
        return None;
    }
    number.parse().ok()
}

/// Java's `Double.toString`.
fn java_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = value.abs();
    if size == 0.0 || (1e-3..1e7).contains(&size) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:E}");
    match scientific.split_once('E') {
        Some((digits, exponent)) if !digits.contains('.') => format!("{digits}.0E{exponent}"),
        _ => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::definition::topic_definitions, *};

    #[test]
    fn doubles_read_and_look_like_javas() {
        for (value, text) in [
            (0.5, "0.5"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (f64::MAX, "1.7976931348623157E308"),
            (1e7, "1.0E7"),
            (9_999_999.0, "9999999.0"),
            (0.001, "0.001"),
            (0.0001, "1.0E-4"),
        ] {
            assert_eq!(java_double(value), text);
            assert_eq!(parse_java_double(text), Some(value));
        }
        assert_eq!(parse_java_double(" 1f "), Some(1.0));
        assert_eq!(parse_java_double("nan"), None);
        assert_eq!(parse_java_double("inf"), None);
        assert_eq!(parse_java_double(""), None);
    }

    #[test]
    fn durations() {
        for text in ["PT1H", "P1D", "P1DT2H3M4.5S", "pt0.1s", "PT5M"] {
            assert!(is_duration(text), "{text}");
        }
        for text in ["", "P", "PT", "x", "-PT1H", "PT-1H", "PT1M1H", "P1H", "PT1.5H", "1H", "PT1"] {
            assert!(!is_duration(text), "{text}");
        }
    }

    /// Every topic config with about fifty texts, judged by Kafka 4.3.1: `key, text in brackets, ok or the message`.
    #[test]
    fn judges_values_as_kafka_does() {
        let facts = include_str!("testdata/topic_values.tsv");
        let mut count = 0;
        for line in facts.lines() {
            let mut columns = line.splitn(3, '\t');
            let name = columns.next().expect("a key");
            let text = columns.next().expect("a text");
            let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).expect("brackets");
            let expected = columns.next().expect("a verdict");
            let definition = topic_definitions().get(name).expect("a topic config");
            let found =
                parse_value(definition, text).map_or_else(|error| error.to_string(), |_| "ok".to_owned());
            assert_eq!(found, expected, "{name} = [{text}]");
            count += 1;
        }
        assert!(count > 400, "{count} lines");
    }
}
