//! Hand-made histories: a good one passes, and each anomaly is found in one that has it, and nothing else with it.

use super::*;

fn place(topic: &str, partition: i32) -> Place {
    Place { topic: topic.to_owned(), partition }
}

fn id(client: &str, number: u64) -> TransactionId {
    TransactionId { client: client.to_owned(), number }
}

/// Two generators write 1, 2 and 3 (2 alone by a transaction that aborts, 4 by nobody knows whom); a copier moves them
/// in two transactions to a partition of its own and to one that all share.
///
/// ```text
/// in-0   0: 1@g/0   1: 2@g/1   2: abort   3: 3@h/0   4: commit
/// out-0  0: 1@c/0   1: commit
/// out-9  0: 3@c/1   1: commit
/// ```
struct Script {
    history: History,
}

impl Script {
    fn good() -> Self {
        let mut script = Self { history: History::default() };
        script.transaction(("g", 0), Outcome::Committed, (1, 4), &[("in", 0, 1, Some(0))]);
        script.transaction(("g", 1), Outcome::Aborted, (5, 6), &[("in", 0, 2, Some(1))]);
        script.transaction(("h", 0), Outcome::Committed, (2, 9), &[("in", 0, 3, Some(3))]);
        script.transaction(("c", 0), Outcome::Committed, (10, 11), &[("out", 0, 1, Some(0))]);
        script.transaction(("c", 1), Outcome::Committed, (12, 13), &[("out", 9, 3, Some(0))]);
        script.reads("in", 0, &[(0, 1, "g", 0), (3, 3, "h", 0)], &[(1, 2, "g", 1)], 5);
        script.reads("out", 0, &[(0, 1, "c", 0)], &[], 2);
        script.reads("out", 9, &[(0, 3, "c", 1)], &[], 2);
        let outputs = vec![place("out", 0), place("out", 9)];
        script.history.copies.push(Copy { input: place("in", 0), outputs, committed_offset: Some(4) });
        // A plain record beside it all.
        let write = Write { place: place("plain", 0), value: 8, offset: Some(0) };
        script.history.plain.push(write);
        let record = Record { offset: 0, value: 8, transaction: None };
        let (committed, raw) = (vec![record.clone()], vec![record]);
        let reads = Reads { committed, raw, live: Vec::new(), last_stable_offset: 1, end: 1 };
        script.history.partitions.insert(place("plain", 0), reads);
        script
    }

    fn transaction(
        &mut self,
        (client, number): (&str, u64),
        outcome: Outcome,
        (began, ended): (u64, u64),
        writes: &[(&str, i32, u64, Option<i64>)],
    ) {
        let writes = writes.iter().map(|(topic, partition, value, offset)| Write {
            place: place(topic, *partition),
            value: *value,
            offset: *offset,
        });
        let transaction = Transaction {
            outcome,
            is_fenced: false,
            began,
            ended,
            writes: writes.collect(),
            remarks: Vec::new(),
        };
        self.history.transactions.insert(id(client, number), transaction);
    }

    fn reads(
        &mut self,
        topic: &str,
        partition: i32,
        committed: &[(i64, u64, &str, u64)],
        aborted: &[(i64, u64, &str, u64)],
        end: i64,
    ) {
        let records = |of: &[(i64, u64, &str, u64)]| -> Vec<Record> {
            let records = of.iter().map(|(offset, value, client, number)| Record {
                offset: *offset,
                value: *value,
                transaction: Some(id(client, *number)),
            });
            records.collect()
        };
        let committed = records(committed);
        let mut raw = [committed.clone(), records(aborted)].concat();
        raw.sort_by_key(|record| record.offset);
        let live = vec![committed.clone()];
        let reads = Reads { committed, raw, live, last_stable_offset: end, end };
        self.history.partitions.insert(place(topic, partition), reads);
    }

    fn at(&mut self, topic: &str, partition: i32) -> &mut Reads {
        self.history.partitions.get_mut(&place(topic, partition)).expect("a partition of the script")
    }

    fn of(&mut self, client: &str, number: u64) -> &mut Transaction {
        self.history.transactions.get_mut(&id(client, number)).expect("a transaction of the script")
    }

    fn finds(&self) -> Vec<Anomaly> {
        check(&self.history)
    }
}

#[test]
fn a_good_history_passes() {
    assert_eq!(Script::good().finds(), []);
    assert_eq!(check(&History::default()), []);
}

