//! Open sets of numbers with names: one table line gives constant, number and name.

/// Defines `pub struct $type(pub u8)` with a constant, a name and a `Display` for each line; a number without a line
/// is displayed as `$unknown XXh`.
macro_rules! named_u8 {
    ($(#[$type_doc:meta])* $type:ident, $unknown:literal { $($name:ident = $value:literal, $text:literal;)* }) => {
        $(#[$type_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub u8);

        impl $type {
            $(#[doc = $text] pub const $name: Self = Self($value);)*

            /// Every value that has a name, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The specification's name, None for a value this crate does not know.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => write!(f, concat!($unknown, " {:02X}h"), self.0),
                }
            }
        }

        impl From<u8> for $type {
            fn from(value: u8) -> Self {
                Self(value)
            }
        }

        impl From<$type> for u8 {
            fn from(value: $type) -> u8 {
                value.0
            }
        }
    };
}

pub(crate) use named_u8;
