//! The terminal while a full-screen program has it: taken with [`Screen::enter`], given back as it was when that value is
//! dropped, and also when the program panics.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// The terminal is not as it was found.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal in raw mode on its other screen, without a cursor.
pub struct Screen<W: Write> {
    terminal: Terminal<CrosstermBackend<W>>,
}

impl<W: Write> Screen<W> {
    /// Takes the terminal behind `out`.
    ///
    /// # Errors
    /// The terminal's; it is then as it was.
    pub fn enter(out: W) -> io::Result<Self> {
        restore_on_panic();
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let terminal = Terminal::new(CrosstermBackend::new(out)).and_then(|mut terminal| {
            execute!(terminal.backend_mut(), EnterAlternateScreen, Hide)?;
            terminal.clear()?;
            Ok(terminal)
        });
        match terminal {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                restore();
                Err(error)
            }
        }
    }

    /// The terminal, to be drawn on.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<W>> {
        &mut self.terminal
    }

    /// False once a panic, on whatever thread, has given the terminal back.
    pub fn is_taken(&self) -> bool {
        TAKEN.load(Ordering::SeqCst)
    }
}

impl<W: Write> Drop for Screen<W> {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once.
fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // One that cannot be written to any more has no screen to leave, but its modes can still be set.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// A panic's message belongs on the screen that stays. With `panic = "abort"` nothing is dropped, so this is also what
/// gives the terminal back then.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
    });
}
