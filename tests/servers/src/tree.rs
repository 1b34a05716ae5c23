//! A server with all of its processes.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Halts a server as a frozen machine does: its connections stay open and nothing is answered.
pub fn freeze(server: u32) {
    send(server, Signal::STOP);
}

/// Lets a frozen server go on.
pub fn thaw(server: u32) {
    send(server, Signal::CONT);
}

/// To the parent first: a halted one makes no more children.
fn send(process: u32, signal: Signal) {
    let pid = Pid::from_raw(process.try_into().unwrap()).unwrap();
    // A child may have ended by itself.
    let _ = kill_process(pid, signal);
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().for_each(|child| send(child.parse().unwrap(), signal));
}
