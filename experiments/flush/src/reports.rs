//! Does the flush tell the truth? Which flushes reach the device's cache, and who hears of a failed write.
//!
//! Needs a loop device of its own (`devices.sh`): others' flushes would be counted, and errors are provoked.

use crate::files::{APPEND_BYTES, open, prefill, start_write_back};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Writes each way once, and prints how many cache flushes the device then saw (`flushes completed` of
/// /sys/block/DEVICE/stat; a write with FUA counts as one on a device without FUA).
pub fn barriers(root: &Path, device: &str) -> io::Result<()> {
    let directory = File::open(root)?;
    let (ours, other) = (open(&root.join("ours"))?, open(&root.join("other"))?);
    let clean = open(&root.join("clean"))?;
    ours.set_len(0)?;
    let payload = [0x5a; APPEND_BYTES];
    println!("\n### Cache flushes that reach {device}\n");
    println!("| written | meanwhile | flushed by | cache flushes |");
    println!("|---|---|---|---|");
    let mut position = 0;
    for is_overwrite in [false, true] {
        for has_other in [false, true] {
            for way in ["fdatasync", "syncfs", "syncfs, then fdatasync of a clean file"] {
                if is_overwrite {
                    prefill(&ours, position, APPEND_BYTES as u64)?;
                }
                rustix::fs::syncfs(&directory)?;
                // Past the granularity of timestamps, so that the write below changes one.
                std::thread::sleep(Duration::from_millis(30));
                ours.write_all_at(&payload, position)?;
                if has_other {
                    // Another file's flush commits what the journal holds, our file's new timestamp included.
                    other.write_all_at(&payload, position)?;
                    other.sync_all()?;
                }
                let before = flushes(device)?;
                match way {
                    "fdatasync" => ours.sync_data()?,
                    "syncfs" => rustix::fs::syncfs(&directory)?,
                    _ => {
                        rustix::fs::syncfs(&directory)?;
                        clean.sync_data()?;
                    }
                }
                println!(
                    "| {} | {} | {} | {} |",
                    if is_overwrite { "over zeros" } else { "at the end" },
                    if has_other { "another file's fsync" } else { "" },
                    way,
                    flushes(device)? - before,
                );
                position += APPEND_BYTES as u64;
            }
        }
    }
    Ok(())
}

fn flushes(device: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/{device}/stat"))?;
    let field = text.split_whitespace().nth(15).and_then(|field| field.parse().ok());
    field.ok_or_else(|| {
        io::Error::other("no count of flushes in the device's stat: Linux 5.5 or later is needed")
    })
}

/// Fills a file system whose device runs out of space behind its back, and prints who is told.
pub fn errors(root: &Path, mib: usize) -> io::Result<()> {
    let early = File::open(root)?;
    let bystander = open(&root.join("bystander"))?;
    bystander.write_all_at(&[0x5a; APPEND_BYTES], 0)?;
    println!("\n### After failed writes\n");
    println!("| call | on | answer |");
    println!("|---|---|---|");
    print("syncfs", "directory opened before, nothing failed yet", sync(&early));
    let second = File::open(root)?;
    let failing = open(&root.join("failing"))?;
    let payload = vec![0x5a; 1 << 20];
    for index in 0..mib {
        failing.write_all_at(&payload, (index << 20) as u64)?;
    }
    // The kernel writes back by itself and meets the error: nobody waits for it yet.
    start_write_back(&failing, 0, (mib << 20) as u64, false)?;
    std::thread::sleep(Duration::from_secs(2));
    println!("(the kernel's own write-back has failed by now)");
    print("fdatasync", "another file, untouched since its own flush", bystander.sync_data());
    print("syncfs", "directory opened before the failure, first call", sync(&early));
    print("syncfs", "the same, second call", sync(&early));
    print("syncfs", "another descriptor opened before the failure", sync(&second));
    print("syncfs", "directory opened after the failure", sync(&File::open(root)?));
    print("fdatasync", "the failed file, first call", failing.sync_data());
    print("fdatasync", "the same, second call", failing.sync_data());
    print("syncfs", "the first descriptor after that", sync(&early));
    print("write", "the other file", bystander.write_all_at(&[0x5a; APPEND_BYTES], 0));
    print("syncfs", "after a new write to the other file", sync(&early));
    // ext4 has gone read-only by now.
    print("write", "the failed file", failing.write_all_at(&payload, (mib << 20) as u64));
    print("syncfs", "that write fails within the call", sync(&early));
    Ok(())
}

fn sync(directory: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(directory)?)
}

fn print(call: &str, on: &str, outcome: io::Result<()>) {
    let answer = outcome.map_or_else(|error| error.to_string(), |()| "ok".into());
    println!("| {call} | {on} | {answer} |");
}
