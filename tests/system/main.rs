//! The behaviour of the whole system, a file each, in each isolation.

mod bad_input;
mod exec;
mod faults;
mod files;
mod host;
mod lifecycle;
mod limits;
mod process;
mod signals;
mod stdio;
mod terminal;
mod together;
mod wall;
