//! The power goes at every one of a mutation's I/O steps, and of those of the start behind it.
//!
//! Other than in drawn cases nothing is left to chance but what the device makes of what was
//! not synced: of that there are several draws.

use crate::minimise::transcript;
use crate::sabotage::Sabotage;
use crate::step::{Case, Planned, PowerCut, Step};
use crate::world::{Stats, run};

/// More than any mutation takes.
const STEPS_MAX: u64 = 2_000;

/// What changes a log's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Mutation {
    AppendAndRoll,
    EndOfTransaction,
    Flush,
    Roll,
    Truncation,
    StartAnew,
    DeleteRecords,
    Retention,
    Checkpoint,
    Snapshot,
    CleanStop,
    Compaction,
    SecondCompaction,
    Move,
    Quarantine,
    SettingAside,
}

/// All of them.
pub const MUTATIONS: [Mutation; 16] = [
    Mutation::AppendAndRoll,
    Mutation::EndOfTransaction,
    Mutation::Flush,
    Mutation::Roll,
    Mutation::Truncation,
    Mutation::StartAnew,
    Mutation::DeleteRecords,
    Mutation::Retention,
    Mutation::Checkpoint,
    Mutation::Snapshot,
    Mutation::CleanStop,
    Mutation::Compaction,
    Mutation::SecondCompaction,
    Mutation::Move,
    Mutation::Quarantine,
    Mutation::SettingAside,
];

/// How much is tried.
#[derive(Clone, Copy, Debug)]
pub struct Thoroughness {
    /// Of what the device keeps, at each step.
    pub draws: u64,
    /// Of the start behind a cut so many steps are left out between two that are cut; other ones
    /// behind the next cut.
    pub start_stride: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// How many steps the mutation took where it took the most.
    pub steps: u64,
    /// Of all runs.
    pub stats: Stats,
}

/// Cuts a mutation in worlds of each kind that it can be done in.
///
/// # Errors
/// The transcript of the first run that fails.
pub fn cut_at_every_step(mutation: Mutation, thoroughness: Thoroughness) -> Result<Found, String> {
    let mut found = Found::default();
    for (seed, scenario) in (1..).zip(scenarios(mutation)) {
        for is_flushed_mode in [false, true] {
            let steps = scenario.cut_at_every_step(seed, is_flushed_mode, thoroughness, &mut found.stats)?;
            found.steps = found.steps.max(steps);
        }
    }
    Ok(found)
}

struct Scenario {
    step: Step,
    /// Done between the first records and the step.
    before: Vec<Step>,
    has_producers: bool,
    is_compacted: bool,
}

fn scenarios(mutation: Mutation) -> Vec<Scenario> {
    const PLAIN: (bool, bool) = (false, false);
    const PRODUCERS: (bool, bool) = (true, false);
    const COMPACTED: (bool, bool) = (false, true);
    const BOTH: (bool, bool) = (true, true);
    let of = |steps: &[Step], before: &[Step], kinds: &[(bool, bool)]| {
        let of_kind = |&(has_producers, is_compacted): &(bool, bool)| {
            let scenario = move |step: &Step| Scenario {
                step: *step,
                before: before.to_vec(),
                has_producers,
                is_compacted,
            };
            steps.iter().map(scenario).collect::<Vec<_>>()
        };
        kinds.iter().flat_map(of_kind).collect()
    };
    let flushed = [Step::Flush];
    let cleaned = [Step::Compact { ms: 0, seed: 3 }, append(9, 9), Step::Compact { ms: 150, seed: 5 }];
    match mutation {
        Mutation::AppendAndRoll => of(&[append(12, 1)], &[], &[PLAIN, PRODUCERS, COMPACTED, BOTH]),
        Mutation::EndOfTransaction => {
            let open = [append(5, 7), append(5, 8)];
            of(&[end(0, false), end(1, true)], &open, &[PRODUCERS, BOTH])
        }
        Mutation::Flush => of(&[Step::Flush, Step::FlushBesideAppend { seed: 4 }], &[], &[PLAIN, BOTH]),
        Mutation::Roll => of(&[Step::Roll], &[], &[PLAIN, PRODUCERS]),
        Mutation::Truncation => of(&[Step::Truncate(200), Step::Truncate(90)], &[], &[PLAIN, PRODUCERS]),
        Mutation::StartAnew => of(&[Step::StartAnew], &[], &[PLAIN, COMPACTED]),
        // With the checkpoint before the names, and without it.
        Mutation::DeleteRecords => {
            of(&[Step::AdvanceStart(200), Step::AdvanceStart(201)], &flushed, &[PLAIN, COMPACTED])
        }
        // By size and by age, a part and all.
        Mutation::Retention => {
            of(&[Step::Retain(0), Step::Retain(100), Step::Retain(1)], &flushed, &[PLAIN, COMPACTED])
        }
        Mutation::Checkpoint => of(&[Step::Checkpoint], &flushed, &[PLAIN]),
        Mutation::Snapshot => of(&[Step::Snapshot], &[], &[PRODUCERS]),
        Mutation::CleanStop => of(&[Step::CleanStop], &[], &[PLAIN, BOTH]),
        Mutation::Compaction => of(&[Step::Compact { ms: 0, seed: 1 }], &[], &[COMPACTED, BOTH]),
        // Tombstones and markers go, and segments are joined.
        Mutation::SecondCompaction => of(&[Step::Compact { ms: 250, seed: 1 }], &cleaned, &[COMPACTED, BOTH]),
        Mutation::Move => {
            let mut scenarios: Vec<Scenario> = of(&[Step::Move { seed: 1 }], &[], &[PLAIN, PRODUCERS]);
            scenarios.extend(of(&[Step::Move { seed: 2 }], &cleaned[..1], &[BOTH]));
            scenarios
        }
        // Whatever is done to a log with two bad batches, and to one that gets them.
        Mutation::Quarantine => {
            let corrupt = [corrupt(1, true), corrupt(2, true)];
            let mut scenarios: Vec<Scenario> = of(&corrupt, &flushed, &[PLAIN]);
            let before = [&flushed[..], &corrupt].concat();
            let changes = [
                append(12, 1),
                Step::Truncate(200),
                Step::AdvanceStart(100),
                Step::CleanStop,
                Step::Move { seed: 1 },
            ];
            scenarios.extend(of(&changes, &before, &[PLAIN]));
            scenarios
        }
        // The start that finds a bad batch behind the recovery point, in several places.
        Mutation::SettingAside => {
            let found = |seed| of(&[Step::Kill], &[Step::Flush, corrupt(seed, false)], &[PLAIN]);
            let mut scenarios: Vec<Scenario> = (1..=4).flat_map(found).collect();
            // What was set aside goes where the log goes.
            let before = [Step::Flush, corrupt(1, false), Step::Kill];
            scenarios.extend(of(&[Step::Move { seed: 1 }], &before, &[PLAIN]));
            scenarios
        }
    }
}

