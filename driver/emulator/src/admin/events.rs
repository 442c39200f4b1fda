//! Asynchronous events (Base 2.0, section 5.2): what there is to report, what the host has not asked to hear again yet, and
//! the requests that wait for something to report.

use std::collections::VecDeque;

use nvme_spec::AsyncEventDw0;
use nvme_spec::log::LogId;

/// Requests that may be outstanding: Identify Controller's AERL is one less.
pub(crate) const EVENT_REQUESTS: usize = 4;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// `nvme_spec::command::EVENT_*`.
    pub kind: u8,
    /// What it is, by kind.
    pub info: u8,
    /// The log page that tells more, and whose reading lets the next event of this kind through.
    pub log: LogId,
}

impl Event {
    /// A doorbell of a queue that does not exist was written.
    pub const INVALID_DOORBELL_REGISTER: Self = Self::error(0);
    /// A value was written to a doorbell that cannot be.
    pub const INVALID_DOORBELL_VALUE: Self = Self::error(1);
    /// The temperature is beyond a threshold.
    pub const TEMPERATURE: Self = Self {
        kind: nvme_spec::command::EVENT_SMART,
        info: 1,
        log: LogId::SMART,
    };
    /// Namespaces have changed.
    pub const NAMESPACE_ATTRIBUTE: Self = Self {
        kind: nvme_spec::command::EVENT_NOTICE,
        info: 0,
        log: LogId::CHANGED_NAMESPACES,
    };

    const fn error(info: u8) -> Self {
        Self {
            kind: nvme_spec::command::EVENT_ERROR,
            info,
            log: LogId::ERROR_INFORMATION,
        }
    }

    fn dw0(self) -> u32 {
        AsyncEventDw0::new()
            .with_event_type(self.kind)
            .with_info(self.info)
            .with_log_page(self.log.0)
            .into()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Command identifiers of the requests, oldest first.
    requests: VecDeque<u16>,
    pending: VecDeque<Event>,
    /// Events reported whose log page has not been read: their kind is masked until then.
    reported: Vec<Event>,
}

impl Events {
    /// Takes in a request. False if there are too many.
    pub fn request(&mut self, cid: u16) -> bool {
        let fits = self.requests.len() < EVENT_REQUESTS;
        if fits {
            self.requests.push_back(cid);
        }
        fits
    }

    /// Forgets a request that was aborted.
    pub fn forget(&mut self, cid: u16) {
        self.requests.retain(|request| *request != cid);
    }

    /// Something happened. Until it is reported, the same happening again adds nothing.
    pub fn notify(&mut self, event: Event) {
        if !self.pending.contains(&event) {
            self.pending.push_back(event);
        }
    }

    /// The host has read a log page: what it tells is known, and the kinds of event it belongs to are heard again.
    pub fn log_read(&mut self, log: LogId) {
        self.pending.retain(|event| event.log != log);
        self.reported.retain(|event| event.log != log);
    }

    /// The next request to complete, and dword 0 of its completion.
    pub fn report(&mut self) -> Option<(u16, u32)> {
        let masked = |event: &Event| self.reported.iter().any(|reported| reported.kind == event.kind);
        let index = self.pending.iter().position(|event| !masked(event))?;
        let cid = self.requests.pop_front()?;
        let event = self.pending.remove(index)?;
        self.reported.push(event);
        Some((cid, event.dw0()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_waits_for_a_request_and_a_request_for_an_event() {
        let mut events = Events::default();
        events.notify(Event::TEMPERATURE);
        events.notify(Event::TEMPERATURE);
        assert_eq!(events.report(), None);
        assert!(events.request(5) && events.request(6));
        assert_eq!(events.report(), Some((5, 0x0002_0101)));
        assert_eq!(
            events.report(),
            None,
            "it happened twice before it was reported, and is reported once"
        );
        events.notify(Event::NAMESPACE_ATTRIBUTE);
        assert_eq!(events.report(), Some((6, 0x0004_0002)));
    }

    #[test]
    fn a_kind_is_masked_until_its_log_page_is_read() {
        let mut events = Events::default();
        (0..3).for_each(|cid| assert!(events.request(cid)));
        events.notify(Event::INVALID_DOORBELL_REGISTER);
        events.notify(Event::INVALID_DOORBELL_VALUE);
        assert_eq!(events.report(), Some((0, 0x0001_0000)));
        assert_eq!(events.report(), None, "same kind");
        events.log_read(LogId::SMART);
        assert_eq!(events.report(), None, "another page");
        events.log_read(LogId::ERROR_INFORMATION);
        assert_eq!(events.report(), None, "the page told about the pending one too");
        events.notify(Event::INVALID_DOORBELL_VALUE);
        assert_eq!(events.report(), Some((1, 0x0001_0100)));
    }

    #[test]
    fn requests_are_limited_and_can_be_forgotten() {
        let mut events = Events::default();
        assert!((0..EVENT_REQUESTS as u16).all(|cid| events.request(cid)));
        assert!(!events.request(9));
        events.forget(0);
        assert!(events.request(9));
        events.notify(Event::TEMPERATURE);
        assert_eq!(events.report().map(|(cid, _)| cid), Some(1));
    }
}
