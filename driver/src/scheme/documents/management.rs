//! What the management interface answers in band: `controller/mi/`.

use std::sync::{Arc, Mutex};

use nvme_spec::identify::Oacs;
use nvme_spec::mi::{
    ConfigurationId, ControllerHealthPoll, MiRequest, MiResponse, MiStatus, RESPONSE_HEADER_BYTES,
};

use super::super::path::ManagementPage;
use super::super::service::{AdminAnswer, AdminData, AdminFinished, AdminRequest, BlockService, IoError};
use super::{Document, Errno, byte, lock};

/// Identify Controller, Optional Admin Command Support, 2 bytes (Base 2.0, section 5.17.2.1).
const OACS: usize = 256;

/// Vital Product Data are asked for in pieces: how many bytes there are the controller does not say, and it refuses a piece
/// that is not all inside (NVMe-MI 1.2, section 5.11). 256 is the least that there may be, 4096 the most.
const VPD_PIECE_BYTES: u16 = 256;
const VPD_PIECES: u16 = 4096 / VPD_PIECE_BYTES;

/// The ports that configuration is asked of, in this order. Most subsystems have these two, PCIe and SMBus.
const PORTS: [u8; 2] = [0, 1];

impl ManagementPage {
    /// What to ask in step `step`, None after the last.
    fn request(self, step: u16) -> Option<MiRequest> {
        let of_port = |id, port: u16| {
            let port = PORTS.get(usize::from(port)).copied()?;
            Some(MiRequest::configuration_get(id, port))
        };
        match (self, step) {
            (Self::Health, 0) => Some(MiRequest::subsystem_health_status_poll(false)),
            (Self::Controllers, 0) => {
                let poll = ControllerHealthPoll::everything(0);
                Some(MiRequest::controller_health_status_poll(poll))
            }
            (Self::Config, 0) => Some(MiRequest::configuration_get(
                ConfigurationId::HEALTH_STATUS_CHANGE,
                0,
            )),
            (Self::Config, 1..=2) => of_port(ConfigurationId::SMBUS_FREQUENCY, step - 1),
            (Self::Config, 3..=4) => of_port(ConfigurationId::MCTP_TRANSMISSION_UNIT_SIZE, step - 3),
            (Self::Vpd, ..VPD_PIECES) => Some(MiRequest::vpd_read(step * VPD_PIECE_BYTES, VPD_PIECE_BYTES)),
            _ => None,
        }
    }
}

/// Whether the controller takes NVMe-MI Send and Receive.
pub(crate) fn is_supported(service: &dyn BlockService) -> bool {
    let identity = service.identity();
    Oacs::from(u16::from_le_bytes([
        byte(identity, OACS),
        byte(identity, OACS + 1),
    ]))
    .nvme_mi()
}

/// The answer to `request` as a response message, from dword 0 of the completion and what is in the buffer.
pub(crate) fn response(request: &MiRequest, dw0: u32, data: &[u8]) -> Vec<u8> {
    let mut message = MiResponse::head(dw0.into()).to_vec();
    message.extend(data.iter().take(request.response_bytes(dw0.into())));
    message
}

/// Renders `document`, which is `page`.
pub(super) fn ask(document: &Arc<Document>, page: ManagementPage) {
    if !is_supported(&*document.service) {
        return document.rendered(Err(Errno::EOPNOTSUPP));
    }
    step(Arc::clone(document), page, 0, Vec::new());
}

/// Asks the next question, with the answers to those before it in `text`; or that was all.
fn step(document: Arc<Document>, page: ManagementPage, step: u16, text: Vec<u8>) {
    let Some(request) = page.request(step) else {
        return document.rendered(Ok(text));
    };
    let service = Arc::clone(&document.service);
    let data = match request.data_bytes() {
        0 => AdminData::None,
        bytes => AdminData::FromDevice(bytes),
    };
    let question = Question {
        request,
        page,
        step,
        asked: Mutex::new(Some((document, text))),
    };
    service.admin(AdminRequest {
        entry: request.entry(),
        data,
        tag: 0,
        sink: Arc::new(question),
    });
}

/// A question that is out.
struct Question {
    request: MiRequest,
    page: ManagementPage,
    step: u16,
    /// Whom to answer, and the answers to the questions before this.
    asked: Mutex<Option<(Arc<Document>, Vec<u8>)>>,
}

impl Question {
    fn answered(&self, result: Result<AdminFinished, IoError>) {
        let Some((document, mut text)) = lock(&self.asked).take() else {
            return;
        };
        let finished = match result.map_err(Errno::from) {
            Ok(finished) if finished.completion.status().is_success() => finished,
            Ok(finished) => return document.rendered(Err(finished.completion.status().into())),
            Err(errno) => return document.rendered(Err(errno)),
        };
        let message = response(&self.request, finished.completion.dw0, &finished.data);
        if self.page == ManagementPage::Vpd {
            // One answer, whatever the number of pieces that it came in.
            let part = if self.step == 0 { 0 } else { RESPONSE_HEADER_BYTES };
            text.extend_from_slice(message.get(part..).unwrap_or_default());
            if message.get(4) != Some(&MiStatus::SUCCESS.0) {
                // There is no more than what has come.
                return document.rendered(Ok(text));
            }
        } else {
            text.extend_from_slice(&message);
        }
        step(document, self.page, self.step + 1, text);
    }
}

impl AdminAnswer for Question {
    fn answer_admin(&self, _tag: u64, result: Result<AdminFinished, IoError>) {
        self.answered(result);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some((document, _)) = lock(&self.asked).take() {
            document.rendered(Err(Errno::EIO));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vital_product_data_are_asked_for_to_their_largest_size() {
        let asked: Vec<MiRequest> = (0..)
            .map_while(|step| ManagementPage::Vpd.request(step))
            .collect();
        let mut ends = asked
            .iter()
            .map(|request| request.nmd0.get() + request.nmd1.get());
        assert_eq!(ends.next_back(), Some(4096));
        assert!(asked.iter().all(|request| request.nmd1.get() == 256));
    }
}
