//! The two hot paths: appending a group, and finding the place of a tail read.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use klamm_log::disk::RealDisk;
use klamm_log::{AppendContext, AppendOrigin, Log, LogConfig, OpenLog, trusted_batch};
use klamm_protocol::ids::{LeaderEpoch, Offset, TopicId, Uuid};
use klamm_protocol::records::{BatchBuilder, ValidatedBatch};
use klamm_protocol::time::WallMs;

const CONTEXT: AppendContext =
    AppendContext { now: WallMs(1), leader_epoch: LeaderEpoch(0), origin: AppendOrigin::Client };

fn log_in(dir: &Path) -> Log {
    let config = LogConfig { segment_bytes: 256 << 20, ..LogConfig::default() };
    Log::create(OpenLog {
        disk: Arc::new(RealDisk),
        dir: dir.join("bench-0"),
        topic_id: TopicId(Uuid(1000)),
        config,
        recovery_point: Offset(0),
        log_start: Offset(0),
        high_watermark: None,
        was_clean: true,
        now: WallMs(1),
    })
    .expect("a log in an empty directory")
}

fn one_kib() -> ValidatedBatch {
    let mut builder = BatchBuilder::new();
    builder.push(1, None, Some(&[b'x'; 950]), &[]);
    trusted_batch(builder.build()).expect("a batch")
}

/// Keeps the file small: segments behind the active one go.
fn append(log: &mut Log, batches: &[ValidatedBatch]) {
    let plan = log.plan(&CONTEXT, batches);
    black_box(log.write(plan));
    log.view().raise_high_watermark_to_end();
}

fn trim(log: &mut Log) {
    let end = log.view().limits().end.offset;
    let removal = log.advance_log_start(end).expect("the watermark is the end");
    removal.mark(true).expect("renames");
    removal.unlink().expect("unlinks");
}

fn benches(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut log = log_in(dir.path());
    let batch = one_kib();
    c.bench_function("append/1x1KiB", |b| b.iter(|| append(&mut log, std::slice::from_ref(&batch))));
    trim(&mut log);
    let group: Vec<ValidatedBatch> = vec![batch.clone(); 64];
    c.bench_function("append/64x1KiB", |b| {
        b.iter_batched(|| (), |()| append(&mut log, &group), BatchSize::SmallInput);
    });
    trim(&mut log);
    for _ in 0..1000 {
        append(&mut log, &group);
    }
    c.bench_function("plan/1x1KiB", |b| {
        b.iter(|| black_box(log.plan(&CONTEXT, std::slice::from_ref(&batch)).writes_nothing()));
    });
    let view = log.view();
    let limits = view.limits();
    let read = |from| {
        let region = view.read(from, limits.high_watermark, 1 << 20, true).expect("a readable log");
        assert!(black_box(region).is_some());
    };
    let tail = Offset(limits.end.offset.0 - 1);
    c.bench_function("read/tail lookup", |b| {
        b.iter(|| read(tail));
    });
    let middle = Offset((limits.log_start.0 + limits.end.offset.0) / 2);
    c.bench_function("read/middle lookup", |b| {
        b.iter(|| read(middle));
    });
    c.bench_function("limits", |b| b.iter(|| black_box(view.limits())));
}

criterion_group!(all, benches);
criterion_main!(all);
