//! The QEMU rung.
