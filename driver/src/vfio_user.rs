//! vfio-user: a PCI function in another process, reached by messages over a socket and by shared memory.
//!
//! The protocol is that of QEMU's `docs/interop/vfio-user.rst` (version 0.x). Here is what both ends share, and the
//! server; the client is a [backend](crate::backend::vfio_user). How the two are used is in
//! [`docs::vfio_user`](crate::docs::vfio_user).
//!
//! | file | subject |
//! | --- | --- |
//! | [`wire`] | the messages as bytes, and what of them is refused |
//! | [`channel`] | whole messages with their descriptors over a socket, each wait with an end |
//! | [`function`] | the PCI function that is served: configuration space, MSI-X, BARs |
//! | [`server`] | the socket, one client after the other, and what each message does |
//! | [`QUIRKS`] | what other programs do that the protocol does not say |

pub mod channel;
pub mod function;
pub mod server;
pub mod wire;

/// Something that another program does, or wants, beyond what the protocol says; and what is done about it here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// Whose it is.
    pub of: &'static str,
    /// What it does.
    pub does: &'static str,
    /// What is done about it.
    pub here: &'static str,
    /// Why that is right, or at least harmless.
    pub why: &'static str,
}

/// Every such thing that is known. Nothing is worked around that is not in this table.
pub const QUIRKS: &[Quirk] = &[
    Quirk {
        of: "SPDK's target (server)",
        does: "SET_IRQS alone brings no interrupt: it looks at MSI-X Enable in the configuration space too",
        here: "the client sets both, the eventfds first; our own server wants both as well",
        why: "it is what a PCI function does, and what a guest's kernel does",
    },
    Quirk {
        of: "SPDK's target (server)",
        does: "maps at most 64 regions of memory, whatever max_dma_maps says",
        here: "the client maps few large chunks of one arena, never more than 32",
        why: "fewer mappings are faster to look up for every server",
    },
    Quirk {
        of: "SPDK's target (server)",
        does: "answers an access to a register that is not a doorbell after about 1 ms",
        here: "the client reads and writes such registers during bring-up and in the watch over CSTS only",
        why: "no command waits for one",
    },
    Quirk {
        of: "SPDK's target (server)",
        does: "has its doorbells in a plain file, which cannot be sealed",
        here: "the client tries to seal it, looks at its length, and goes on",
        why: "a server that makes it shorter ends the driver; without it there is no fast way to the doorbells",
    },
    Quirk {
        of: "libvfio-user (server)",
        does: "gives descriptors and capabilities of a region only if argsz has room for all of them, and one \
               descriptor for each sparse area",
        here: "the client asks with room for 64 areas at once, and takes the one descriptor of the area that holds the \
               doorbells, or the only one",
        why: "QEMU's client takes one descriptor for a whole region: both readings of the protocol are in use",
    },
    Quirk {
        of: "libvfio-user (server)",
        does: "takes at most 8 descriptors with one message",
        here: "the client sends no more at a time than the server's max_msg_fds",
        why: "it is what the capability is for",
    },
    Quirk {
        of: "libvfio-user (client side of the protocol header)",
        does: "knows flags of DMA_MAP that the protocol does not: bit 2 (map the descriptor), bit 3 (use file I/O)",
        here: "the server takes bit 2, which is what it does anyway, and refuses bit 3 with EINVAL",
        why: "file I/O on a client's descriptor could wait for ever",
    },
    Quirk {
        of: "QEMU (client)",
        does: "asks for a region's information first with room for nothing but the structure, and again with argsz as \
               the answer said",
        here: "the server tells the size needed, and gives capabilities and the descriptor only with room for all",
        why: "a descriptor that the first answer carried would have to be closed and be sent again",
    },
    Quirk {
        of: "QEMU (client)",
        does: "refuses a server that takes more than 16 descriptors with a message",
        here: "the server says 16",
        why: "what sets up all vectors of a controller is then a few messages instead of one",
    },
    Quirk {
        of: "QEMU (client)",
        does: "keeps the MSI-X table to itself: what a guest writes there never reaches the server",
        here: "the server heeds MSI-X Enable and Function Mask, and masks of single vectors by SET_IRQS; mask bits in \
               the table are kept and read back, and do nothing",
        why: "after reset all of them say masked, and no client of an eventfd would ever be told anything",
    },
    Quirk {
        of: "QEMU (client)",
        does: "maps what it has no descriptor for, such as ROMs, without one",
        here: "the server accepts the mapping, and a DMA to it is refused: messages DMA_READ and DMA_WRITE are not sent",
        why: "queues and buffers of an NVMe driver are in RAM; a device that waits for its client's answer in the \
              middle of a transfer could be held up by it",
    },
    Quirk {
        of: "QEMU (client)",
        does: "unmaps ranges of which it has mapped nothing, or several pieces, when its guest has an IOMMU",
        here: "the server unmaps all that is within, which may be nothing, and refuses to cut a mapping",
        why: "it is what VFIO's own call does, for which QEMU was written; a piece that stayed would be reached for ever",
    },
    Quirk {
        of: "QEMU (client)",
        does: "unmaps with flag 1 (all), which the protocol does not have",
        here: "the server unmaps everything",
        why: "it is what VFIO's own flag of this number means",
    },
    Quirk {
        of: "the crate vfio_user 0.1.7 (client)",
        does: "ignores error replies or waits for more after them, has no timeouts, inverts whether a reset is possible",
        here: "it is not used: both ends are written here, on one module of messages",
        why: "a server that is dead or hostile must not hang the driver",
    },
];
