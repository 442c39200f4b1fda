//! Files that are rendered when they are read: Identify structures, statistics, log pages, what the management interface
//! answers.

#[cfg(feature = "nvme-mi")]
pub(super) mod management;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nvme_spec::command::{NSID_ALL, get_log_page};
use nvme_spec::{LogId, Status};
use stats_proto::slow::SlowCommand;

use super::path::{DocumentKind, LogPage};
use super::pending::{Pending, WaitingRead};
use super::quota::{Client, Clients, Kept};
use super::service::{AdminAnswer, AdminData, AdminFinished, AdminRequest, BlockService, Identity, IoError};
use super::{Errno, lock};

/// The most reads of one handle that wait for a log page.
const MAX_WAITING_READS: usize = 64;

/// Size of an Identify structure, in bytes.
const IDENTIFY_BYTES: u64 = 4096;

/// One open document and the snapshot that its reader sees.
pub(crate) struct Document {
    kind: DocumentKind,
    service: Arc<dyn BlockService>,
    clients: Arc<Clients>,
    state: Mutex<State>,
}

struct State {
    snapshot: Option<Arc<[u8]>>,
    /// What that costs.
    kept: Kept,
    /// While a rendering is under way: the reads that want it. A read behind the start waits too, since it
    /// belongs to the snapshot that the read at the start has asked for.
    rendering: Option<Vec<WaitingRead>>,
}

impl Document {
    pub(crate) fn new(
        kind: DocumentKind,
        service: Arc<dyn BlockService>,
        clients: Arc<Clients>,
        client: Arc<Client>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kind,
            service,
            clients,
            state: Mutex::new(State {
                snapshot: None,
                kept: Kept::new(client),
                rendering: None,
            }),
        })
    }

    /// The length where it is known without asking the controller.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.kind.fixed_bytes().unwrap_or_else(|| {
            lock(&self.state)
                .snapshot
                .as_ref()
                .map_or(0, |text| text.len() as u64)
        })
    }

    pub(crate) fn read(self: &Arc<Self>, offset: u64, buffer: Vec<u8>, pending: Pending) {
        let read = WaitingRead {
            offset,
            buffer,
            pending,
        };
        let kept = {
            let mut state = lock(&self.state);
            match &mut state.rendering {
                Some(waiting) if waiting.len() < MAX_WAITING_READS => return waiting.push(read),
                Some(_) => Err(Errno::EAGAIN),
                None => match state.snapshot.clone().filter(|_| offset != 0) {
                    Some(snapshot) => Ok(snapshot),
                    None => {
                        state.rendering = Some(vec![read]);
                        drop(state);
                        return self.render();
                    }
                },
            }
        };
        match kept {
            Ok(snapshot) => read.answer_from(&snapshot),
            Err(errno) => read.answer(Err(errno)),
        }
    }

    fn render(self: &Arc<Self>) {
        match self.kind {
            DocumentKind::IdentifyController => {
                self.rendered(Ok(self.service.identity().identify_controller.to_vec()));
            }
            DocumentKind::IdentifyNamespace(nsid) => {
                let namespaces = self.service.namespaces();
                let namespace = namespaces.iter().find(|namespace| namespace.nsid == nsid);
                self.rendered(
                    namespace
                        .map(|namespace| namespace.identify.to_vec())
                        .ok_or(Errno::ENODEV),
                );
            }
            DocumentKind::Stats { nsid, histograms } => {
                let mut stats = self.service.stats(histograms);
                stats.clients = Some(self.clients.counts());
                stats.sockets = self.clients.sockets();
                if let Some(nsid) = nsid {
                    stats.namespaces.retain(|namespace| namespace.nsid == nsid);
                }
                let text = serde_json::to_vec(&stats).map(|mut text| {
                    text.push(b'\n');
                    text
                });
                self.rendered(text.map_err(|_| Errno::EIO));
            }
            DocumentKind::EventsNow => self.rendered(Ok(self.service.events().since(0, usize::MAX).text)),
            DocumentKind::Slow => self.rendered(json_lines(&self.service.slow_commands())),
            DocumentKind::Log(page) => self.fetch(page),
            #[cfg(feature = "nvme-mi")]
            DocumentKind::Management(page) => management::ask(self, page),
        }
    }

    fn fetch(self: &Arc<Self>, page: LogPage) {
        let identity = self.service.identity();
        let length_bytes = page.length_bytes(identity);
        // From 1.3 on a controller knows RAE: set, because to clear events is the driver's business and not a
        // reader's.
        let retain_event = version(identity) >= 0x0001_0300;
        let entry = get_log_page(page.lid(), NSID_ALL, length_bytes, 0, retain_event);
        let sink = Arc::new(Fetch {
            document: Arc::clone(self),
            answered: AtomicBool::new(false),
        });
        let data = AdminData::FromDevice(length_bytes as usize);
        self.service.admin(AdminRequest {
            entry,
            data,
            tag: 0,
            sink,
        });
    }

    /// The rendering that was under way has come to an end.
    fn rendered(&self, text: Result<Vec<u8>, Errno>) {
        let (snapshot, waiting) = {
            let mut state = lock(&self.state);
            let kept = state.kept.set(text.as_ref().map_or(0, Vec::len));
            let snapshot: Result<Arc<[u8]>, Errno> = kept.and(text).map(Arc::from);
            // A failed rendering leaves no snapshot: its reader must not go on in an older one.
            state.snapshot = snapshot.as_ref().ok().map(Arc::clone);
            (snapshot, state.rendering.take())
        };
        for read in waiting.into_iter().flatten() {
            match &snapshot {
                Ok(snapshot) => read.answer_from(snapshot),
                Err(errno) => read.answer(Err(*errno)),
            }
        }
    }
}