#[test]
fn a_committed_record_that_is_not_read_is_lost() {
    let mut script = Script::good();
    let reads = script.at("out", 0);
    reads.committed.clear();
    reads.live.clear();
    let lost = Anomaly::LostWrite { transaction: Some(id("c", 0)), place: place("out", 0), value: 1 };
    let not_copied = Anomaly::LostCopy { input: place("in", 0), offset: 0, value: 1 };
    assert_eq!(script.finds(), [lost, not_copied]);
}

#[test]
fn a_plain_record_that_is_gone_is_lost() {
    let mut script = Script::good();
    script.at("plain", 0).committed.clear();
    script.at("plain", 0).raw.clear();
    let lost = Anomaly::LostWrite { transaction: None, place: place("plain", 0), value: 8 };
    let moved = Anomaly::AcknowledgedElsewhere { place: place("plain", 0), offset: 0, value: 8 };
    assert_eq!(script.finds(), [lost, moved]);
}

#[test]
fn an_acknowledged_record_is_where_it_was_said_to_be_even_if_aborted() {
    let mut script = Script::good();
    script.of("g", 1).writes[0].offset = Some(2);
    let found = Anomaly::AcknowledgedElsewhere { place: place("in", 0), offset: 2, value: 2 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn an_aborted_record_that_is_read() {
    let mut script = Script::good();
    script.of("h", 0).outcome = Outcome::Aborted;
    let found = Anomaly::AbortedRead { transaction: id("h", 0), place: place("in", 0), offset: 3 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn a_transaction_of_unknown_end_is_whole_or_absent() {
    let mut script = Script::good();
    script.of("c", 1).outcome = Outcome::Unknown;
    assert_eq!(script.finds(), []);
    let absent = Write { place: place("out", 9), value: 77, offset: None };
    script.of("c", 1).writes.push(absent);
    assert_eq!(script.finds(), [Anomaly::Torn { transaction: id("c", 1), read: 1, written: 2 }]);
    script.of("g", 1).outcome = Outcome::Unknown;
    script.of("c", 1).writes.pop();
    assert_eq!(script.finds(), [], "its only record is not read: it aborted");
}

#[test]
fn a_record_that_its_transaction_did_not_write() {
    let mut script = Script::good();
    script.of("g", 1).writes.clear();
    let found = Anomaly::Stranger { place: place("in", 0), offset: 1, value: 2 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn an_input_copied_twice() {
    let mut script = Script::good();
    script.transaction(("c", 2), Outcome::Committed, (14, 15), &[("out", 9, 1, Some(2))]);
    script.reads("out", 9, &[(0, 3, "c", 1), (2, 1, "c", 2)], &[], 4);
    let found = Anomaly::Duplicate { place: place("out", 9), offsets: (0, 2), value: 1 };
    // 1 stands behind 3 now.
    let disordered = Anomaly::DisorderedCopy { output: place("out", 9), offset: 2, value: 1 };
    assert_eq!(script.finds(), [found, disordered]);
}

#[test]
fn a_record_appended_twice_in_one_aborted_transaction() {
    let mut script = Script::good();
    script.reads("in", 0, &[(0, 1, "g", 0), (3, 3, "h", 0)], &[(1, 2, "g", 1), (2, 2, "g", 1)], 5);
    assert_eq!(script.finds(), [Anomaly::Duplicate { place: place("in", 0), offsets: (1, 2), value: 2 }]);
}

#[test]
fn an_input_that_is_not_copied() {
    let mut script = Script::good();
    script.of("c", 1).outcome = Outcome::Aborted;
    script.reads("out", 9, &[], &[(0, 3, "c", 1)], 2);
    let found = Anomaly::LostCopy { input: place("in", 0), offset: 3, value: 3 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn a_copy_of_what_is_no_input() {
    let mut script = Script::good();
    script.of("c", 1).writes[0].value = 2;
    script.reads("out", 9, &[(0, 2, "c", 1)], &[], 2);
    let lost = Anomaly::LostCopy { input: place("in", 0), offset: 3, value: 3 };
    let invented = Anomaly::InventedCopy { output: place("out", 9), offset: 0, value: 2 };
    assert_eq!(script.finds(), [lost, invented]);
}

#[test]
fn copies_in_the_wrong_order() {
    let mut script = Script::good();
    script.history.transactions.remove(&id("c", 1));
    script.of("c", 0).writes = [(3, 0), (1, 1)]
        .map(|(value, at)| Write { place: place("out", 0), value, offset: Some(at) })
        .to_vec();
    script.reads("out", 0, &[(0, 3, "c", 0), (1, 1, "c", 0)], &[], 3);
    script.reads("out", 9, &[], &[], 0);
    let found = Anomaly::DisorderedCopy { output: place("out", 0), offset: 1, value: 1 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn a_group_offset_that_stays_behind() {
    for committed in [None, Some(3)] {
        let mut script = Script::good();
        script.history.copies[0].committed_offset = committed;
        assert_eq!(script.finds(), [Anomaly::PositionLags { input: place("in", 0), committed, last: 3 }]);
    }
}

#[test]
fn offsets_that_fall() {
    let mut script = Script::good();
    script.at("in", 0).raw.swap(0, 1);
    assert_eq!(script.finds(), [Anomaly::OffsetsFall { place: place("in", 0), offset: 0 }]);
}

#[test]
fn a_committed_read_of_what_the_log_does_not_have() {
    let mut script = Script::good();
    script.of("c", 0).writes[0].offset = None;
    script.at("out", 0).raw.clear();
    assert_eq!(script.finds(), [Anomaly::NotInLog { place: place("out", 0), offset: 0 }]);
}

#[test]
fn a_live_reader_that_saw_something_else() {
    let aborted = Record { offset: 1, value: 2, transaction: Some(id("g", 1)) };
    let mut script = Script::good();
    script.at("in", 0).live[0].insert(1, aborted);
    assert_eq!(script.finds(), [Anomaly::ReadsDiffer { place: place("in", 0), offset: 1 }]);
    let mut script = Script::good();
    script.at("in", 0).live[0].remove(0);
    assert_eq!(script.finds(), [Anomaly::ReadsDiffer { place: place("in", 0), offset: 0 }]);
    script.at("in", 0).live[0].clear();
    assert_eq!(script.finds(), [], "it did not get as far");
}

#[test]
fn a_stable_offset_that_stays_behind() {
    let mut script = Script::good();
    script.at("in", 0).last_stable_offset = 3;
    let found = Anomaly::StableOffsetStuck { place: place("in", 0), last_stable_offset: 3, end: 5 };
    assert_eq!(script.finds(), [found]);
}

#[test]
fn a_fenced_client_that_commits() {
    let mut script = Script::good();
    script.of("c", 1).is_fenced = true;
    assert_eq!(script.finds(), [Anomaly::FencedCommit { transaction: id("c", 1) }]);
    script.of("g", 1).is_fenced = true;
    assert_eq!(script.finds().len(), 1, "one that aborted is as it should be");
}

#[test]
fn transactions_in_opposite_orders() {
    let two_partitions = |other: &[(i64, u64, &str, u64)]| {
        let mut script = Script { history: History::default() };
        let writes = |offset: i64, value| [("a", 0, value, Some(offset)), ("b", 0, value + 10, None)];
        script.transaction(("x", 0), Outcome::Committed, (1, 3), &writes(0, 1));
        script.transaction(("y", 0), Outcome::Committed, (2, 4), &writes(1, 2));
        script.reads("a", 0, &[(0, 1, "x", 0), (1, 2, "y", 0)], &[], 4);
        script.reads("b", 0, other, &[], 4);
        script.finds()
    };
    assert_eq!(two_partitions(&[(0, 11, "x", 0), (1, 12, "y", 0)]), []);
    let transactions = vec![id("x", 0), id("y", 0)];
    assert_eq!(two_partitions(&[(0, 12, "y", 0), (1, 11, "x", 0)]), [Anomaly::Cycle { transactions }]);
}

#[test]
fn a_transaction_that_lies_before_one_that_ended_earlier() {
    let mut script = Script { history: History::default() };
    script.transaction(("x", 0), Outcome::Committed, (1, 2), &[("a", 0, 1, Some(1))]);
    script.transaction(("x", 1), Outcome::Committed, (3, 4), &[("a", 0, 2, Some(0))]);
    script.reads("a", 0, &[(0, 2, "x", 1), (1, 1, "x", 0)], &[], 4);
    assert_eq!(script.finds(), [Anomaly::Cycle { transactions: vec![id("x", 0), id("x", 1)] }]);
    // While both are open, either order is Kafka's.
    script.of("x", 1).began = 2;
    assert_eq!(script.finds(), []);
}
