//! What the benchmarks run on: load on servers over sockets, and the figures that come of it.

pub mod bare;
pub mod cpu;
pub mod drivers;
pub mod figures;
pub mod frames;
pub mod histogram;
pub mod presence;
pub mod process;
pub mod scenarios;
pub mod servers;
pub mod swarm;
