//! Memory and threads near a device, on machines of several NUMA nodes.
//!
//! sysfs says near which node a function is. Memory of files is put there by `mbind`, which also holds for what others map
//! of the file; memory of the heap goes where the thread that touches it first prefers it ([`Preference`]); threads keep to
//! the node's CPUs. All of it is preferred, and nothing of it needed: a node that is full, a kernel that knows no nodes and a
//! process that may not use the node's CPUs are no reasons to do without the device. Whoever has told the process where to be
//! (`numactl`, a cpuset) is not overruled.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::cpu::Stay;

/// Policies of the kernel's `mempolicy.h`.
const MPOL_DEFAULT: libc::c_int = 0;
const MPOL_PREFERRED: libc::c_int = 1;
/// Nodes that can be named to the kernel here.
const MAX_NODES: u32 = 1024;
const MASK_WORDS: usize = MAX_NODES as usize / libc::c_ulong::BITS as usize;

/// A set of one node, as the kernel takes it.
struct Mask([libc::c_ulong; MASK_WORDS]);

impl Mask {
    fn of(node: u32) -> io::Result<Self> {
        let mut words = [0; MASK_WORDS];
        let bits = libc::c_ulong::BITS;
        let word = words.get_mut((node / bits) as usize);
        *word.ok_or_else(|| io::Error::other(format!("node {node} is more than {MAX_NODES}")))? =
            1 << (node % bits);
        Ok(Self(words))
    }

    /// As many bits as the kernel is to look at: it takes one less than it is told.
    const BITS: libc::c_ulong = MAX_NODES as libc::c_ulong + 1;
}

fn checked(result: libc::c_long) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has the pages of `len` bytes at `start`, which must be the start of one, come from `node` if it has some. Those that are
/// there already stay where they are.
///
/// # Errors
/// The system's: it does not know the node, say.
pub fn place(start: NonNull<u8>, len: usize, node: u32) -> io::Result<()> {
    let mask = Mask::of(node)?;
    // SAFETY: says where pages are to come from, and changes no byte; the mask has as many bits as are named.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start.as_ptr(),
            len,
            MPOL_PREFERRED,
            mask.0.as_ptr(),
            Mask::BITS,
            0 as libc::c_uint,
        )
    })
}

/// While it is there, memory that this thread is the first to touch comes from a node.
pub struct Preference {
    /// A thread's own.
    _not_send: PhantomData<*const ()>,
}

impl Preference {
    /// Of the calling thread, for `node`; `None` where the system does not know the node, or where the thread has been told
    /// already where its memory is to come from.
    pub fn of(node: u32) -> Option<Self> {
        let mut policy: libc::c_int = MPOL_DEFAULT;
        let (no_mask, no_address) = (std::ptr::null_mut::<libc::c_ulong>(), std::ptr::null::<u8>());
        // SAFETY: writes one number, which is there.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy,
                no_mask,
                0 as libc::c_ulong,
                no_address,
                0 as libc::c_ulong,
            )
        };
        if checked(asked).is_err() || policy != MPOL_DEFAULT {
            return None;
        }
        let mask = Mask::of(node).ok()?;
        set_policy(MPOL_PREFERRED, Some(&mask)).ok().map(|()| Self {
            _not_send: PhantomData,
        })
    }

    /// Keeps it, for as long as the thread lives.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        if let Err(error) = set_policy(MPOL_DEFAULT, None) {
            log::debug!("where memory comes from stays as it was set: {error}");
        }
    }
}

fn set_policy(policy: libc::c_int, mask: Option<&Mask>) -> io::Result<()> {
    let (words, bits) = mask.map_or((std::ptr::null(), 0), |mask| (mask.0.as_ptr(), Mask::BITS));
    // SAFETY: says where pages of this thread are to come from; the mask, if any, has as many bits as are named.
    checked(unsafe { libc::syscall(libc::SYS_set_mempolicy, policy, words, bits) })
}

/// Lets the calling thread run on those of `cpus` that it may run on; if there are none, nothing changes.
///
/// # Errors
/// The system's.
pub fn keep_to(cpus: &[u32]) -> io::Result<()> {
    Stay::new()?.on(cpus).map(drop)
}

/// CPUs as sysfs lists them: `0-3,8`. What is none is an error of the list.
pub fn cpus_in(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(cpus_in("0-1\n"), Some(vec![0, 1]));
        assert_eq!(cpus_in("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpus_in("\n"), Some(vec![]), "a node with memory only");
        for list in ["x", "3-1", "-1", "0-", "0-4294967295"] {
            assert_eq!(cpus_in(list), None, "{list:?}");
        }
    }

    #[test]
    fn a_node_is_one_bit() {
        assert_eq!(Mask::of(0).unwrap().0[0], 1);
        assert_eq!(
            Mask::of(65).unwrap().0[65 / libc::c_ulong::BITS as usize],
            1 << (65 % libc::c_ulong::BITS)
        );
        assert!(Mask::of(MAX_NODES).is_err());
    }

    #[test]
    fn a_preference_goes_with_its_guard_and_does_not_overrule_another() {
        // In a thread of its own, whose policy is nobody else's.
        std::thread::spawn(|| {
            let Some(first) = Preference::of(0) else {
                eprintln!("skipped: this kernel knows no nodes, or this process has been told where to be");
                return;
            };
            assert!(Preference::of(0).is_none(), "there is one already");
            drop(first);
            assert!(Preference::of(0).is_some());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn threads_keep_to_cpus_that_they_may_use() {
        std::thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap();
            keep_to(&[1023]).unwrap();
            if !allowed.is_set(1023) {
                assert_eq!(
                    sched_getaffinity(None).unwrap(),
                    allowed,
                    "none of them: as before"
                );
            }
            keep_to(&[first as u32, 1 << 16]).unwrap();
            let kept = sched_getaffinity(None).unwrap();
            assert!(kept.is_set(first) && kept.count() == 1);
        })
        .join()
        .unwrap();
    }
}
