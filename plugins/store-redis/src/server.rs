//! The servers: which of them has a slot now, and a request on its way to it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use claviger_plugin_api::{InitError, PluginError};
use futures_util::future::{select_ok, try_join_all};
use redis::{Cmd, Pipeline, ServerError, Value};
use tokio::task::JoinSet;

use crate::{
    configuration::{Address, Servers},
    fault::{refused, unexpected},
    link::{Connector, Link, Party},
    names::Name,
    script::{Lane, Request},
};

/// The last of a Cluster's slots.
const LAST_SLOT: u16 = 16383;
/// How often a request is sent on to another server, at most.
const HOPS: usize = 5;
/// How long a failure to find the servers is told to all who ask.
const PAUSE: Duration = Duration::from_millis(100);

/// One server that takes writes.
pub(crate) struct Node {
    address: Address,
    quick: Link,
    durable: Link,
}

impl Node {
    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// One command that is for this server and no slot.
    pub(crate) async fn ask(&self, lane: Lane, command: Cmd) -> Result<Result<Value, ServerError>, PluginError> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        Ok(match self.link(lane).send(&pipeline).await?.pop() {
            Some(Value::ServerError(error)) => Err(error),
            answer => Ok(answer.unwrap_or(Value::Nil)),
        })
    }

    fn link(&self, lane: Lane) -> &Link {
        match lane {
            Lane::Quick => &self.quick,
            Lane::Durable => &self.durable,
        }
    }
}

/// Who has which slots.
struct Map {
    /// The last slot of each range, in order, with gaps closed by `None`.
    ranges: Vec<(u16, Option<Arc<Node>>)>,
    /// Something was not as the map says.
    stale: AtomicBool,
}

/// A request and where it goes next.
struct Underway {
    /// Its number among those that were called together.
    at: usize,
    request: Request,
    node: Arc<Node>,
    asking: bool,
    with_source: bool,
}

/// All servers of a store.
pub(crate) struct Server {
    connector: Arc<Connector>,
    servers: Servers,
    /// After a durable write, on its connection.
    wait: Option<(Cmd, i64)>,
    map: Mutex<Arc<Map>>,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    /// Held by who asks for the servers; the last failure.
    asking: tokio::sync::Mutex<Option<(Instant, PluginError)>>,
}

