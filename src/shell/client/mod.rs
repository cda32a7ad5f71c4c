//! Client shard.
