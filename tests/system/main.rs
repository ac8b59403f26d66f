//! The behaviour of the whole system, a file each, in each isolation.

mod bad_input;
mod checkpoint;
mod damaged;
mod descriptors;
mod events;
mod exec;
mod faults;
mod files;
mod hooks;
mod host;
mod hung;
mod injected;
mod lifecycle;
mod limits;
mod pause;
mod process;
mod ps;
mod readiness;
mod scarce;
mod signals;
mod stdio;
mod stress;
mod terminal;
mod together;
mod update;
mod wall;
