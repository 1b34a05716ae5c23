//! The shards' sorted sets as one in order.

use std::collections::VecDeque;

use claviger_plugin_api::PluginError;
use redis::Value;

use crate::{
    fault::unexpected,
    names::{Name, bytes},
    script::Request,
    server::Server,
};

/// Members read from a shard at once, at most.
const CHUNK: usize = 1000;

/// Goes through a range of the same set in all shards, in bytewise order.
pub(crate) struct Merge<'a> {
    server: &'a Server,
    /// The upper end, as `ZRANGEBYLEX` has it.
    to: Vec<u8>,
    shards: Vec<Shard>,
}

struct Shard {
    set: Name,
    /// From where to read on, as `ZRANGEBYLEX` has it.
    from: Vec<u8>,
    read: VecDeque<Vec<u8>>,
    chunk: usize,
    ended: bool,
}

impl<'a> Merge<'a> {
    /// Between two ends as `ZRANGEBYLEX` has them. About `expected` members
    /// will be taken.
    pub(crate) fn new(
        server: &'a Server,
        sets: impl ExactSizeIterator<Item = Name>,
        from: &[u8],
        to: Vec<u8>,
        expected: usize,
    ) -> Self {
        // Somewhat more than the part of each, as they are not quite equal.
        let chunk = (expected * 3 / 2 / sets.len().max(1) + 4).min(CHUNK);
        let shards =
            sets.map(|set| Shard { set, from: from.to_vec(), read: VecDeque::new(), chunk, ended: false }).collect();
        Self { server, to, shards }
    }

    /// The next member of all.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, PluginError> {
        let mut dry: Vec<&mut Shard> =
            self.shards.iter_mut().filter(|shard| shard.read.is_empty() && !shard.ended).collect();
        if !dry.is_empty() {
            let reads = dry.iter().map(|shard| read(&shard.set, &shard.from, &self.to, shard.chunk)).collect();
            for (shard, answer) in dry.iter_mut().zip(self.server.call_all(reads).await?) {
                shard.add(members(answer)?);
            }
        }
        let lowest = self.shards.iter_mut().filter(|shard| !shard.read.is_empty());
        let lowest = lowest.min_by(|a, b| a.read.front().cmp(&b.read.front()));
        Ok(lowest.and_then(|shard| shard.read.pop_front()))
    }

    /// Up to `count` members.
    pub(crate) async fn take(&mut self, count: usize) -> Result<Vec<Vec<u8>>, PluginError> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.next().await? {
                Some(member) => taken.push(member),
                None => break,
            }
        }
        Ok(taken)
    }
}

impl Shard {
    fn add(&mut self, members: Vec<Vec<u8>>) {
        self.ended = members.len() < self.chunk;
        self.chunk = (self.chunk * 2).min(CHUNK);
        if let Some(last) = members.last() {
            self.from = [&b"("[..], last].concat();
        }
        self.read.extend(members);
    }
}

/// Reads up to `limit` members of a set between two ends as `ZRANGEBYLEX` has them.
pub(crate) fn read(set: &Name, from: &[u8], to: &[u8], limit: usize) -> Request {
    let limit = limit.to_string();
    Request::command("ZRANGEBYLEX", set, [from, to, b"LIMIT", b"0", limit.as_bytes()])
}

/// The members in the answer to [`read`].
pub(crate) fn members(answer: Value) -> Result<Vec<Vec<u8>>, PluginError> {
    let Value::Array(members) = answer else { return Err(unexpected("ZRANGEBYLEX")) };
    members.into_iter().map(|member| bytes(member).ok_or_else(|| unexpected("ZRANGEBYLEX"))).collect()
}
