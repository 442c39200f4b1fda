//! Identify: the data structures a controller describes itself and its namespaces with.
//!
//! Each structure is the 4096 bytes that the command returns for one [`Cns`] value (the descriptor list is read from
//! any bytes). All are alignment 1 and little endian, so they can be read from a DMA buffer wherever they lie.

mod capability;
mod controller;
mod list;
mod namespace;
mod text;

pub use capability::{Cmic, Ctratt, Dlfeat, Dps, Flbas, Fna, Frmw, Lpa, Nsfeat, Oacs, Oaes, Oncs, Sgls, Vwc};
pub use controller::{IdentifyController, IdentifyControllerNvm, PowerStateDescriptor};
pub use list::{
    ControllerList, IoCommandSetList, MAX_NAMESPACES_IN_LIST, NamespaceDescriptor, NamespaceDescriptors,
    NamespaceList, NamespaceListIter, Nidt,
};
pub use namespace::{
    ExtendedLbaFormat, IdentifyNamespace, IdentifyNamespaceIndependent, IdentifyNamespaceNvm, LbaFormat,
};
pub use text::AsciiField;

use crate::named::named_u8;

/// Bytes that Identify returns, whatever the CNS.
pub const IDENTIFY_BYTES: usize = 4096;

named_u8! {
    /// Controller or Namespace Structure: what Identify is to return (Base 2.0, section 5.17.1, "CNS Values").
    Cns, "CNS" {
        NAMESPACE = 0x00, "Identify Namespace";
        CONTROLLER = 0x01, "Identify Controller";
        ACTIVE_NAMESPACES = 0x02, "Active Namespace ID list";
        NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor list";
        NVM_SET_LIST = 0x04, "NVM Set List";
        IO_NAMESPACE = 0x05, "I/O Command Set specific Identify Namespace";
        IO_CONTROLLER = 0x06, "I/O Command Set specific Identify Controller";
        IO_ACTIVE_NAMESPACES = 0x07, "I/O Command Set specific Active Namespace ID list";
        INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
        ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID list";
        ALLOCATED_NAMESPACE = 0x11, "Identify Namespace for an Allocated Namespace ID";
        NAMESPACE_CONTROLLERS = 0x12, "Controller list of a namespace";
        SUBSYSTEM_CONTROLLERS = 0x13, "Controller list of the NVM subsystem";
        PRIMARY_CONTROLLER_CAPABILITIES = 0x14, "Primary Controller Capabilities";
        SECONDARY_CONTROLLERS = 0x15, "Secondary Controller list";
        NAMESPACE_GRANULARITY = 0x16, "Namespace Granularity List";
        UUID_LIST = 0x17, "UUID List";
        DOMAIN_LIST = 0x18, "Domain List";
        ENDURANCE_GROUPS = 0x19, "Endurance Group List";
        IO_ALLOCATED_NAMESPACES = 0x1A, "I/O Command Set specific Allocated Namespace ID list";
        IO_ALLOCATED_NAMESPACE = 0x1B, "I/O Command Set specific Identify Namespace for an Allocated Namespace ID";
        IO_COMMAND_SET = 0x1C, "Identify I/O Command Set";
    }
}

/// Command Set Identifier: the NVM Command Set.
pub const CSI_NVM: u8 = 0;
/// Command Set Identifier: the Key Value Command Set.
pub const CSI_KEY_VALUE: u8 = 1;
/// Command Set Identifier: the Zoned Namespace Command Set.
pub const CSI_ZONED: u8 = 2;

#[cfg(test)]
mod tests;
