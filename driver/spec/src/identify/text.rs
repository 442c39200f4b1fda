//! Text that comes from a device.

use core::fmt;

/// An ASCII field of `N` bytes made fit to show: padding (spaces and NULs) trimmed from both ends, and every byte that is
/// not printable ASCII replaced by `?`, so that no device can send a terminal escapes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AsciiField<const N: usize> {
    /// Printable ASCII at the front, NULs behind.
    text: [u8; N],
    len: usize,
}

impl<const N: usize> AsciiField<N> {
    /// Reads a space-padded field.
    pub fn new(field: &[u8; N]) -> Self {
        let is_padding = |byte: &u8| *byte == b' ' || *byte == 0;
        let leading = field.iter().take_while(|byte| is_padding(byte)).count();
        let trailing = field.iter().rev().take_while(|byte| is_padding(byte)).count();
        let len = N.saturating_sub(leading + trailing);
        let mut text = [0; N];
        for (to, from) in text.iter_mut().zip(field.iter().skip(leading).take(len)) {
            *to = if matches!(from, b' '..=b'~') { *from } else { b'?' };
        }
        Self { text, len }
    }

    /// Reads a NUL-terminated field: what follows the first NUL is no part of it.
    pub fn until_nul(field: &[u8; N]) -> Self {
        let mut text = [0; N];
        for (to, from) in text.iter_mut().zip(field.iter().take_while(|byte| **byte != 0)) {
            *to = *from;
        }
        Self::new(&text)
    }

    /// The bytes a device would hold for `text`: padded with spaces, cut to `N`, anything but printable ASCII as `?`.
    pub fn encode(text: &str) -> [u8; N] {
        let mut field = [b' '; N];
        for (to, from) in field.iter_mut().zip(text.chars()) {
            *to = if matches!(from, ' '..='~') {
                from as u8
            } else {
                b'?'
            };
        }
        field
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..self.len).unwrap_or_default();
        core::str::from_utf8(text).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Display for AsciiField<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for AsciiField<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl<const N: usize> AsRef<str> for AsciiField<N> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<const N: usize> PartialEq<str> for AsciiField<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<const N: usize> PartialEq<&str> for AsciiField<N> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