fn append(batches: u8, seed: u64) -> Step {
    Step::Append { batches, seed }
}

fn corrupt(seed: u64, is_below_point: bool) -> Step {
    Step::Corrupt { seed, is_below_point }
}

fn end(producer: u8, is_commit: bool) -> Step {
    Step::EndTransaction { producer, is_commit }
}

/// A few segments; some of it flushed, some of it not. Where flushes are waited for there are enough
/// of them for room to be filled beforehand.
fn beginning(has_producers: bool, is_flushed_mode: bool, seed: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for n in 0..10 {
        steps.push(append(1 + (n % 4) as u8, seed * 100 + n));
        match n {
            2 | 7 if has_producers => steps.push(end((n % 2) as u8, false)),
            4 | 6 if has_producers => steps.push(end((n % 2) as u8, true)),
            3 => steps.push(Step::Flush),
            5 => steps.push(Step::Checkpoint),
            _ => {}
        }
        if is_flushed_mode && (6..9).contains(&n) {
            steps.push(Step::Flush);
        }
    }
    steps
}

impl Scenario {
    fn case(&self, seed: u64, is_flushed_mode: bool, cut: PowerCut) -> Case {
        let &Self { step, has_producers, is_compacted, .. } = self;
        let planned = |step: &Step| Planned { step: *step, cut: None };
        let mut steps: Vec<Planned> =
            beginning(has_producers, is_flushed_mode, seed).iter().map(planned).collect();
        steps.extend(self.before.iter().map(planned));
        steps.push(Planned { step, cut: Some(cut) });
        // That the log goes on, and what it says after a stop.
        let after = [append(2, seed + 50), Step::Flush, append(2, seed + 51), Step::Kill, Step::CleanStop];
        steps.extend(after.iter().map(planned));
        Case { seed, is_flushed_mode, has_producers, is_compacted, steps }
    }

    /// How many steps it takes.
    fn cut_at_every_step(
        &self,
        seed: u64,
        is_flushed_mode: bool,
        thoroughness: Thoroughness,
        total: &mut Stats,
    ) -> Result<u64, String> {
        let Thoroughness { draws, start_stride } = thoroughness;
        let at = self.before.len() + beginning(self.has_producers, is_flushed_mode, seed).len();
        // `None` if the power did not go in the mutation.
        let mut cut = |cut: PowerCut| {
            let case = self.case(seed, is_flushed_mode, cut);
            match std::panic::catch_unwind(|| run(&case, Sabotage::None)) {
                Ok(Ok(stats)) if stats.first_struck != Some(at) => Ok(None),
                Ok(Ok(stats)) => {
                    total.add(stats.clone());
                    Ok(Some(stats))
                }
                _ => Err(format!("step {at} with {cut:?}:\n{}", transcript(&case, Sabotage::None))),
            }
        };
        for after in 0..STEPS_MAX {
            for draw in 0..draws {
                let seed = after * draws + draw;
                if cut(PowerCut { after, seed, again_after: None })?.is_none() {
                    return Ok(after);
                }
            }
            for again in (after % start_stride..STEPS_MAX).step_by(start_stride as usize) {
                let seed = after * STEPS_MAX + again;
                let stats = cut(PowerCut { after, seed, again_after: Some(again) })?;
                if stats.is_some_and(|stats| stats.cut_starts == 0) {
                    break;
                }
            }
        }
        Err(format!("{:?} takes more than {STEPS_MAX} steps", self.step))
    }
}
