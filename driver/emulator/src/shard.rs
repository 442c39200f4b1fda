//! A share of the I/O queues, and the thread's lock that goes with it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};

use nvme_spec::command::NSID_ALL;
use nvme_spec::{NvmOpcode, Status, SubmissionEntry};

use crate::config::Config;
use crate::device::Device;
use crate::engine::{Context, Engine, Finished};
use crate::fault::Action;
use crate::held::Command;
use crate::latency::LatencyModel;
use crate::nvm::{self, Limits};
use crate::tally::Tally;
use crate::transfer::Scratch;

/// I/O queues that one thread turns, and its share of the medium.
#[derive(Debug)]
pub(crate) struct Shard {
    pub engine: Engine,
    latency: LatencyModel,
    scratch: Scratch,
}

/// A shard that the controller can get hold of while its thread never stops asking for it.
#[derive(Debug)]
pub(crate) struct ShardSlot {
    pub tally: Tally,
    /// How many wait to borrow it. A lock that its thread takes again at once may keep others out for long: the thread
    /// stands back while somebody waits.
    wanted: AtomicU32,
    shard: Mutex<Shard>,
}

impl ShardSlot {
    pub fn new(config: &Config, index: u16, count: u16) -> Self {
        let shard = Shard {
            engine: Engine::default(),
            latency: LatencyModel::for_shard(config, index, count),
            scratch: Scratch::new(),
        };
        Self {
            tally: Tally::new(),
            wanted: AtomicU32::new(0),
            shard: Mutex::new(shard),
        }
    }

    /// For the controller: the shard, between two passes.
    pub fn borrow(&self) -> MutexGuard<'_, Shard> {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        let shard = self.lock();
        self.wanted.fetch_sub(1, Ordering::AcqRel);
        shard
    }

    /// For the shard's own thread: one pass. True if there was something to do. `clock` gives the time again when the
    /// doorbells have been read: a thread may be interrupted for long between a reading of the clock and that, and a
    /// command takes its time from when the host has sent it.
    #[inline]
    pub fn pass(&self, device: &Device, now_ns: u64, clock: &dyn Fn() -> u64) -> bool {
        if device.is_stopped() {
            return false;
        }
        if self.wanted.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        let cx = Context {
            device,
            tally: &self.tally,
            now_ns,
        };
        self.lock().pass(cx, clock)
    }

    fn lock(&self) -> MutexGuard<'_, Shard> {
        // A panic under the lock would be a defect of this crate; queues that are half way through a command are still
        // bounded by their own sizes.
        self.shard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Shard {
    fn pass(&mut self, mut cx: Context<'_>, clock: &dyn Fn() -> u64) -> bool {
        // The controller may have been stopped while this waited for the lock.
        if cx.device.is_stopped() {
            return false;
        }
        let mut worked = self.engine.begin(cx);
        if worked && !self.latency.is_instant() {
            cx.now_ns = clock().max(cx.now_ns);
        }
        let limits = Limits {
            page_bytes: cx.device.page_bytes(),
            mdts_bytes: cx.device.config.mdts_bytes,
            sgl: cx.device.config.sgl,
            write_through: !cx.device.has_write_cache(),
        };
        let Self {
            engine,
            latency,
            scratch,
        } = self;
        let due_ns = |entry: &SubmissionEntry, latency: &mut LatencyModel| {
            if latency.is_instant() {
                return cx.now_ns;
            }
            let (is_write, bytes) = media_work(cx.device, entry);
            latency.due_ns(cx.now_ns, is_write, bytes)
        };
        while let Some(command) = engine.next(cx, |entry| due_ns(entry, latency)) {
            worked = true;
            let finished = execute(cx, &command, &limits, scratch);
            engine.complete(cx, command, finished);
        }
        engine.end(cx);
        cx.tally.passes.add(u64::from(worked));
        worked
    }

    /// A reset: queues and commands are gone.
    pub fn reset(&mut self) {
        self.engine.clear();
    }
}

#[inline]
fn execute(cx: Context<'_>, command: &Command, limits: &Limits, scratch: &mut Scratch) -> Finished {
    let entry = &command.entry;
    let fault = command.fault.as_deref();
    if let Some(Action::Fail(status)) = fault {
        return Finished::with(*status);
    }
    let memory = &*cx.device.memory;
    let outcome = match cx.device.namespaces.get(entry.nsid) {
        Some(namespace) => nvm::execute(namespace, entry, limits, memory, scratch),
        None => return without_namespace(cx, entry),
    };
    if let Some(Action::Corrupt { offset_bytes, bytes }) = fault
        && outcome.status.is_success()
        && entry.opcode == NvmOpcode::READ.0
        && let Err(status) = scratch.overwrite(memory, *offset_bytes, bytes)
    {
        return Finished::with(status);
    }
    Finished {
        status: outcome.status,
        dw0: outcome.dw0,
        bytes: outcome.bytes,
        ..Finished::OK
    }
}

/// A command for a namespace that is not there, or for all of them.
#[cold]
fn without_namespace(cx: Context<'_>, entry: &SubmissionEntry) -> Finished {
    // Identify Controller's VWC says that Flush takes the broadcast value (Base 2.0, section 7.1).
    if entry.opcode == NvmOpcode::FLUSH.0 && entry.nsid == NSID_ALL {
        let namespaces = cx
            .device
            .namespaces
            .active()
            .filter_map(|nsid| cx.device.namespaces.get(nsid));
        for namespace in namespaces {
            if let Err(status) = namespace.flush() {
                return Finished::with(status);
            }
        }
        return Finished::OK;
    }
    let known = NvmOpcode(entry.opcode).name().is_some();
    let status = if known {
        Status::INVALID_NAMESPACE_OR_FORMAT
    } else {
        Status::INVALID_OPCODE
    };
    Finished::with(status.with_dnr(true))
}

/// Whether a command writes, and how many bytes of the medium it moves over the link.
fn media_work(device: &Device, entry: &SubmissionEntry) -> (bool, u64) {
    let moves = |is_write| {
        let block_bytes = device
            .namespaces
            .get(entry.nsid)
            .map_or(0, |namespace| namespace.format().block_bytes());
        (
            is_write,
            (u64::from(entry.nlb_z()) + 1).saturating_mul(block_bytes),
        )
    };
    match NvmOpcode(entry.opcode) {
        NvmOpcode::WRITE => moves(true),
        NvmOpcode::READ | NvmOpcode::COMPARE | NvmOpcode::VERIFY => moves(false),
        NvmOpcode::WRITE_ZEROES | NvmOpcode::DATASET_MANAGEMENT | NvmOpcode::FLUSH => (true, 0),
        _ => (false, 0),
    }
}
