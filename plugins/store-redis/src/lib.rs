//! The user and state store for several daemons: Redis, alone, with Sentinel or as a Cluster.

#![forbid(unsafe_code)]