impl DocumentKind {
    /// The length where it is always the same.
    pub(crate) fn fixed_bytes(self) -> Option<u64> {
        match self {
            Self::IdentifyController | Self::IdentifyNamespace(_) => Some(IDENTIFY_BYTES),
            Self::Log(page) => page.fixed_bytes().map(u64::from),
            Self::Stats { .. } | Self::Slow | Self::EventsNow => None,
            #[cfg(feature = "nvme-mi")]
            Self::Management(_) => None,
        }
    }
}

/// One JSON document per line.
fn json_lines(commands: &[SlowCommand]) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    for command in commands {
        serde_json::to_writer(&mut text, command).map_err(|_| Errno::EIO)?;
        text.push(b'\n');
    }
    Ok(text)
}

impl LogPage {
    const fn lid(self) -> LogId {
        match self {
            Self::Smart => LogId::SMART,
            Self::Error => LogId::ERROR_INFORMATION,
            Self::Firmware => LogId::FIRMWARE_SLOT,
            Self::ChangedNamespaces => LogId::CHANGED_NAMESPACES,
            Self::Commands => LogId::COMMANDS_SUPPORTED,
            Self::SelfTest => LogId::DEVICE_SELF_TEST,
        }
    }

    /// The page's length where the specification fixes it (Base 2.0, section 5.16.1).
    const fn fixed_bytes(self) -> Option<u32> {
        match self {
            Self::Smart | Self::Firmware => Some(512),
            Self::Error => None,
            Self::ChangedNamespaces | Self::Commands => Some(4096),
            Self::SelfTest => Some(564),
        }
    }

    /// Bytes to ask for. The error log has as many entries as the controller says; one command fetches what
    /// fits in one transfer, newest first, because a second command could find the log moved on.
    fn length_bytes(self, identity: &Identity) -> u32 {
        const ENTRY_BYTES: u32 = 64;
        self.fixed_bytes().unwrap_or_else(|| {
            let entries = u32::from(byte(identity, ELPE)) + 1;
            let fits = u32::try_from(identity.max_transfer_bytes).unwrap_or(u32::MAX) / ENTRY_BYTES;
            entries.min(fits.max(1)) * ENTRY_BYTES
        })
    }
}

/// Identify Controller, Error Log Page Entries, 0's based (Base 2.0, section 5.17.2.1).
const ELPE: usize = 262;
/// Identify Controller, Version, 4 bytes laid out as the register VS.
const VER: usize = 80;

fn byte(identity: &Identity, offset: usize) -> u8 {
    identity.identify_controller.get(offset).copied().unwrap_or(0)
}

fn version(identity: &Identity) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|at| byte(identity, VER + at)))
}

/// A log page on its way.
struct Fetch {
    document: Arc<Document>,
    answered: AtomicBool,
}

impl AdminAnswer for Fetch {
    fn answer_admin(&self, _tag: u64, result: Result<AdminFinished, IoError>) {
        if self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        let status = |finished: AdminFinished| match finished.completion.status() {
            status if status.is_success() => Ok(finished.data),
            // A controller that does not know the command or the page: both mean that there is no such page.
            status if status.is(Status::INVALID_FIELD) => Err(Errno::EOPNOTSUPP),
            status => Err(status.into()),
        };
        self.document
            .rendered(result.map_err(Errno::from).and_then(status));
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if !*self.answered.get_mut() {
            self.document.rendered(Err(Errno::EIO));
        }
    }
}
