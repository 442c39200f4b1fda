//! BAR0 as typed accessors (NVMe Base 2.0 section 3.1.3).

use std::sync::Arc;

use nvme_spec::register::{self, Aqa, Cap, Cc, Csts, Vs};

use crate::backend::{Backend, BackendError, Doorbell};

/// The registers of one controller.
#[derive(Clone)]
pub(crate) struct Registers(Arc<dyn Backend>);

impl Registers {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(backend)
    }

    /// Controller Capabilities; `None` if the controller is gone.
    pub(crate) fn cap(&self) -> Option<Cap> {
        let cap = self.0.read64(register::CAP);
        (cap != u64::MAX).then(|| Cap::from(cap))
    }

    pub(crate) fn vs(&self) -> Vs {
        Vs::from(self.0.read32(register::VS))
    }

    pub(crate) fn cc(&self) -> Cc {
        Cc::from(self.0.read32(register::CC))
    }

    pub(crate) fn set_cc(&self, cc: Cc) {
        self.0.write32(register::CC, cc.into());
    }

    /// Controller Status; `None` if the controller is gone.
    pub(crate) fn csts(&self) -> Option<Csts> {
        let csts = self.0.read32(register::CSTS);
        (csts != u32::MAX).then(|| Csts::from(csts))
    }

    /// Where the admin queues are, and how long.
    pub(crate) fn set_admin_queues(&self, entries: u32, sq_iova: u64, cq_iova: u64) {
        let size_z = (entries - 1) as u16;
        self.0.write32(
            register::AQA,
            Aqa::new().with_asqs_z(size_z).with_acqs_z(size_z).into(),
        );
        self.0.write64(register::ASQ, sq_iova);
        self.0.write64(register::ACQ, cq_iova);
    }

    pub(crate) fn doorbell(&self, qid: u16, completion: bool, cap: Cap) -> Result<Doorbell, BackendError> {
        self.0
            .doorbell(register::doorbell_offset(qid, completion, cap.dstrd()))
    }
}
