//! Queues of the controller's own classes, where it has weighted round robin and the scheduler has classes.

use nvme_spec::command;
use nvme_spec::feature::Arbitration;
use nvme_spec::register;

use super::Bringup;
use crate::config::{SchedulerKind, Weights};
use crate::io_scheduler::Priority;

/// Two to this power are the commands that a controller with classes takes from one queue before it looks at the next.
const ARBITRATION_BURST: u8 = 3;

impl Bringup {
    /// Weighted round robin, where it is offered and the scheduler has classes (Base 2.0, section 3.4.4.2).
    pub(super) fn arbitration_mechanism(&self) -> u8 {
        let offered = self.cap.ams() & 1 != 0;
        if offered && self.config.scheduler == SchedulerKind::Priority {
            register::AMS_WEIGHTED_ROUND_ROBIN
        } else {
            register::AMS_ROUND_ROBIN
        }
    }

    /// The class of queue `qid`, if queues have classes: they are dealt out, the most urgent first.
    pub(super) fn class(&self, qid: u16) -> Option<usize> {
        let weighted = self.arbitration_mechanism() == register::AMS_WEIGHTED_ROUND_ROBIN;
        let classes = Priority::ALL.len();
        (weighted && usize::from(self.wanted_queues) >= classes).then(|| usize::from(qid - 1) % classes)
    }

    /// What the controller is told of queue `qid`. Nothing bounds how long its strict class keeps the others waiting (Base
    /// 2.0, section 3.4.4.2), so where queues differ by class none is in it: urgent ones share by weight, as high ones do.
    pub(super) fn qprio(&self, qid: u16) -> u8 {
        match self.class(qid) {
            None => command::QPRIO_URGENT,
            Some(class) => (class as u8).max(command::QPRIO_HIGH),
        }
    }

    /// The driver's own weights, as the feature has them.
    pub(super) fn arbitration(&self) -> Arbitration {
        let Weights { high, medium, low } = self.config.weights;
        let weight_z = |weight: u16| u8::try_from(weight.saturating_sub(1)).unwrap_or(u8::MAX);
        Arbitration::new()
            .with_ab(ARBITRATION_BURST)
            .with_hpw_z(weight_z(high))
            .with_mpw_z(weight_z(medium))
            .with_lpw_z(weight_z(low))
    }
}
