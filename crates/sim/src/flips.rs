//! One flipped bit in any file of a stopped log: what is served is what was written.
//!
//! A batch is served as it was, byte for byte, or not at all; a start that cuts or sets aside
//! says so, and one that refuses names the file. A wrong index may cost time and may hide a
//! timestamp, it never leads to other records. Not judged: what a flipped transaction index
//! says of aborted transactions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use klamm_log::disk::{Disk, Draw, MemoryDisk};
use klamm_log::{
    AppendContext, AppendOrigin, Log, LogConfig, OpenLog, ReadError, RecoveryReport, trusted_batch,
};
use klamm_protocol::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, Uuid};
use klamm_protocol::records::BatchBuilder;
use klamm_protocol::time::WallMs;

use crate::history::{Batch, Contents};

const DIR: &str = "/logs/t-0";
const NOW: WallMs = WallMs(1_000);

/// What flipping bits came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flips {
    /// Flips, each with a start behind it.
    pub count: u64,
    /// After how many everything was served.
    pub harmless: u64,
    /// After how many batches were refused, cut or set aside.
    pub noticed: u64,
    /// Durable batches served with an offset or leader epoch, which no CRC covers, not theirs.
    pub mistaken_headers: u64,
    /// After how many the log was not opened, by the kind of file.
    pub refused: BTreeMap<String, u64>,
}

/// Flips so many bits, one after the other, each in a fresh copy of the same log.
///
/// # Errors
/// The first wrong answer.
pub fn flip(seed: u64, count: u64) -> Result<Flips, String> {
    let mut draw = Draw::new(seed);
    let stopped = Stopped::write(&mut draw)?;
    let points = stopped.recovery_points();
    let mut flips = Flips::default();
    for _ in 0..count {
        let bit = draw.below(stopped.bits);
        // A clean start, or one that looks at everything, at a part, at nothing.
        let recovery_point = match draw.below(4) {
            0 => None,
            1 => Some(0),
            2 => points[draw.below(points.len() as u64) as usize],
            _ => Some(stopped.written.end),
        };
        stopped.flip(bit, recovery_point, &mut flips)?;
    }
    Ok(flips)
}

/// Flips every bit of a log, once for every way in which the broker may have left it.
///
/// # Errors
/// The wrong answers, at most a hundred of them.
pub fn flip_every_bit(seed: u64) -> Result<Flips, String> {
    let stopped = Stopped::write(&mut Draw::new(seed))?;
    let mut flips = Flips::default();
    let mut wrong = Vec::new();
    for recovery_point in stopped.recovery_points() {
        for bit in 0..stopped.bits {
            wrong.extend(stopped.flip(bit, recovery_point, &mut flips).err());
            if wrong.len() == 100 {
                return Err(wrong.join("\n"));
            }
        }
    }
    if wrong.is_empty() { Ok(flips) } else { Err(wrong.join("\n")) }
}

/// A log that nobody has open.
struct Stopped {
    disk: MemoryDisk,
    written: Contents,
    /// Its files and their sizes.
    files: Vec<(PathBuf, u64)>,
    /// Of all files.
    bits: u64,
}

impl Stopped {
    fn write(draw: &mut Draw) -> Result<Self, String> {
        let disk = MemoryDisk::new();
        let written = write(&disk, draw)?;
        let files = files(&disk)?;
        let bits = files.iter().map(|(_, len)| len * 8).sum();
        Ok(Self { disk, written, files, bits })
    }

    /// `None` for a clean stop; else the broker has written down where some batch ends.
    fn recovery_points(&self) -> Vec<Option<i64>> {
        let ends = self.written.batches.iter().map(|batch| Some(batch.next()));
        [None, Some(0)].into_iter().chain(ends).collect()
    }

