//! Log pages that are lists: supported pages (00h), firmware slots (03h), changed namespaces (04h), commands supported (05h).

use bitfield_struct::bitfield;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::command::NSID_ALL;
use crate::identify::{AsciiField, MAX_NAMESPACES_IN_LIST, NamespaceListIter};
use crate::layout::{layout, zeroed_default};
use crate::log::LogId;
use crate::opcode::{AdminOpcode, NvmOpcode};

/// Supported Log Pages log page, 1024 bytes (Base 2.0, section 5.16.1.1).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SupportedLogPages {
    /// By log page identifier: bit 0 supported, bit 1 index offset supported, bits 31:16 specific to the page.
    pub pages: [U32; 256],
}

layout!(SupportedLogPages, 1024, { pages: 0 });

impl SupportedLogPages {
    /// True if the controller says that it supports the page.
    pub fn supports(&self, lid: LogId) -> bool {
        self.pages
            .get(usize::from(lid.0))
            .is_some_and(|page| page.get() & 1 != 0)
    }
}

/// Firmware Slot Information log page, 512 bytes (Base 2.0, section 5.16.1.4).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct FirmwareSlotLog {
    /// Active Firmware Info: slot in use in bits 2:0, slot after the next reset in bits 6:4 (0 = not indicated).
    pub afi: u8,
    #[doc(hidden)]
    pub reserved1: [u8; 7],
    /// Firmware Revision for Slot 1 to 7, ASCII, all zero = empty; see [`revision`](Self::revision).
    pub frs: [[u8; 8]; 7],
    #[doc(hidden)]
    pub reserved64: [u8; 448],
}

layout!(FirmwareSlotLog, 512, { afi: 0, frs: 8, reserved64: 64 });

impl FirmwareSlotLog {
    /// Slot that the running firmware came from.
    pub const fn active_slot(&self) -> u8 {
        self.afi & 0b111
    }

    /// Slot that will be activated at the next Controller Level Reset, None if not indicated.
    pub const fn next_slot(&self) -> Option<u8> {
        match self.afi >> 4 & 0b111 {
            0 => None,
            slot => Some(slot),
        }
    }

    /// Firmware revision in `slot` (1 to 7), None if the slot is empty or there is no such slot.
    pub fn revision(&self, slot: u8) -> Option<AsciiField<8>> {
        let revision = self.frs.get(usize::from(slot).checked_sub(1)?)?;
        revision
            .iter()
            .any(|byte| *byte != 0)
            .then(|| AsciiField::new(revision))
    }
}

/// Changed Namespace List log page, 4096 bytes (Base 2.0, section 5.16.1.5).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangedNamespaces {
    /// NSIDs that changed since the page was last read; see [`iter`](Self::iter).
    pub nsids: [U32; MAX_NAMESPACES_IN_LIST],
}

layout!(ChangedNamespaces, 4096, { nsids: 0 });

impl ChangedNamespaces {
    /// A list of `nsids`, or the mark for "more than 1024" if there are more.
    pub fn new(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::default();
        let mut nsids = nsids.into_iter();
        for (to, nsid) in list.nsids.iter_mut().zip(nsids.by_ref()) {
            to.set(nsid);
        }
        if nsids.next().is_none() {
            return list;
        }
        let mut overflowed = Self::default();
        if let Some(first) = overflowed.nsids.first_mut() {
            first.set(NSID_ALL);
        }
        overflowed
    }

    /// More than 1024 namespaces changed: the list names none of them, look at all.
    pub fn is_overflowed(&self) -> bool {
        self.nsids.first().is_some_and(|nsid| nsid.get() == NSID_ALL)
    }

    /// The identifiers up to the first zero; none if [`is_overflowed`](Self::is_overflowed).
    pub fn iter(&self) -> NamespaceListIter<'_> {
        NamespaceListIter::new(if self.is_overflowed() { &[] } else { &self.nsids })
    }
}

/// Commands Supported and Effects log page, 4096 bytes (Base 2.0, section 5.16.1.6).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommandsSupported {
    /// Admin commands ([`CommandEffects`]) by opcode.
    pub acs: [U32; 256],
    /// I/O commands ([`CommandEffects`]) by opcode.
    pub iocs: [U32; 256],
    #[doc(hidden)]
    pub reserved2048: [u8; 2048],
}

layout!(CommandsSupported, 4096, { acs: 0, iocs: 1024, reserved2048: 2048 });

impl CommandsSupported {
    /// What the controller says of an admin command.
    pub fn admin(&self, opcode: AdminOpcode) -> CommandEffects {
        effects(&self.acs, opcode.0)
    }

    /// What the controller says of an I/O command.
    pub fn io(&self, opcode: NvmOpcode) -> CommandEffects {
        effects(&self.iocs, opcode.0)
    }
}

fn effects(table: &[U32; 256], opcode: u8) -> CommandEffects {
    table
        .get(usize::from(opcode))
        .map_or_else(CommandEffects::new, |bits| bits.get().into())
}

/// Commands Supported and Effects data structure (Base 2.0, section 5.16.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandEffects {
    /// Command Supported; the rest is meaningless if clear.
    pub csupp: bool,
    /// Logical Block Content Change.
    pub lbcc: bool,
    /// Namespace Capability Change.
    pub ncc: bool,
    /// Namespace Inventory Change.
    pub nic: bool,
    /// Controller Capability Change.
    pub ccc: bool,
    #[bits(9)]
    __: u16,
    /// Command Submission and Execution Relaxations.
    #[bits(2)]
    pub cser: u8,
    /// Command Submission and Execution: 0 = no restriction, 1 = alone in its namespace, 2 = alone in all.
    #[bits(3)]
    pub cse: u8,
    /// UUID Selection Supported.
    pub uuid_selection: bool,
    /// Command Scope, one bit per scope (namespace, controller, NVM set, endurance group, domain, NVM subsystem).
    #[bits(12)]
    pub csp: u16,
}

zeroed_default!(
    SupportedLogPages,
    FirmwareSlotLog,
    ChangedNamespaces,
    CommandsSupported
);
