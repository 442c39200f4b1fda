//! What a guest is made of.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::tools::Tools;
use crate::{Error, Guest, image, wire};

/// A guest that could be booted.
#[derive(Debug, Clone)]
pub struct Machine {
    cpus: u32,
    memory_mib: u32,
    iommu: bool,
    disks: Vec<(String, u64)>,
    arguments: Vec<String>,
    kernel_arguments: Vec<String>,
    modules: Vec<String>,
    programs: BTreeSet<String>,
    boot_timeout: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// One CPU, 512 MiB, an IOMMU, no devices, nvme-cli, no modules but the agent's.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cpus: 1,
            memory_mib: 512,
            iommu: true,
            disks: Vec::new(),
            arguments: Vec::new(),
            kernel_arguments: Vec::new(),
            modules: Vec::new(),
            programs: BTreeSet::from(["nvme".to_owned()]),
            boot_timeout: Duration::from_secs(180),
        }
    }

    /// How many CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// How much memory. The initramfs is in it.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Without the IOMMU, which is on by default. What the kernel's driver does is then slower by nothing.
    #[must_use]
    pub fn without_iommu(mut self) -> Self {
        self.iommu = false;
        self
    }

    /// A block device for `drive=name`: a file of zeroes of `bytes` bytes.
    #[must_use]
    pub fn disk(mut self, name: &str, bytes: u64) -> Self {
        self.disks.push((name.to_owned(), bytes));
        self
    }

    /// A device, as QEMU's `-device` has it.
    #[must_use]
    pub fn device(self, device: &str) -> Self {
        self.argument("-device").argument(device)
    }

    /// A root port `name` in slot `slot` of the bus, in which a device (`bus=name`) can come and go while the guest runs.
    #[must_use]
    pub fn root_port(self, name: &str, slot: u8) -> Self {
        self.device(&format!(
            "pcie-root-port,id={name},bus=pcie.0,addr={slot:#x},chassis={slot},slot={slot}"
        ))
    }

    /// Something else for QEMU's command line, one word.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Something for the kernel's command line.
    #[must_use]
    pub fn kernel_argument(mut self, argument: &str) -> Self {
        self.kernel_arguments.push(argument.to_owned());
        self
    }

    /// Modules of the kernel's that are loaded at the start, in this order, with what they depend on. `modprobe` can load
    /// nvme, vfio-pci, vfio_iommu_type1, fuse, ext4, null_blk and these later.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        self.modules.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Programs of this machine that the guest has too.
    #[must_use]
    pub fn programs(mut self, names: &[&str]) -> Self {
        self.programs.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Boots it, and waits until commands can be run.
    ///
    /// # Errors
    ///
    /// What is missing; a QEMU that does not like its arguments; a guest that panics or takes too long, with the end of
    /// what it said on its console.
    pub fn boot(&self) -> Result<Guest, Error> {
        let tools = Tools::find()?;
        let folder = Folder::new()?;
        let initramfs = folder.path("initramfs");
        image::write(&initramfs, &tools, &self.programs, &self.modules)?;
        for (name, bytes) in &self.disks {
            let path = folder.path(&disk_file(name));
            File::create(&path)
                .and_then(|file| file.set_len(*bytes))
                .map_err(Error::file(path))?;
        }
        let command = self.command(&tools, &folder);
        Guest::start(command, folder, self.boot_timeout)
    }

    /// QEMU's command line. `setpriv` has QEMU killed when whoever starts it is gone.
    fn command(&self, tools: &Tools, folder: &Folder) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&tools.qemu);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        let accelerator = std::env::var("NVME_GUEST_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".to_owned());
        command.args(["-accel", &accelerator, "-cpu", "max"]);
        command.args(["-smp", &self.cpus.to_string()]);
        // Memory that a device in another process can be given.
        command.arg("-object").arg(format!(
            "memory-backend-memfd,id=memory,size={}M,share=on",
            self.memory_mib
        ));
        command.args(["-machine", "q35,kernel-irqchip=split,memory-backend=memory"]);
        if self.iommu {
            command.args(["-device", "intel-iommu,intremap=on,caching-mode=on"]);
        }
        command.arg("-kernel").arg(&tools.kernel);
        command.arg("-initrd").arg(folder.path("initramfs"));
        command.arg("-append").arg(self.kernel_command_line());
        command
            .arg("-serial")
            .arg(format!("file:{}", folder.path(CONSOLE).display()));
        command
            .arg("-qmp")
            .arg(format!("unix:{}", escape(&folder.path(QMP))));
        command
            .arg("-chardev")
            .arg(format!("socket,id={AGENT},path={}", escape(&folder.path(AGENT))));
        command.args(["-device", "virtio-serial-pci,addr=2"]);
        command
            .arg("-device")
            .arg(format!("virtserialport,chardev={AGENT},name={}", wire::PORT));
        for (name, _) in &self.disks {
            command.arg("-blockdev").arg(format!(
                "driver=file,node-name={name},filename={},cache.no-flush=on,discard=unmap",
                escape(&folder.path(&disk_file(name)))
            ));
        }
        command.args(&self.arguments);
        command
    }

    fn kernel_command_line(&self) -> String {
        // A panic ends QEMU, by way of -no-reboot. Clocks of emulated CPUs need no calibrating and no watching, and
        // mitigations against what such a CPU does not do only cost.
        let mut words = vec![
            "console=ttyS0",
            "loglevel=5",
            "panic=-1",
            "tsc=reliable",
            "no_timer_check",
            "mitigations=off",
            "nokaslr",
            "random.trust_cpu=on",
        ];
        if self.iommu {
            // Addresses are mapped for those devices that a program drives.
            words.extend(["intel_iommu=on", "iommu=pt"]);
        }
        words.extend(self.kernel_arguments.iter().map(String::as_str));
        words.join(" ")
    }
}

/// Names in a guest's folder.
pub const CONSOLE: &str = "console";
pub const QMP: &str = "qmp";
pub const AGENT: &str = "agent";

fn disk_file(name: &str) -> String {
    format!("disk-{name}")
}

/// A path in QEMU's lists, in which a comma is written twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// A folder that is removed again.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nvme-guest-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).map_err(Error::file(&path))?;
        Ok(Self(path))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
