//! What the machine says: time of processors, load, and its disk.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

/// Seconds of processor time that a process and all of its children have
/// taken so far, those that have ended too; 0 when it is not there.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    ticks(process) as f64 / TICKS_PER_SECOND
}

/// As [`cpu_seconds`] of this process, without its children: the daemons and servers are among them.
pub(crate) fn own_cpu_seconds() -> f64 {
    stat("self", 2) as f64 / TICKS_PER_SECOND
}

fn ticks(process: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok()).map(ticks);
    stat(&process.to_string(), 4) + children.sum::<u64>()
}

/// The sum of the first of: user time, system time, and both of the children that have ended.
fn stat(process: &str, times: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(times).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// `USER_HZ`, which is 100 on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The machine, as far as it matters for reading the figures.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
    /// Writing 4 KiB and waiting for the disk, where the stores lie: the median in milliseconds.
    fsync_ms: f64,
}

impl Machine {
    pub(crate) fn look(directory: &Path) -> Result<Self, String> {
        let of = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
        };
        let kib = of("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            processor: of("/proc/cpuinfo", "model name"),
            memory_mib: kib.unwrap_or_default() / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            fsync_ms: fsync(directory).map_err(|error| format!("{}: {error}", directory.display()))?.as_secs_f64()
                * 1e3,
        })
    }

    pub(crate) fn print(&self) {
        println!(
            "machine: {} cores ({}), {} MiB, Linux {}; a write of 4 KiB is on the disk after {:.2} ms",
            self.cores, self.processor, self.memory_mib, self.kernel, self.fsync_ms
        );
    }
}

fn fsync(directory: &Path) -> std::io::Result<Duration> {
    let path = directory.join("fsync");
    let mut file = File::create(&path)?;
    file.write_all(&[0; 4096])?;
    file.sync_all()?;
    let mut times = Vec::new();
    for _ in 0..51 {
        let started = Instant::now();
        file.write_all_at(&[1; 4096], 0)?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// How many processes wanted to run within the last minute, ours included.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}
