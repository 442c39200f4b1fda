//! One guest for all cases of a test file, and when cases are left out.

use std::sync::OnceLock;

use crate::tools::Tools;
use crate::{Guest, Machine};

/// A guest that is booted when the first case wants it, and stays until the tests have ended.
///
/// ```no_run
/// use nvme_guest::{Machine, Shared};
///
/// static GUEST: Shared = Shared::new(|| Machine::new().cpus(2));
///
/// // In a case:
/// let Some(guest) = GUEST.get() else { return };
/// ```
pub struct Shared {
    machine: fn() -> Machine,
    guest: OnceLock<Result<Guest, String>>,
}

impl Shared {
    /// For the guest that `machine` describes.
    #[must_use]
    pub const fn new(machine: fn() -> Machine) -> Self {
        Self {
            machine,
            guest: OnceLock::new(),
        }
    }

    /// The guest; none where cases are left out, as [`Shared::wanted`] says.
    ///
    /// # Panics
    ///
    /// If it does not boot, in each case.
    pub fn get(&self) -> Option<&Guest> {
        if !Self::wanted() {
            return None;
        }
        let guest = self
            .guest
            .get_or_init(|| (self.machine)().boot().map_err(|error| error.to_string()));
        match guest {
            Ok(guest) => Some(guest),
            Err(reason) => panic!("{reason}"),
        }
    }

    /// Whether cases in guests run: where `NVME_TEST_GUEST=1` or `NVME_TEST_REQUIRE=all` is set, and everything is there.
    /// Otherwise says why not.
    ///
    /// # Panics
    ///
    /// Where everything is required and something is missing.
    #[must_use]
    pub fn wanted() -> bool {
        let is_set = |name: &str, value: &str| std::env::var_os(name).is_some_and(|set| set == value);
        let required = is_set("NVME_TEST_REQUIRE", "all");
        if !required && !is_set("NVME_TEST_GUEST", "1") {
            eprintln!("skipped: cases in guests run with NVME_TEST_GUEST=1");
            return false;
        }
        match Tools::find() {
            Ok(_) => true,
            Err(error) => {
                assert!(!required, "{error}");
                eprintln!("skipped: {error}");
                false
            }
        }
    }
}
