//! pcid: who owns the PCI bus on Redox, and hands each driver one function by a descriptor, its channel.
//!
//! A request is one write, and its answer 8 bytes of length and then as many bytes, in any number of reads. What is in
//! them is in [`wire`]. Nothing in an answer is believed before it has been looked at: its length, its kind, that it is
//! about what was asked, and that nothing is left over. After an answer that is not whole the channel is out of step and
//! is not used any more.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use syscall::error::{EINTR, Error};

use crate::redox::Descriptor;

pub mod wire;

pub use wire::{Bar, Feature, Function, Info, LegacyLine, MsiInfo, MsixInfo, Refusal, Request};
use wire::{Malformed, Reply};

/// The longest answer to anything that is asked here is that about the function, of less than 200 bytes.
const MAX_REPLY_BYTES: usize = 4096;
/// A call that a signal interrupts is made again this often.
const INTERRUPTIONS: usize = 16;

/// An exchange with pcid that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pcid was asked to {request}: {why}")]
pub struct PcidError {
    /// What it was asked for.
    pub request: Request,
    /// What came of that.
    pub why: Why,
}

/// What came of a request to pcid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The request could not be written.
    #[error("the request could not be sent: {0}; is pcid running, and PCID_CLIENT_CHANNEL its channel?")]
    Send(Error),
    /// Not all of the request was taken.
    #[error(
        "it took {written} of the request's {len_bytes} bytes; it speaks another protocol than this driver"
    )]
    Partly {
        /// Bytes that were taken.
        written: usize,
        /// Bytes that there were.
        len_bytes: usize,
    },
    /// The answer could not be read.
    #[error("the answer could not be read: {0}; pcid's own log may tell more")]
    Receive(Error),
    /// The answer ended early.
    #[error("the answer ended after {got} of {len_bytes} bytes; has pcid ended?")]
    Ended {
        /// Bytes that came.
        got: usize,
        /// Bytes that were to come.
        len_bytes: usize,
    },
    /// The answer says that it is longer than any can be.
    #[error("the answer is said to have {0} bytes; it speaks another protocol than this driver")]
    TooLong(u64),
    /// The answer is none to what was asked.
    #[error("{0}; pcid and this driver are not of the same Redox")]
    Malformed(Malformed),
    /// It said no.
    #[error("it refused: {0}")]
    Refused(Refusal),
    /// An earlier answer was not whole.
    #[error(
        "an earlier answer was not whole, so the next would be taken for another one's; start the driver anew"
    )]
    OutOfStep,
}

/// The channel of one function.
pub struct Pcid {
    channel: Arc<Descriptor>,
    /// Whether requests and answers still are in step; held for the time of an exchange.
    in_step: Mutex<bool>,
}

impl Pcid {
    /// The channel `channel`, on which nothing is under way.
    pub fn new(channel: Descriptor) -> Self {
        Self {
            channel: Arc::new(channel),
            in_step: Mutex::new(true),
        }
    }

    /// The channel, for mapping what belongs to the function.
    pub fn channel(&self) -> &Arc<Descriptor> {
        &self.channel
    }

    /// What function this is, and what it has.
    ///
    /// # Errors
    /// The exchange failed, as for all that follow.
    pub fn function(&self) -> Result<Function, PcidError> {
        self.ask(Request::Config, |reply| match reply {
            Reply::Config(function) => Some(function),
            _ => None,
        })
    }

