//! What differs between the systems that this program runs on: where drivers' trees are, and how drivers come up.

/// One system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The folder below which drivers serve their trees when nothing else is said, each under its scheme's name.
    pub default_root: &'static str,
    /// What `--root` is for.
    pub root_help: &'static str,
    /// What to do where no driver is found.
    pub no_driver: &'static str,
    /// What to do when a driver has ended.
    pub driver_ended: &'static str,
    /// The same, to a command that was talking to it.
    pub ended_meanwhile: &'static str,
}

/// Schemes are folders that a daemon mounts.
pub const LINUX: Platform = Platform {
    default_root: "/run/scheme",
    root_help: "The folder under which a driver serves its tree, or a folder of such [default: $NVME_ROOT, else /run/scheme]",
    no_driver: "start nvme-driver, name its folder with --root or NVME_ROOT, or add --emulate",
    driver_ended: "start nvme-driver again, or add --emulate",
    ended_meanwhile: "the driver has ended: start it again",
};

/// Schemes are the system's own; what of them a user sees, his login says. pcid starts drivers.
pub const REDOX: Platform = Platform {
    default_root: "/scheme",
    root_help: "The folder under which a driver serves its tree, or a folder of such [default: $NVME_ROOT, else /scheme]",
    no_driver: "pcid starts nvme-driver where an entry in its pcid.d says so, and the console has the driver's log; users but \
                root see it only if their list in /etc/login_schemes.toml has \"nvme*\"; or add --emulate",
    driver_ended: "the console has the driver's log; it comes back when pcid-spawner is run again, or Redox started; or \
                   add --emulate",
    ended_meanwhile: "the driver has ended: the console has its log, and pcid-spawner starts it again",
};

/// The system that this program was built for.
pub const HERE: Platform = if cfg!(target_os = "redox") { REDOX } else { LINUX };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_the_default() {
        for platform in [LINUX, REDOX] {
            let named = format!("else {}]", platform.default_root);
            assert!(platform.root_help.ends_with(&named), "{platform:?}");
        }
        assert_eq!(HERE, LINUX, "tests run there");
    }

    #[test]
    fn whatever_is_wrong_there_is_a_way_on_without_a_driver() {
        for platform in [LINUX, REDOX] {
            for hint in [platform.no_driver, platform.driver_ended] {
                assert!(hint.ends_with("add --emulate"), "{hint}");
            }
        }
    }
}