    fn flip(&self, bit: u64, recovery_point: Option<i64>, flips: &mut Flips) -> Result<(), String> {
        let mut bit_in_file = bit;
        let found = self.files.iter().find(|(_, len)| {
            let is_here = bit_in_file < len * 8;
            bit_in_file -= if is_here { 0 } else { len * 8 };
            is_here
        });
        let (path, _) = found.ok_or("the bit lies in a file")?;
        let copy = self.disk.fork();
        copy.tamper(path, |bytes| bytes[(bit_in_file / 8) as usize] ^= 1 << (bit_in_file % 8))
            .map_err(text)?;
        flips.count += 1;
        judge(&copy, &self.written, recovery_point, path, flips).map_err(|error| {
            format!("bit {bit_in_file} of {}, recovery point {recovery_point:?}: {error}", path.display())
        })
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn open(disk: &MemoryDisk, recovery_point: Option<i64>) -> OpenLog {
    OpenLog {
        disk: Arc::new(disk.clone()),
        dir: PathBuf::from(DIR),
        topic_id: TopicId(Uuid(5000)),
        config: LogConfig {
            segment_bytes: 1500,
            index_interval_bytes: 250,
            verifies_transactions: false,
            ..LogConfig::default()
        },
        recovery_point: Offset(recovery_point.unwrap_or(0)),
        log_start: Offset(0),
        high_watermark: None,
        was_clean: recovery_point.is_none(),
        now: NOW,
    }
}

/// A log of a few segments in three epochs, with producers and aborted transactions.
fn write(disk: &MemoryDisk, draw: &mut Draw) -> Result<Contents, String> {
    let mut log = Log::create(open(disk, None)).map_err(text)?;
    let mut written = Contents::default();
    let mut sequences = [0; 3];
    for n in 0..24 {
        let epoch = n / 8;
        log.assign_leader_epoch(LeaderEpoch(epoch)).map_err(text)?;
        let producer = draw.below(3) as usize;
        let id = ProducerId(producer as i64 + 1);
        let bytes = if n % 6 == 5 {
            BatchBuilder::end_transaction_marker(n % 12 == 5, 0, ProducerId(3), ProducerEpoch(0), 1).build()
        } else {
            let mut batch = BatchBuilder::new().producer(id, ProducerEpoch(0), sequences[producer]);
            if producer == 2 {
                batch = batch.transactional();
            }
            let count = 1 + draw.below(3);
            sequences[producer] += count as i32;
            for _ in 0..count {
                let value = vec![draw.below(256) as u8; draw.below(120) as usize];
                batch.push(draw.below(200) as i64, Some(b"k"), Some(&value), &[]);
            }
            batch.build()
        };
        let context =
            AppendContext { now: NOW, leader_epoch: LeaderEpoch(epoch), origin: AppendOrigin::Coordinator };
        let plan = log.plan(&context, &[trusted_batch(bytes.clone()).map_err(text)?]);
        log.write(plan).remove(0).map_err(text)?;
        log.view().raise_high_watermark_to_end();
        written.append(Batch::placed(&bytes, written.end, epoch));
    }
    log.close().map_err(text)?;
    Ok(written)
}

fn files(disk: &MemoryDisk) -> Result<Vec<(PathBuf, u64)>, String> {
    let mut files = Vec::new();
    for entry in disk.list_dir(Path::new(DIR)).map_err(text)? {
        let path = Path::new(DIR).join(entry.name);
        let len = disk.metadata(&path).map_err(text)?.len_bytes;
        files.push((path, len));
    }
    Ok(files)
}

fn judge(
    disk: &MemoryDisk,
    written: &Contents,
    recovery_point: Option<i64>,
    path: &Path,
    flips: &mut Flips,
) -> Result<(), String> {
    // A clean stop leaves the recovery point at the end.
    let options = OpenLog {
        recovery_point: Offset(recovery_point.unwrap_or(written.end)),
        ..open(disk, recovery_point)
    };
    let (log, report) = match Log::open(options) {
        Ok(opened) => opened,
        Err(error) => {
            let error = error.to_string();
            if !error.contains(DIR) {
                return Err(format!("a start refuses without naming the file: {error}"));
            }
            let kind = path.extension().or(path.file_name()).unwrap_or_default();
            *flips.refused.entry(kind.to_string_lossy().into_owned()).or_default() += 1;
            return Ok(());
        }
    };
    let is_whole = check_reads(&log, written, &report, recovery_point, flips)?;
    check_timestamps(&log, written, recovery_point, flips)?;
    // Nothing covers a transaction index below the newest producer snapshot.
    if is_whole && path.extension().is_none_or(|extension| extension != "txnindex") {
        check_transactions(&log, written)?;
    }
    match is_whole {
        true => flips.harmless += 1,
        false => flips.noticed += 1,
    }
    Ok(())
}

/// True if everything is served.
fn check_reads(
    log: &Log,
    written: &Contents,
    report: &RecoveryReport,
    point: Option<i64>,
    flips: &mut Flips,
) -> Result<bool, String> {
    let view = log.view();
    let limits = view.limits();
    let end = limits.end.offset.0;
    if end != written.end && report.truncations.is_empty() {
        return Err(format!("the log ends at {end} instead of {} and nobody says so", written.end));
    }
    if limits.log_start.0 != 0 {
        return Err(format!("the log starts at {}", limits.log_start));
    }
    let mut is_whole = end == written.end;
    let mut found = Vec::new();
    for batch in written.batches.iter().filter(|batch| batch.base() < end) {
        match view.read_checked(Offset(batch.base()), limits.end, 1, true, &mut found) {
            Ok(Some(region)) => {
                let bytes = region.read().map_err(text)?;
                if bytes == batch.bytes {
                    continue;
                }
                let found = Batch::read(&bytes);
                // Offset, length and epoch lie before what the CRC covers.
                let is_written = written.batches.iter().any(|one| one.bytes[16..] == bytes[16..]);
                if !is_written || point.is_some_and(|point| batch.base() >= point) {
                    return Err(format!("{found:?} is served instead of {batch:?}"));
                }
                // Durable batches are not cut for what no CRC covers: where little else lies
                // around one, nothing tells that its offset or epoch is wrong.
                flips.mistaken_headers += 1;
            }
            Ok(None) => return Err(format!("nothing is served at {}", batch.base())),
            Err(ReadError::Quarantined { .. } | ReadError::Corrupt { .. }) => is_whole = false,
            Err(other) => return Err(format!("a read at {} fails: {other}", batch.base())),
        }
    }
    Ok(is_whole)
}

/// A time may lead to a later record than it should, or nowhere; never to one that is not there, but for a durable
/// one whose offset, which no CRC covers, nothing around it contradicts.
fn check_timestamps(
    log: &Log,
    written: &Contents,
    recovery_point: Option<i64>,
    flips: &mut Flips,
) -> Result<(), String> {
    let view = log.view();
    let end = view.limits().end;
    for asked in [0, 60, 130, 199] {
        let Ok(Some(found)) = view.offset_for_timestamp(asked, end) else { continue };
        if !written.has_record(found.offset.0, found.timestamp) {
            let is_durable = recovery_point.is_none_or(|point| found.offset.0 < point);
            if is_durable && written.has_timestamp(found.timestamp) {
                flips.mistaken_headers += 1;
                continue;
            }
            return Err(format!("timestamp {asked} leads to {found:?}, which was not written"));
        }
    }
    Ok(())
}

fn check_transactions(log: &Log, written: &Contents) -> Result<(), String> {
    let view = log.view();
    let end = view.limits().end;
    let last = written.batches.last().ok_or("an empty log")?.base();
    let region = view.read(Offset(last), end, 1, true).map_err(text)?.ok_or("nothing at the end")?;
    let listed = view.aborted_transactions(Offset(0), &region, end).map_err(text)?;
    let mut listed: Vec<_> =
        listed.iter().map(|one| (one.producer_id.0, one.first_offset.0, one.last_offset.0)).collect();
    listed.sort_unstable_by_key(|one| one.2);
    if listed == written.aborted() {
        return Ok(());
    }
    Err(format!("aborted are {listed:?} instead of {:?}", written.aborted()))
}
