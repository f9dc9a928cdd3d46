//! Making a failing case small, and telling what happens in it.
//!
//! Steps, then cuts, are taken out as long as the case still fails: first many at once, then
//! one by one. How it fails may change on the way; a shorter failure is worth more.

use std::fmt::Write as _;

use klamm_log::disk::DiskOperation;

use crate::sabotage::Sabotage;
use crate::step::{Case, PowerCut};
use crate::world::{Violation, World, run};

/// A panic is a violation like any other.
fn fails(case: &Case, sabotage: Sabotage) -> bool {
    let outcome = std::panic::catch_unwind(|| run(case, sabotage));
    !matches!(outcome, Ok(Ok(_)))
}

/// The case with as little in it as still fails.
#[must_use]
pub fn minimise(case: &Case, sabotage: Sabotage) -> Case {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut small = case.clone();
    let mut chunk = small.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let mut has_shrunk = false;
        while at < small.steps.len() {
            let mut tried = small.clone();
            tried.steps.drain(at..(at + chunk).min(small.steps.len()));
            if fails(&tried, sabotage) {
                small = tried;
                has_shrunk = true;
            } else {
                at += chunk;
            }
        }
        if !has_shrunk {
            chunk /= 2;
        }
    }
    for at in 0..small.steps.len() {
        let Some(cut) = small.steps[at].cut else { continue };
        for simpler in [None, Some(PowerCut { again_after: None, ..cut })] {
            let mut tried = small.clone();
            tried.steps[at].cut = simpler;
            if fails(&tried, sabotage) {
                small = tried;
                break;
            }
        }
    }
    std::panic::set_hook(hook);
    small
}

/// What happens in a case, step by step with what the disk was asked to change.
#[must_use]
pub fn transcript(case: &Case, sabotage: Sabotage) -> String {
    let mut told = format!(
        "seed {}, {} acknowledges, {}{}\n",
        case.seed,
        if case.is_flushed_mode { "the flush" } else { "the write" },
        if case.has_producers { "with producers" } else { "without producers" },
        if case.is_compacted { ", compacted" } else { "" },
    );
    for planned in &case.steps {
        if let Some(cut) = planned.cut {
            let _ = writeln!(told, "plan: {:?} with {cut:?}", planned.step);
        }
    }
    let outcome = std::panic::catch_unwind(|| {
        let mut lines = String::new();
        let outcome = World::new(case, sabotage).run(case, &mut |disk, line| {
            for operation in disk.take_journal() {
                if !matches!(operation, DiskOperation::Read { .. }) {
                    let _ = writeln!(lines, "      {operation:?}");
                }
            }
            let _ = writeln!(lines, "{line}");
        });
        (lines, outcome)
    });
    match outcome {
        Ok((lines, Err(Violation { step, message }))) => {
            let _ = write!(told, "{lines}violation in step {step}: {message}");
        }
        Ok((lines, Ok(_))) => {
            let _ = write!(told, "{lines}nothing is wrong");
        }
        Err(_) => told.push_str("it panics; the message is above"),
    }
    told
}
