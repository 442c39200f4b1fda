//! Ctrl-C and its kin: the first asks a command to end in order, the second ends it at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code of a command that was interrupted.
const INTERRUPTED: i32 = 130;

/// Whether the user wants the command to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes over Ctrl-C for the rest of the process.
    ///
    /// # Errors
    /// The system's, when it does not allow that.
    pub fn listen() -> io::Result<Self> {
        let interrupt = Self::default();
        interrupt.insist_on(SIGINT)?;
        Ok(interrupt)
    }

    /// Takes over Ctrl-C and SIGTERM.
    ///
    /// # Errors
    /// The system's, when it does not allow that.
    pub fn listen_to_requests() -> io::Result<Self> {
        let interrupt = Self::default();
        interrupt.insist_on(SIGINT)?;
        interrupt.insist_on(SIGTERM)?;
        Ok(interrupt)
    }

    /// Takes over every signal that asks for the end, for a command that has changed the terminal and has to set it right
    /// first, however often it is asked.
    ///
    /// # Errors
    /// The system's, when it does not allow that.
    pub fn listen_on_screen() -> io::Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            flag::register(signal, Arc::clone(&interrupt.requested))?;
        }
        Ok(interrupt)
    }

    fn insist_on(&self, signal: i32) -> io::Result<()> {
        // In this order: the first signal finds the flag clear, then sets it; the second finds it set and exits.
        flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&self.requested))?;
        flag::register(signal, Arc::clone(&self.requested))?;
        Ok(())
    }

    /// True once the user, or the system, wants the end.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Sleeps until `until`; false when interrupted before.
    pub fn sleep_until(&self, until: Instant) -> bool {
        // A signal does not wake a sleeping thread, so it sleeps in pieces that nobody notices.
        const PIECE: Duration = Duration::from_millis(20);
        while !self.requested() {
            match until.checked_duration_since(Instant::now()) {
                None | Some(Duration::ZERO) => return true,
                Some(rest) => std::thread::sleep(rest.min(PIECE)),
            }
        }
        false
    }

    /// As if Ctrl-C had been pressed.
    #[cfg(test)]
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }
}
