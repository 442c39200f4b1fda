//! The messages to `N/ring`. Numbers are little-endian.

#[cfg(doc)]
use super::layout::word;
use super::layout::{Geometry, VERSION};

/// Which memory a message is about, as the system names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryName {
    /// On Linux: the sender's descriptor.
    pub descriptor: u32,
    /// On Redox: the name in the scheme `shm`, at most [`MAX_NAME_BYTES`](Message::MAX_NAME_BYTES) long.
    pub name: String,
    /// How long it is.
    pub len_bytes: u64,
}

/// What is written to `N/ring`, each in one write.
///
/// | byte | bits | what |
/// | --- | --- | --- |
/// | 0 | 32 | 1 [`Setup`](Self::Setup), 2 [`Wake`](Self::Wake), 3 [`Register`](Self::Register), 4 [`Unregister`](Self::Unregister) |
/// | 4 | 32 | [`VERSION`] |
/// | 8 | 32 | descriptor of the memory |
/// | 12 | 32 | number of the buffer |
/// | 16 | 64 | length of the memory in bytes |
/// | 24 | 32 | entries of the submission ring |
/// | 28 | 32 | entries of the completion ring |
/// | 32 | 32 | 1 to be told of [runs](word::RUNS) |
/// | 36 | 28 x 8 | 0 |
/// | 64 | | name of the memory, to the end of the write |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first message: the ring's memory, which becomes buffer 0.
    Setup {
        /// The rings' lengths.
        geometry: Geometry,
        /// The memory.
        memory: MemoryName,
        /// Put the runs of the memory in its first page (uid 0).
        tells_runs: bool,
    },
    /// Wakes the worker.
    Wake,
    /// Memory as a buffer with a number that is not in use.
    Register {
        /// The number.
        index: u32,
        /// The memory.
        memory: MemoryName,
        /// Put the runs of the memory in the ring's first page (uid 0).
        tells_runs: bool,
    },
    /// Takes a buffer back. Answered when no command uses it any more.
    Unregister {
        /// Its number, not 0.
        index: u32,
    },
}

impl Message {
    /// Bytes before the name.
    pub const HEAD_BYTES: usize = 64;
    /// The longest name.
    pub const MAX_NAME_BYTES: usize = 255;

    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let none = MemoryName::default();
        let (kind, geometry, memory, index, tells) = match self {
            Self::Setup {
                geometry,
                memory,
                tells_runs,
            } => (1, Some(geometry), memory, 0, *tells_runs),
            Self::Wake => (2, None, &none, 0, false),
            Self::Register {
                index,
                memory,
                tells_runs,
            } => (3, None, memory, *index, *tells_runs),
            Self::Unregister { index } => (4, None, &none, *index, false),
        };
        let (sq_entries, cq_entries) = geometry.map_or((0, 0), |it| (it.sq_entries, it.cq_entries));
        let mut bytes = Vec::with_capacity(Self::HEAD_BYTES + memory.name.len());
        for word in [kind, VERSION, memory.descriptor, index] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.extend(memory.len_bytes.to_le_bytes());
        for word in [sq_entries, cq_entries, u32::from(tells)] {
            bytes.extend(u32::to_le_bytes(word));
        }
        bytes.resize(Self::HEAD_BYTES, 0);
        bytes.extend(memory.name.as_bytes());
        bytes
    }

    /// What was written; `None` if it is no message.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, name) = bytes.split_at_checked(Self::HEAD_BYTES)?;
        let (words, rest) = head.split_at_checked(36)?;
        let word = |index: usize| {
            let bytes = words.get(index * 4..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let len_bytes = u64::from(word(4)?) | u64::from(word(5)?) << 32;
        let tells_runs = match word(8)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        if word(1)? != VERSION || rest.iter().any(|byte| *byte != 0) || name.len() > Self::MAX_NAME_BYTES {
            return None;
        }
        let memory = MemoryName {
            descriptor: word(2)?,
            name: str::from_utf8(name).ok()?.to_owned(),
            len_bytes,
        };
        let index = word(3)?;
        let geometry = Geometry {
            sq_entries: word(6)?,
            cq_entries: word(7)?,
        };
        let message = match word(0)? {
            1 => Self::Setup {
                geometry,
                memory,
                tells_runs,
            },
            2 => Self::Wake,
            3 => Self::Register {
                index,
                memory,
                tells_runs,
            },
            4 => Self::Unregister { index },
            _ => return None,
        };
        // What a message has no use for is 0.
        (message.encode() == bytes).then_some(message)
    }

    /// The memory that it names, if it names any.
    pub fn memory(&self) -> Option<&MemoryName> {
        match self {
            Self::Setup { memory, .. } | Self::Register { memory, .. } => Some(memory),
            Self::Wake | Self::Unregister { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_where_the_table_has_it() {
        let message = Message::Setup {
            geometry: Geometry {
                sq_entries: 64,
                cq_entries: 128,
            },
            memory: MemoryName {
                descriptor: 9,
                name: "m".to_owned(),
                len_bytes: 0x1_0000_2000,
            },
            tells_runs: true,
        };
        let mut wanted = vec![
            1, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 1, 0, 0, 0,
        ];
        wanted.extend([64, 0, 0, 0, 128, 0, 0, 0, 1, 0, 0, 0]);
        wanted.resize(Message::HEAD_BYTES, 0);
        wanted.push(b'm');
        assert_eq!(message.encode(), wanted);
        assert_eq!(Message::decode(&wanted), Some(message));
        for (place, byte) in [(0, 5), (4, 2), (12, 1), (32, 2), (40, 1), (64, 0xFF)] {
            let mut other = wanted.clone();
            other[place] = byte;
            assert_eq!(Message::decode(&other), None, "{place}");
        }
        assert_eq!(Message::decode(&wanted[..63]), None);
        assert_eq!(Message::decode(&[&wanted[..], &[b'x'; 255]].concat()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..120), small in 0_u8..6) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = small;
            }
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
