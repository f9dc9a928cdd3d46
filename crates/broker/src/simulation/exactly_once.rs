//! Random transactional producers, repeated requests and power cuts: in the end readers of committed records
//! see every committed transaction whole and once, in order, and nothing of the others.
//!
//! One seed gives one history. What it deliberately does not do: other clients' behaviour, slow or wrong
//! ones, and several connections of one producer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::transactional_client::{Level, TransactionalClient, small_internal_topics};
use super::transactions::read_committed;
use super::*;

const PARTITIONS: u64 = 2;
const PRODUCERS: [&str; 3] = ["x", "y", "z"];
const LIVES: u64 = 3;
const SEEDS: u64 = 4;
/// A life ends somewhere among its transactions.
const LIFE_MS_MIN: u64 = 20;
const LIFE_MS_MAX: u64 = 300;

/// How far a transaction came, as its producer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It was never asked to be committed.
    Lost,
    /// It was, and the answer never came.
    Unknown,
    Committed,
}

struct Written {
    producer: usize,
    /// In the order in which they were written.
    values: BTreeMap<i32, Vec<String>>,
    fate: Fate,
}

/// What outlives the power cuts.
struct Ledger {
    random: u64,
    transactions: Vec<Written>,
}

impl Ledger {
    /// SplitMix64.
    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

type Shared = Arc<Mutex<Ledger>>;

fn locked(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("one thread")
}

/// Transactions until the power goes.
async fn produce(host: &SimHost, running: &Running<SimHost>, ledger: &Shared, producer: usize, level: Level) {
    let mut client = TransactionalClient::begin(host, running, PRODUCERS[producer], level).await;
    loop {
        let number = {
            let mut ledger = locked(ledger);
            ledger.transactions.push(Written { producer, values: BTreeMap::new(), fate: Fate::Lost });
            ledger.transactions.len() - 1
        };
        let write_count = 1 + locked(ledger).draw(4);
        for write in 0..write_count {
            // The clock stands still while anybody works.
            let pause_ms = locked(ledger).draw(3);
            host.sleep_until(host.mono().plus_ms(pause_ms)).await;
            let value = format!("{number} {write}");
            let (partition, is_repeated) = {
                let mut ledger = locked(ledger);
                let (partition, is_repeated) = (ledger.draw(PARTITIONS) as i32, ledger.draw(3) == 0);
                let values = &mut ledger.transactions[number].values;
                values.entry(partition).or_default().push(value.clone());
                (partition, is_repeated)
            };
            client.write_again_and_again("t", partition, &[&value], is_repeated).await;
        }
        let pause_ms = 1 + locked(ledger).draw(3);
        host.sleep_until(host.mono().plus_ms(pause_ms)).await;
        if locked(ledger).draw(3) == 0 {
            client.end(false).await;
        } else {
            locked(ledger).transactions[number].fate = Fate::Unknown;
            client.end(true).await;
            locked(ledger).transactions[number].fate = Fate::Committed;
        }
    }
}

async fn life(host: SimHost, ledger: Shared, level: Level) {
    let running = start_with(&host, &small_internal_topics()).await.expect("starts");
    let mut admin = Client::connect(&host, &running);
    admin.create_topic_unless_there("t", PARTITIONS as i32).await;
    let life_ms = LIFE_MS_MIN + locked(&ledger).draw(LIFE_MS_MAX - LIFE_MS_MIN);
    tokio::select! { biased;
        () = host.sleep_until(host.mono().plus_ms(life_ms)) => {}
        () = produce(&host, &running, &ledger, 0, level) => {}
        () = produce(&host, &running, &ledger, 1, level) => {}
        () = produce(&host, &running, &ledger, 2, level) => {}
    }
}

/// Everything that readers of committed records see once nothing is open any more.
async fn seen(host: SimHost, level: Level) -> Vec<Vec<String>> {
    let running = start_with(&host, &small_internal_topics()).await.expect("starts");
    for id in PRODUCERS {
        // Ends what its earlier instance left open.
        TransactionalClient::begin(&host, &running, id, level).await;
    }
    let mut reader = Client::connect(&host, &running);
    let mut seen = Vec::new();
    for partition in 0..PARTITIONS as i32 {
        let mut end = -1;
        for _ in 0..1_000 {
            let fetched = reader.call(&fetch_request("t", partition, 0, 0), 11).await;
            end = fetched.responses[0].partitions[0].high_watermark;
            let (values, stable) = read_committed(&mut reader, "t", partition).await;
            if stable == end {
                seen.push(values);
                break;
            }
            host.sleep_until(host.mono().plus_ms(10)).await;
        }
        assert_eq!(seen.len() as i32, partition + 1, "the last stable offset never reaches {end}");
    }
    seen
}

fn check(ledger: &Ledger, seen: &[Vec<String>]) {
    let number_of =
        |value: &String| value.split(' ').next().and_then(|n| n.parse::<usize>().ok()).expect("ours");
    for (number, transaction) in ledger.transactions.iter().enumerate() {
        let found: BTreeMap<i32, Vec<String>> = (0..)
            .zip(seen)
            .map(|(partition, values)| {
                (partition, values.iter().filter(|v| number_of(v) == number).cloned().collect())
            })
            .filter(|(_, values): &(i32, Vec<String>)| !values.is_empty())
            .collect();
        let is_whole = found == transaction.values;
        let is_right = match transaction.fate {
            Fate::Lost => found.is_empty(),
            Fate::Unknown => is_whole || found.is_empty(),
            Fate::Committed => is_whole,
        };
        assert!(
            is_right,
            "{number}: {:?}, written {:?}, seen {found:?}",
            transaction.fate, transaction.values
        );
    }
    for values in seen {
        for producer in 0..PRODUCERS.len() {
            let own = values.iter().map(number_of).filter(|n| ledger.transactions[*n].producer == producer);
            assert!(own.is_sorted(), "the transactions of a producer keep their order");
        }
    }
}

#[test]
fn committed_transactions_are_seen_once_whatever_happens() {
    let mut committed_count = 0;
    for seed in 0..SEEDS {
        for level in [Level::One, Level::Two] {
            let ledger = Shared::new(Mutex::new(Ledger { random: seed, transactions: Vec::new() }));
            let mut disk = Arc::new(MemoryDisk::default());
            for number in 0..LIVES {
                let of_life = ledger.clone();
                sim::run_on(seed * LIVES + number, disk.clone(), move |host| life(host, of_life, level));
                disk = Arc::new(disk.after_power_cut(seed + number));
            }
            let (seen, _) = sim::run_on(seed, disk, move |host| seen(host, level));
            let ledger = locked(&ledger);
            check(&ledger, &seen);
            committed_count += ledger.transactions.iter().filter(|one| one.fate == Fate::Committed).count();
        }
    }
    assert!(committed_count as u64 > SEEDS * LIVES * 4, "{committed_count} transactions prove little");
}
