//! Holds the tables of docs/configuration.md to the definitions. Tests only.
//!
//! When it fails it prints the table that the page should have.

use klamm_cluster::config::{
    Definition, Support, UpdateMode, Visibility, broker_definitions, topic_definitions,
};

const PAGE: &str = include_str!("../../../../docs/configuration.md");

fn table_of_page(name: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("<!-- {name} -->\n")).expect("the page has the table's mark");
    rest.split_once("<!-- end -->").expect("the table ends").0
}

fn code(text: &str) -> String {
    if text.is_empty() { "empty".to_owned() } else { format!("`{text}`") }
}

fn default(definition: &Definition) -> String {
    let own = definition.default.map_or("none".to_owned(), code);
    match definition.kafka_default {
        None => own,
        Some(None) => format!("{own} (Kafka requires one)"),
        Some(Some(kafka)) => format!("{own} (Kafka: {})", code(kafka)),
    }
}

fn row(definition: &Definition, last: &str) -> String {
    let allowed = definition.allowed().unwrap_or_default();
    let cells =
        [code(definition.name), definition.config_type.name().to_lowercase(), default(definition), allowed];
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} | {last} |\n", cells.join(" | "))
}

fn is_honoured(definition: &&Definition) -> bool {
    definition.support == Support::Honoured && definition.visibility != Visibility::Internal
}

#[test]
fn the_page_lists_every_honoured_broker_key() {
    let mut expected =
        "| key | type | default | allowed | while running |\n|---|---|---|---|---|\n".to_owned();
    for definition in broker_definitions().iter().filter(is_honoured) {
        // Listeners are dynamic in Kafka and read at start only here.
        let is_dynamic =
            definition.update_mode == UpdateMode::ClusterWide || definition.name == "cordoned.log.dirs";
        expected.push_str(&row(definition, if is_dynamic { "yes" } else { "no" }));
    }
    assert_eq!(table_of_page("broker keys"), expected, "the table should be:\n{expected}");
}

#[test]
fn the_page_lists_every_honoured_topic_key() {
    let mut expected =
        "| key | type | default | allowed | broker's key |\n|---|---|---|---|---|\n".to_owned();
    let mut definitions: Vec<_> = topic_definitions().iter().filter(is_honoured).collect();
    definitions.sort_by_key(|definition| definition.name);
    for definition in definitions {
        let synonyms: Vec<_> = definition.synonyms.iter().map(|synonym| code(synonym.name)).collect();
        expected.push_str(&row(definition, &synonyms.join(", ")));
    }
    assert_eq!(table_of_page("topic keys"), expected, "the table should be:\n{expected}");
}
