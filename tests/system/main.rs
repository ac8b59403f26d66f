//! The behaviour of the whole system, a file each, in each isolation.

mod bad_input;
mod descriptors;
mod events;
mod exec;
mod faults;
mod files;
mod hooks;
mod host;
mod lifecycle;
mod limits;
mod pause;
mod process;
mod ps;
mod readiness;
mod signals;
mod stdio;
mod terminal;
mod together;
mod update;
mod wall;
