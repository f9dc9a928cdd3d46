//! What happens to the broker during a round: it is killed, or suspended for a while, whenever clients have got on.

use super::journal::Journal;
use crate::random::Random;
use crate::server::Server;
use crate::wait;
use std::time::{Duration, Instant};

/// Between faults clients get on, or something hangs: many times what they wait for a broker that starts, and longer
/// than any transaction's timeout.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL and a start.
    Kill,
    /// SIGSTOP, and SIGCONT after this many milliseconds.
    Suspend(u64),
}

/// Which faults a round has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Kills and suspensions in turn.
    Both,
    /// No kills: Kafka 4.3.1 takes a partition that has no leader yet, as all have right after a kill, for one that was
    /// deleted, and forgets its abort markers. The next commit of the producer then commits what was aborted.
    Suspensions,
}

/// What happens in a round, each after how many more transactions have ended.
pub fn plan(count: usize, kinds: Kinds, random: &mut Random) -> Vec<(u64, Fault)> {
    let faults = (0..count).map(|number| {
        let after = random.between(3..=40);
        // Past the clients' patience (1 s), or within it.
        let pause_ms = random.between(20..=2_000);
        (after, if kinds == Kinds::Both && number % 2 == 0 { Fault::Kill } else { Fault::Suspend(pause_ms) })
    });
    faults.collect()
}

/// Does it, and lets clients get on once more at the end.
///
/// # Panics
/// When they do not get on.
pub fn run(server: &mut Server<'_>, journal: &Journal, plan: &[(u64, Fault)]) {
    let mut awaited = journal.finished();
    for (after, fault) in plan {
        awaited += after;
        wait_for(journal, awaited, fault);
        match fault {
            Fault::Kill => {
                server.kill_9();
                server.start();
            }
            Fault::Suspend(pause_ms) => {
                server.suspend();
                // The fault itself, not a wait for anything.
                std::thread::sleep(Duration::from_millis(*pause_ms));
                server.resume();
            }
        }
        awaited = journal.finished();
    }
    wait_for(journal, awaited + 20, &"the end");
    journal.end_faults();
}

fn wait_for(journal: &Journal, finished: u64, what: &dyn std::fmt::Debug) {
    let reached =
        wait::until_by(Instant::now() + PROGRESS_WITHIN, || (journal.finished() >= finished).then_some(()));
    assert!(reached.is_some(), "before {what:?}: {} of {finished} transactions ended", journal.finished());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_its_seed_and_its_kinds() {
        let draw = |seed, kinds| plan(6, kinds, &mut Random::of(seed));
        assert_eq!(draw(1, Kinds::Both), draw(1, Kinds::Both));
        assert_ne!(draw(1, Kinds::Both), draw(2, Kinds::Both));
        let kills = |kinds| draw(1, kinds).iter().filter(|(_, fault)| *fault == Fault::Kill).count();
        assert_eq!((kills(Kinds::Both), kills(Kinds::Suspensions)), (3, 0));
    }
}
