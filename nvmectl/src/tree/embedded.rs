//! The tree of a driver inside this process, on an emulated controller.

use crate::nvme_driver::config::Config;

use super::{Access, Tree, TreeError, TreeFile};
use crate::error::Error;

/// An embedded driver's tree.
pub struct Embedded {}

impl Embedded {
    /// Starts it.
    pub fn start(_spec: &str, _config: &Config) -> Result<Self, Error> {
        Err(Error::Start(crate::nvme_driver::Error))
    }
}

impl Tree for Embedded {
    fn open(&self, path: &str, _access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        Err(TreeError::new(super::Operation::Open, path, 38))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        Err(TreeError::new(super::Operation::List, path, 38))
    }
}