impl Server {
    /// Asks no server yet.
    pub(crate) fn new(connector: Connector, servers: Servers, wait_replicas: u16) -> Self {
        let wait = (wait_replicas > 0).then(|| {
            let mut wait = redis::cmd("WAIT");
            // Its own end comes before that of the call.
            wait.arg(wait_replicas).arg((connector.timeout() / 2).as_millis().max(1) as u64);
            (wait, i64::from(wait_replicas))
        });
        Self {
            connector: Arc::new(connector),
            servers,
            wait,
            map: Mutex::new(Arc::new(Map { ranges: Vec::new(), stale: AtomicBool::new(true) })),
            nodes: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// The answer to a request.
    ///
    /// # Errors
    /// Those of [`call_all`](Self::call_all).
    pub(crate) async fn call(&self, request: Request) -> Result<Value, PluginError> {
        let mut answers = self.call_all(vec![request]).await?;
        answers.pop().ok_or_else(|| unexpected("a command"))
    }

    /// The answers to requests, in their order. Those for one server go out
    /// together, so that it syncs its disk once for all of them.
    ///
    /// # Errors
    /// `Unavailable`, also where it cannot be known whether they were done;
    /// `Full` and `Corrupt` where one of them was not. Others may have been.
    pub(crate) async fn call_all(&self, requests: Vec<Request>) -> Result<Vec<Value>, PluginError> {
        // To find the servers, to connect, and their answers.
        let limit = self.connector.connect_timeout() * 2 + self.connector.timeout();
        let answers = tokio::time::timeout(limit, self.follow(requests)).await;
        answers.unwrap_or_else(|_| Err(PluginError::Unavailable("the servers did not answer in time".to_owned())))
    }

    async fn follow(&self, requests: Vec<Request>) -> Result<Vec<Value>, PluginError> {
        let map = self.fresh_map().await?;
        let mut answers = vec![Value::Nil; requests.len()];
        let underway = requests.into_iter().enumerate().map(|(at, request)| {
            let node = self.owner(&map, request.slot)?;
            Ok(Underway { at, request, node, asking: false, with_source: false })
        });
        let mut underway = underway.collect::<Result<Vec<_>, PluginError>>()?;
        for _ in 0..HOPS {
            let mut groups: BTreeMap<(Lane, Address), Vec<Underway>> = BTreeMap::new();
            for one in underway.drain(..) {
                groups.entry((one.request.lane, one.node.address.clone())).or_default().push(one);
            }
            let sent = groups.into_iter().map(|((lane, _), group)| self.send(lane, group));
            for (one, answer) in try_join_all(sent).await?.into_iter().flatten() {
                match answer {
                    Value::ServerError(error) => underway.push(self.again(one, &error)?),
                    answer => answers[one.at] = answer,
                }
            }
            if underway.is_empty() {
                return Ok(answers);
            }
        }
        Err(PluginError::Unavailable("the servers send one another's requests around".to_owned()))
    }

    /// Sends what is for one server, and gives the answer to each.
    async fn send(&self, lane: Lane, group: Vec<Underway>) -> Result<Vec<(Underway, Value)>, PluginError> {
        let Some(node) = group.first().map(|one| one.node.clone()) else { return Ok(Vec::new()) };
        let wait = self.wait.as_ref().filter(|_| lane == Lane::Durable);
        let mut pipeline = Pipeline::with_capacity(group.len() + 1);
        for one in &group {
            if one.asking {
                pipeline.cmd("ASKING");
            }
            one.request.add_to(&mut pipeline, one.with_source);
        }
        if let Some((wait, _)) = wait {
            pipeline.add_command(wait.clone());
        }
        let mut answers = node.link(lane).send(&pipeline).await.inspect_err(|_| self.doubt())?.into_iter();
        let mut answered = Vec::with_capacity(group.len());
        for one in group {
            if one.asking {
                answers.next();
            }
            let answer = answers.next().ok_or_else(|| unexpected("a command"))?;
            answered.push((one, answer));
        }
        // What was done is done when the replicas have it, also beside what the server sends elsewhere.
        let done = answered.iter().any(|(_, answer)| !matches!(answer, Value::ServerError(_)));
        if let (Some((_, replicas)), true) = (wait, done) {
            enough(*replicas, answers.next())?;
        }
        Ok(answered)
    }

    /// A request that a server says it has not done, on its next way.
    fn again(&self, mut one: Underway, error: &ServerError) -> Result<Underway, PluginError> {
        match error.code() {
            "NOSCRIPT" if !one.with_source => one.with_source = true,
            code @ ("MOVED" | "ASK") => {
                if code == "MOVED" {
                    self.doubt();
                }
                one.asking = code == "ASK";
                one.node = self.redirected(&one.node, error)?;
            }
            code => {
                if ["READONLY", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "UNBLOCKED"].contains(&code) {
                    self.doubt();
                }
                return Err(refused(error));
            }
        }
        Ok(one)
    }

    /// The servers of now that take writes.
    pub(crate) async fn masters(&self) -> Result<Vec<Arc<Node>>, PluginError> {
        let map = self.fresh_map().await?;
        let mut masters: Vec<Arc<Node>> = map.ranges.iter().filter_map(|(_, node)| node.clone()).collect();
        masters.sort_by(|a, b| a.address.cmp(&b.address));
        masters.dedup_by(|a, b| a.address == b.address);
        Ok(masters)
    }

    /// Of these names the first of each server.
    pub(crate) async fn one_for_each(&self, names: impl IntoIterator<Item = Name>) -> Result<Vec<Name>, PluginError> {
        let map = self.fresh_map().await?;
        let mut found = BTreeMap::new();
        for name in names {
            let node = self.owner(&map, name.slot)?;
            found.entry(node.address.clone()).or_insert(name);
        }
        Ok(found.into_values().collect())
    }

    fn owner(&self, map: &Map, slot: u16) -> Result<Arc<Node>, PluginError> {
        let at = map.ranges.partition_point(|(last, _)| *last < slot);
        let node = map.ranges.get(at).and_then(|(_, node)| node.clone());
        node.ok_or_else(|| {
            self.doubt();
            PluginError::Unavailable(format!("no node of the Cluster has slot {slot}"))
        })
    }

    /// The next call asks who has which slots.
    fn doubt(&self) {
        self.map().stale.store(true, Ordering::Relaxed);
    }

    fn map(&self) -> Arc<Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn fresh_map(&self) -> Result<Arc<Map>, PluginError> {
        let map = self.map();
        if !map.stale.load(Ordering::Relaxed) {
            return Ok(map);
        }
        let mut failed = self.asking.lock().await;
        let map = self.map();
        if !map.stale.load(Ordering::Relaxed) {
            return Ok(map);
        }
        if let Some((_, why)) = failed.as_ref().filter(|(when, _)| when.elapsed() < PAUSE) {
            return Err(why.clone());
        }
        match self.ask_for_ranges().await {
            Ok(ranges) => {
                let map = Arc::new(Map { ranges, stale: AtomicBool::new(false) });
                self.keep(&map);
                *self.map.lock().unwrap_or_else(PoisonError::into_inner) = map.clone();
                *failed = None;
                Ok(map)
            }
            Err(why) => {
                *failed = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    async fn ask_for_ranges(&self) -> Result<Vec<(u16, Option<Arc<Node>>)>, PluginError> {
        let master = match &self.servers {
            Servers::One(address) => address.clone(),
            Servers::Watched { sentinels, master } => self.ask_sentinels(sentinels, master).await?,
            Servers::Cluster(seeds) => return self.ask_cluster(seeds).await,
        };
        Ok(vec![(LAST_SLOT, Some(self.node(&master)))])
    }

    /// Asks all known nodes at once, and takes the first answer.
    async fn ask_cluster(&self, seeds: &[Address]) -> Result<Vec<(u16, Option<Arc<Node>>)>, PluginError> {
        let mut nodes: Vec<Arc<Node>> = seeds.iter().map(|seed| self.node(seed)).collect();
        nodes.extend(self.map().ranges.iter().filter_map(|(_, node)| node.clone()));
        nodes.sort_by(|a, b| a.address.cmp(&b.address));
        nodes.dedup_by(|a, b| a.address == b.address);
        let asked = nodes.into_iter().map(|node| {
            Box::pin(async move {
                let mut command = redis::cmd("CLUSTER");
                command.arg("SLOTS");
                let answer = node.ask(Lane::Quick, command).await?.map_err(|error| refused(&error))?;
                self.ranges(&node.address, &answer).ok_or_else(|| unexpected("CLUSTER SLOTS"))
            })
        });
        Ok(select_ok(asked).await?.0)
    }

    fn ranges(&self, asked: &Address, answer: &Value) -> Option<Vec<(u16, Option<Arc<Node>>)>> {
        let Value::Array(entries) = answer else { return None };
        let mut found = Vec::new();
        for entry in entries {
            let Value::Array(entry) = entry else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = entry.as_slice() else {
                return None;
            };
            let [host, Value::Int(port), ..] = master.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) => std::str::from_utf8(host).ok()?,
                _ => "",
            };
            let address = beside(asked, host, u16::try_from(*port).ok()?)?;
            found.push((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, self.node(&address)));
        }
        found.sort_by_key(|(first, ..)| *first);
        let (mut ranges, mut next) = (Vec::new(), 0);
        for (first, last, node) in found {
            if first > next {
                ranges.push((first - 1, None));
            }
            ranges.push((last, Some(node)));
            next = last.saturating_add(1);
        }
        Some(ranges)
    }

    /// Asks all Sentinels at once. The master is whom more than half of them
    /// name: one that is cut off from the others may name a former one.
    async fn ask_sentinels(&self, sentinels: &[Address], master: &str) -> Result<Address, PluginError> {
        let mut asked = JoinSet::new();
        for sentinel in sentinels {
            asked.spawn(ask_sentinel(self.connector.clone(), sentinel.clone(), master.to_owned()));
        }
        let (mut votes, mut why) = (HashMap::<Address, usize>::new(), None);
        while let Some(answer) = asked.join_next().await {
            match answer.unwrap_or_else(|_| Err(unexpected("SENTINEL"))) {
                Ok(address) => {
                    let count = votes.entry(address.clone()).or_default();
                    *count += 1;
                    if *count > sentinels.len() / 2 {
                        return Ok(address);
                    }
                }
                Err(error) => why = Some(error),
            }
        }
        // Fewer answer, or they are about to agree: the new master says of itself what it is.
        let most = votes.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address);
        most.ok_or_else(|| why.unwrap_or_else(|| unexpected("SENTINEL")))
    }

    fn redirected(&self, from: &Node, error: &ServerError) -> Result<Arc<Node>, PluginError> {
        // `MOVED 3999 127.0.0.1:6381`.
        let target = error.details().and_then(|details| details.split_whitespace().nth(1));
        let address = target
            .and_then(|target| target.rsplit_once(':'))
            .and_then(|(host, port)| beside(&from.address, host, port.parse().ok()?));
        Ok(self.node(&address.ok_or_else(|| unexpected("a redirected command"))?))
    }

    /// The node of this address, the same one each time while it is in use.
    fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let node = nodes.entry(address.clone()).or_insert_with(|| {
            let link = || Link::new(self.connector.clone(), address.clone());
            Arc::new(Node { address: address.clone(), quick: link(), durable: link() })
        });
        node.clone()
    }

    /// Closes the connections to servers that are not in the map.
    fn keep(&self, map: &Map) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|_, node| map.ranges.iter().flat_map(|(_, kept)| kept).any(|kept| Arc::ptr_eq(kept, node)));
    }
}

