//! The driver on QEMU's controllers through VFIO, beside the kernel's own driver. One guest for all.

mod data;
mod faults;
mod identify;
mod limits;
mod namespaces;
mod rig;
mod rings;
