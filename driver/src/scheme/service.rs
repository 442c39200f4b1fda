//! What the scheme needs of a driver.

use std::sync::Arc;

use stats_proto::bench::BenchJob;
use stats_proto::slow::SlowCommand;
use stats_proto::stats::StatsDocument;

pub(crate) use crate::admin::{AdminAnswer, AdminData, AdminFinished, AdminRequest};
pub(crate) use crate::benchmark::{self, Failure, Listener, Stop};
pub(crate) use crate::config::SchedulerKind;
pub(crate) use crate::controller::Identity;
pub(crate) use crate::dma::Buffer;
#[cfg(feature = "io-uring-compat")]
pub(crate) use crate::dma::{Held, RegisteredMemory, SharedMemory};
#[cfg(test)]
pub(crate) use crate::driver::Priority;
pub(crate) use crate::driver::{Class, Driver, Hint};
pub(crate) use crate::error::IoError;
pub(crate) use crate::events::{EventListener, EventLog};
pub(crate) use crate::namespace::{Namespace, NamespaceState};
pub(crate) use crate::request::{Finished, Op, Request};
#[cfg(feature = "io-uring-compat")]
pub(crate) use crate::worker::Load;
pub(crate) use crate::worker::{Answer, Remote};

/// One controller, running. [`Driver`] is one; the scheme's own tests bring another.
pub trait BlockService: Send + Sync {
    /// Nanoseconds of the clock that [`Request::arrived_ns`] is taken from.
    fn now_ns(&self) -> u64;

    /// As [`Driver::submit`]: never blocks, and answers each request exactly once, perhaps before it returns.
    fn submit(&self, hint: Hint, request: Request<Remote>);

    /// As [`Driver::admin`]: never blocks, and answers each request exactly once, perhaps before it returns.
    fn admin(&self, request: AdminRequest);

    /// The statistics as they are now, with or without histograms.
    fn stats(&self, histograms: bool) -> StatsDocument;

    /// The last commands that failed, were slow or were lost, oldest first.
    fn slow_commands(&self) -> Vec<SlowCommand>;

    /// How requests are scheduled.
    fn scheduler(&self) -> SchedulerKind;

    /// As [`Driver::set_scheduler`].
    fn set_scheduler(&self, kind: SchedulerKind);

    /// What happens to the driver and its controller.
    fn events(&self) -> &Arc<EventLog>;

    /// The active namespaces as they are now, in ascending order.
    fn namespaces(&self) -> Arc<[Namespace]>;

    /// What the controller says of itself.
    fn identity(&self) -> &Identity;

    /// Starts a benchmark of a namespace, to run until it is over or `stop` says so; `listener` hears of it.
    ///
    /// # Errors
    /// Why the job cannot be run. `listener` then hears nothing.
    fn start_benchmark(
        &self,
        nsid: u32,
        job: BenchJob,
        stop: &Stop,
        listener: Arc<dyn Listener>,
    ) -> Result<(), Failure>;

    /// As [`Driver::register`]; `held` goes with the memory.
    #[cfg(feature = "io-uring-compat")]
    fn register(&self, memory: Arc<SharedMemory>, held: Held) -> Arc<RegisteredMemory>;

    /// The queue pair (from 0) for one who stays on it, and its number.
    #[cfg(feature = "io-uring-compat")]
    fn queue_for(&self, client: u64) -> (usize, u16);

    /// As [`Driver::attach`].
    #[cfg(feature = "io-uring-compat")]
    fn attach(&self, queue: usize, load: Box<dyn Load>);

    /// As [`Driver::nudge`].
    #[cfg(feature = "io-uring-compat")]
    fn nudge(&self, queue: usize);
}

impl BlockService for Driver {
    fn now_ns(&self) -> u64 {
        self.clock().now_ns()
    }

    fn submit(&self, hint: Hint, request: Request<Remote>) {
        Driver::submit(self, hint, request);
    }

    fn admin(&self, request: AdminRequest) {
        Driver::admin(self, request);
    }

    fn stats(&self, histograms: bool) -> StatsDocument {
        Driver::stats(self, histograms)
    }

    fn slow_commands(&self) -> Vec<SlowCommand> {
        Driver::slow_commands(self)
    }

    fn scheduler(&self) -> SchedulerKind {
        Driver::scheduler(self)
    }

    fn set_scheduler(&self, kind: SchedulerKind) {
        Driver::set_scheduler(self, kind);
    }

    fn events(&self) -> &Arc<EventLog> {
        Driver::events(self)
    }

    fn namespaces(&self) -> Arc<[Namespace]> {
        Driver::namespaces(self)
    }

    fn identity(&self) -> &Identity {
        Driver::identity(self)
    }

    fn start_benchmark(
        &self,
        nsid: u32,
        job: BenchJob,
        stop: &Stop,
        listener: Arc<dyn Listener>,
    ) -> Result<(), Failure> {
        benchmark::start(self, nsid, job, stop, listener)
    }

    #[cfg(feature = "io-uring-compat")]
    fn register(&self, memory: Arc<SharedMemory>, held: Held) -> Arc<RegisteredMemory> {
        self.register_with(memory, held)
    }

    #[cfg(feature = "io-uring-compat")]
    fn queue_for(&self, client: u64) -> (usize, u16) {
        let queue = (client % self.queues().max(1) as u64) as usize;
        (queue, self.qid(queue))
    }

    #[cfg(feature = "io-uring-compat")]
    fn attach(&self, queue: usize, load: Box<dyn Load>) {
        Driver::attach(self, queue, load);
    }

    #[cfg(feature = "io-uring-compat")]
    fn nudge(&self, queue: usize) {
        Driver::nudge(self, queue);
    }
}
