//! What is behind the `?` of a block device's path: `prio=low|medium|high|urgent`
//! (`normal` is another name of `medium`) and `deadline_us=N`.

use std::num::NonZeroU32;

use super::errno::Errno;
use super::service::Class;

/// The longest deadline that a handle may have, in microseconds: after that long the driver gives a command
/// up anyway.
pub const MAX_DEADLINE_US: u32 = 30_000_000;

/// Reads `query`: each setting at most once, in any order, parted by `&`.
///
/// # Errors
/// `EINVAL` for anything else.
pub(crate) fn parse_class(query: &str) -> Result<Class, Errno> {
    let (mut priority, mut deadline_us) = (None, None);
    for setting in query.split('&') {
        match setting.split_once('=') {
            Some(("prio", name)) if priority.is_none() => {
                priority = Some(name.parse().map_err(|()| Errno::EINVAL)?)
            }
            Some(("deadline_us", text)) if deadline_us.is_none() => {
                deadline_us = Some(parse_deadline_us(text)?);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(Class {
        priority: priority.unwrap_or_default(),
        deadline_us,
    })
}

fn parse_deadline_us(text: &str) -> Result<NonZeroU32, Errno> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let deadline_us = plain.then(|| text.parse::<NonZeroU32>().ok()).flatten();
    deadline_us
        .filter(|deadline_us| deadline_us.get() <= MAX_DEADLINE_US)
        .ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::service::Priority;
    use super::*;

    #[test]
    fn settings_in_any_order_each_at_most_once() {
        let class = |priority, deadline_us| Class {
            priority,
            deadline_us: NonZeroU32::new(deadline_us),
        };
        for (query, wanted) in [
            ("prio=low", class(Priority::Low, 0)),
            ("prio=normal", class(Priority::Medium, 0)),
            ("prio=medium", class(Priority::Medium, 0)),
            ("prio=high", class(Priority::High, 0)),
            ("prio=urgent", class(Priority::Urgent, 0)),
            ("deadline_us=1", class(Priority::Medium, 1)),
            ("deadline_us=30000000", class(Priority::Medium, MAX_DEADLINE_US)),
            ("prio=high&deadline_us=500", class(Priority::High, 500)),
            ("deadline_us=500&prio=low", class(Priority::Low, 500)),
        ] {
            assert_eq!(parse_class(query), Ok(wanted), "{query}");
        }
        for query in [
            "",
            "&",
            "prio",
            "prio=",
            "prio=High",
            "prio=realtime",
            "prio=high&prio=high",
            "prio=high&",
            "deadline_us=",
            "deadline_us=0",
            "deadline_us=+1",
            "deadline_us=-1",
            "deadline_us=30000001",
            "deadline_us=4294967297",
            "deadline_us=1&deadline_us=1",
            "deadline=5",
            "light",
        ] {
            assert_eq!(parse_class(query), Err(Errno::EINVAL), "{query}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(query in "(prio|deadline_us|=|&|high|[0-9]|\\PC){0,12}") {
            if let Ok(class) = parse_class(&query) {
                prop_assert!(class.deadline_us.is_none_or(|deadline_us| deadline_us.get() <= MAX_DEADLINE_US));
            }
        }
    }
}