/// An address that a server names. One without a host is its own.
fn beside(server: &Address, host: &str, port: u16) -> Option<Address> {
    match server {
        Address::Tcp { host: own, tls, .. } => {
            let host = if host.is_empty() || host == "?" { own } else { host };
            Some(Address::Tcp { host: host.to_owned(), port, tls: *tls })
        }
        Address::Unix(_) if host.is_empty() => None,
        Address::Unix(_) => Some(Address::Tcp { host: host.to_owned(), port, tls: false }),
    }
}

async fn ask_sentinel(connector: Arc<Connector>, sentinel: Address, master: String) -> Result<Address, PluginError> {
    let mut connection = connector.open(&sentinel, Party::Sentinel).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("get-master-addr-by-name").arg(&master);
    let limit = connector.timeout();
    let asked = tokio::time::timeout(limit, command.query_async::<Option<(String, u16)>>(&mut connection)).await;
    let unavailable = |why: String| PluginError::Unavailable(format!("Sentinel {sentinel}: {why}"));
    match asked {
        Ok(Ok(Some((host, port)))) => beside(&sentinel, &host, port).ok_or_else(|| unexpected("SENTINEL")),
        Ok(Ok(None)) => Err(unavailable(format!("it knows no master of the name {master}"))),
        Ok(Err(error)) => Err(unavailable(crate::fault::describe(&error))),
        Err(_) => Err(unavailable(format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// Whether as many replicas as wanted have the writes.
fn enough(wanted: i64, answer: Option<Value>) -> Result<(), PluginError> {
    match answer {
        Some(Value::Int(have)) if have >= wanted => Ok(()),
        Some(Value::Int(have)) => {
            Err(PluginError::Unavailable(format!("{have} replicas have the write; wait_replicas = {wanted}")))
        }
        Some(Value::ServerError(error)) => Err(refused(&error)),
        _ => Err(unexpected("WAIT")),
    }
}

/// What a start says where the servers cannot be asked.
pub(crate) fn at_start(error: PluginError) -> InitError {
    match error {
        PluginError::Unavailable(text) => InitError::Unavailable(text),
        other => InitError::Failed(other.to_string()),
    }
}