    /// How the function can send interrupts other than by a line.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn features(&self) -> Result<Vec<Feature>, PcidError> {
        self.ask(Request::Features, |reply| match reply {
            Reply::Features(features) => Some(features),
            _ => None,
        })
    }

    /// Turns `feature` on, and the other one off.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn enable(&self, feature: Feature) -> Result<(), PcidError> {
        self.ask(Request::Enable(feature), |reply| {
            (reply == Reply::Enabled(feature)).then_some(())
        })
    }

    /// What the function says of MSI.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn msi(&self) -> Result<MsiInfo, PcidError> {
        self.ask(Request::Info(Feature::Msi), |reply| match reply {
            Reply::Info(Feature::Msi, Info::Msi(info)) => Some(info),
            _ => None,
        })
    }

    /// What the function says of MSI-X.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn msix(&self) -> Result<MsixInfo, PcidError> {
        self.ask(Request::Info(Feature::MsiX), |reply| match reply {
            Reply::Info(Feature::MsiX, Info::MsiX(info)) => Some(info),
            _ => None,
        })
    }

    /// One MSI vector, which writes `data` to `address`; with `unmask`, no vector is masked then.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn set_msi(&self, address: u64, data: u32, unmask: bool) -> Result<(), PcidError> {
        let request = Request::SetMsi {
            address,
            data,
            unmask,
        };
        self.ask(request, |reply| (reply == Reply::Set(Feature::Msi)).then_some(()))
    }

    /// The 32 bits at `offset` of the function's configuration space.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn read_config(&self, offset: u16) -> Result<u32, PcidError> {
        self.ask(Request::ReadConfig(offset), |reply| match reply {
            Reply::ReadConfig(value) => Some(value),
            _ => None,
        })
    }

    /// Writes 32 bits at `offset` of the function's configuration space.
    ///
    /// # Errors
    /// As for [`Pcid::function`].
    pub fn write_config(&self, offset: u16, value: u32) -> Result<(), PcidError> {
        self.ask(Request::WriteConfig(offset, value), |reply| {
            (reply == Reply::WriteConfig).then_some(())
        })
    }

    fn ask<T>(&self, request: Request, wanted: impl FnOnce(Reply) -> Option<T>) -> Result<T, PcidError> {
        let failed = |why| PcidError { request, why };
        let mut in_step = self.in_step.lock().unwrap_or_else(PoisonError::into_inner);
        if !*in_step {
            return Err(failed(Why::OutOfStep));
        }
        // Should this panic, the channel is not used again.
        *in_step = false;
        let exchanged = self.exchange(request);
        // A request that could not be sent has no answer, and an answer that came whole leaves nothing behind, whatever
        // is in it.
        *in_step = matches!(exchanged, Ok(_) | Err(Why::Send(_)));
        drop(in_step);
        let reply = exchanged.and_then(|bytes| Reply::read(&bytes).map_err(Why::Malformed));
        match reply.map_err(failed)? {
            Reply::Refused(refusal) => Err(failed(Why::Refused(refusal))),
            reply => {
                let kind = reply.kind();
                wanted(reply).ok_or_else(|| failed(Why::Malformed(Malformed::Other(kind))))
            }
        }
    }

    /// One request, and the bytes of its answer.
    fn exchange(&self, request: Request) -> Result<Vec<u8>, Why> {
        let bytes = request.bytes();
        let written = again(|| self.channel.write(&bytes)).map_err(Why::Send)?;
        if written != bytes.len() {
            return Err(Why::Partly {
                written,
                len_bytes: bytes.len(),
            });
        }
        let mut len_bytes = [0; 8];
        self.receive(&mut len_bytes)?;
        let len_bytes = u64::from_le_bytes(len_bytes);
        let len = usize::try_from(len_bytes)
            .ok()
            .filter(|len| *len <= MAX_REPLY_BYTES)
            .ok_or(Why::TooLong(len_bytes))?;
        let mut bytes = vec![0; len];
        self.receive(&mut bytes)?;
        Ok(bytes)
    }

    fn receive(&self, into: &mut [u8]) -> Result<(), Why> {
        let len_bytes = into.len();
        let mut rest = into;
        while !rest.is_empty() {
            let got = again(|| self.channel.read(rest)).map_err(Why::Receive)?;
            let ended = Why::Ended {
                got: len_bytes - rest.len(),
                len_bytes,
            };
            // Nothing, or more than there is room for, which no kernel should say.
            rest = rest.get_mut(got..).filter(|_| got > 0).ok_or(ended)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Pcid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pcid({:?})", self.channel)
    }
}

/// Makes a call anew for as long as signals interrupt it, within reason.
fn again(mut call: impl FnMut() -> Result<usize, Error>) -> Result<usize, Error> {
    for _ in 0..INTERRUPTIONS {
        match call() {
            Err(error) if error.errno == EINTR => {}
            result => return result,
        }
    }
    Err(Error::new(EINTR))
}

#[cfg(test)]
mod tests;
