//! Regular expressions that members subscribe to: which topics they stand for, found on the server.
//!
//! A heartbeat only notes that expressions must be resolved; a timer that fires at once does it for all of
//! a group's, so that a heartbeat never looks at all topics. They are resolved again when topics were
//! created since, and now and then.
//!
//! What it deliberately does not do: leave out topics that the member may not describe; there is no authorizer.

use std::sync::Arc;

use klamm_cluster::image::MetadataImage;
use klamm_protocol::error_code::ErrorCode;
use regex::Regex;

use super::super::{Group, GroupCoordinator, GroupCtx, GroupOutcome, GroupTimer};
use super::group::{ConsumerGroup, ResolvedRegex};
use super::heartbeat::Visit;
use super::member::Member;
use super::topics::version_of;
use super::{ConsumerTimer, Refusal, records};

/// Between two resolutions of a group's expressions; Kafka's `REGEX_BATCH_REFRESH_MIN_INTERVAL_MS`.
const REFRESH_INTERVAL_MS_MIN: i64 = 10_000;

/// What a heartbeat did to a member's expression.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RegexChange {
    /// It is another one.
    pub is_updated: bool,
    /// And its topics are known already.
    pub is_resolved: bool,
}

impl Visit<'_, '_> {
    /// Looks at a member's expression, and has the group's resolved if it is time to.
    pub fn update_regex(
        &mut self,
        group: &ConsumerGroup,
        old: &Member,
        updated: &Member,
    ) -> Result<RegexChange, Refusal> {
        let mut change = RegexChange::default();
        let mut must_refresh = false;
        if old.regex != updated.regex {
            change.is_updated = true;
            if let Some(regex) = old.regex()
                && group.regexes().of(regex) == 1
            {
                self.out.write(records::regex_tombstone(self.id, regex));
            }
            match updated.regex() {
                Some(regex) if group.regexes().of(regex) == 0 => {
                    compile(regex)?;
                    must_refresh = true;
                }
                Some(regex) => change.is_resolved = group.resolved().contains_key(regex),
                None => change.is_resolved = old.regex().is_some(),
            }
        }
        if !must_refresh && group.regexes().is_empty() {
            return Ok(change);
        }
        let last = group.resolved().values().next();
        let last_at = last.map_or(i64::MIN, |last| last.timestamp);
        let now = self.cx.wall.0;
        if now <= last_at.saturating_add(REFRESH_INTERVAL_MS_MIN) {
            return Ok(change);
        }
        let mut regexes = group.regexes().clone();
        if let Some(regex) = old.regex() {
            regexes.remove(regex);
        }
        if let Some(regex) = updated.regex() {
            regexes.add(regex);
        }
        let refresh_ms =
            i64::try_from(self.cx.settings.consumer.regex_refresh_interval_ms).unwrap_or(i64::MAX);
        must_refresh |= regexes.len() != group.resolved().len()
            || last.map_or(0, |last| last.version) < self.topics.newest_at(self.cx.image)
            || now > last_at.saturating_add(refresh_ms);
        if must_refresh && !regexes.is_empty() {
            let timer = GroupTimer::Consumer(self.id.clone(), ConsumerTimer::Regex);
            self.out.set_timer(timer, self.cx.mono);
        }
        Ok(change)
    }
}

impl GroupCoordinator {
    /// Resolves all expressions of a group.
    pub(super) fn resolve_regexes(&mut self, cx: &GroupCtx<'_>, id: &Arc<str>, out: &mut GroupOutcome) {
        let Some(Group::Consumer(group)) = self.groups.get_mut(id) else { return };
        let mut names = group.topic_names().clone();
        let mut must_bump = false;
        for regex in group.regexes().keys() {
            let resolved = resolve(cx.image, regex, cx.wall.0);
            let known = group.resolved().get(regex);
            if known.map_or(!resolved.topics.is_empty(), |known| known.topics != resolved.topics) {
                must_bump = true;
                group.forget_resolved(&mut names, regex);
                resolved.topics.iter().for_each(|name| names.add(name));
            }
            out.write(records::resolved_regex(id, regex, &resolved));
        }
        let hash = self.topics.hash(cx.image, names.keys());
        if must_bump || hash != group.metadata_hash {
            out.write(records::epoch(id, group.epoch + 1, hash));
            group.soft.checked_topics = Some(self.topics.version());
        }
    }
}

/// The topics whose whole name matches. An expression of another implementation, which this one cannot
/// read, finds none.
fn resolve(image: &MetadataImage, regex: &str, now: i64) -> ResolvedRegex {
    let topics = match compile(regex) {
        Ok(regex) => image.topic_ids().keys().filter(|name| regex.is_match(name)).cloned().collect(),
        Err(_) => std::collections::BTreeSet::new(),
    };
    ResolvedRegex { topics, version: version_of(image), timestamp: now }
}

/// The expression for whole names.
fn compile(regex: &str) -> Result<Regex, Refusal> {
    // Alone first: an open group must not be closed by what is put around it.
    Regex::new(regex).and_then(|_| Regex::new(&format!("\\A(?:{regex})\\z"))).map_err(|error| {
        let error = error.to_string();
        let found = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        let known = REASONS.iter().find(|(ours, _)| found.starts_with(ours));
        let reason = known.map_or(found, |(_, kafkas)| kafkas);
        let message = format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {reason}.");
        Refusal::new(ErrorCode::InvalidRegularExpression, message)
    })
}

/// What is wrong, as it is called here and by RE2/J in Kafka.
const REASONS: [(&str, &str); 11] = [
    ("unclosed character class", "missing closing ]"),
    ("invalid character class range", "invalid character class range"),
    ("unclosed group", "missing closing )"),
    ("unopened group", "unexpected )"),
    ("repetition operator missing expression", "missing argument to repetition operator"),
    ("invalid repetition count range", "invalid repeat count"),
    ("unclosed capture group name", "invalid named capture"),
    ("incomplete escape sequence", "trailing backslash at end of expression"),
    ("unrecognized escape sequence", "invalid escape sequence"),
    ("unrecognized flag", "invalid or unsupported Perl syntax"),
    ("look-around", "invalid or unsupported Perl syntax"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_for_whole_names() {
        let matches = |regex: &str, name: &str| compile(regex).unwrap().is_match(name);
        assert!(matches("foo.*", "foobar"));
        assert!(!matches("foo.*", "afoo"));
        assert!(!matches("foo|bar", "foobar"));
        assert!(matches("foo|bar", "bar"));
    }

    #[test]
    fn what_is_no_expression_is_refused_in_kafkas_words() {
        for (regex, reason) in [
            ("[", "missing closing ]"),
            ("[b-a]", "invalid character class range"),
            ("(foo", "missing closing )"),
            ("foo)|(bar", "unexpected )"),
            ("*", "missing argument to repetition operator"),
            ("a{2,1}", "invalid repeat count"),
            ("(?<x", "invalid named capture"),
            ("a\\", "trailing backslash at end of expression"),
            ("\\y", "invalid escape sequence"),
            ("(?z)a", "invalid or unsupported Perl syntax"),
            ("(?=x)", "invalid or unsupported Perl syntax"),
        ] {
            let refusal = compile(regex).unwrap_err();
            assert_eq!(refusal.error, ErrorCode::InvalidRegularExpression, "{regex}");
            let message =
                format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {reason}.");
            assert_eq!(refusal.message, message);
        }
    }
}
