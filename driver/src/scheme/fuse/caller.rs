//! Who makes a request.

use std::{fs, io};

use fuser::Request;

use super::super::Caller;

/// Who asks. The kernel says all but the supplementary groups.
pub(super) fn caller(req: &Request) -> Caller {
    let (uid, gid, pid) = (req.uid(), req.gid(), req.pid());
    // Root needs none, and does most of the opening.
    let groups = if uid == 0 {
        Vec::new()
    } else {
        groups_of(pid).unwrap_or_default()
    };
    Caller {
        uid,
        gid,
        pid,
        groups,
    }
}

/// The supplementary groups of a process, which waits for the answer to its request meanwhile.
fn groups_of(pid: u32) -> io::Result<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(groups_in(&status))
}

fn groups_in(status: &str) -> Vec<u32> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|group| group.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supplementary_groups_are_read_from_the_process() {
        assert_eq!(
            groups_in("Name:\tcat\nGid:\t5\t5\t5\t5\nGroups:\t4 24 1000 \nX:\t1\n"),
            [4, 24, 1000]
        );
        assert_eq!(groups_in("Groups:\t\n"), [0_u32; 0]);
        assert_eq!(groups_in(""), [0_u32; 0]);
        assert!(groups_of(std::process::id()).is_ok());
    }
}
