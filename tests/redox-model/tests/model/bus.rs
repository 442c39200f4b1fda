//! A driver by hand: pcid's messages, the BAR, memory for queues; the least that brings a controller up.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nvme_driver::redox::System;
use nvme_redox_model::{ControllerConfig, Machine, MachineConfig};
use nvme_spec::identify::Cns;
use nvme_spec::{Aqa, Cc, Csts, command, register};
use syscall::error::Result;
use syscall::flag::MapFlags;

pub const SHARED: MapFlags = MapFlags::MAP_SHARED
    .union(MapFlags::PROT_READ)
    .union(MapFlags::PROT_WRITE);
pub const PRIVATE: MapFlags = MapFlags::MAP_PRIVATE
    .union(MapFlags::PROT_READ)
    .union(MapFlags::PROT_WRITE);

/// Nothing takes this long, however slow the machine is: it is there so that a failure is a failure and not a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine with one controller, and a driver's hold on it.
pub struct Bus {
    pub machine: Arc<Machine>,
    pub system: Arc<dyn System>,
    pub channel: usize,
    pub bar: NonNull<u8>,
    translation: usize,
    memory: usize,
    entries: u32,
    pub queues: (u64, NonNull<u8>),
}

impl Bus {
    pub fn new(cpus: u8, controller: ControllerConfig) -> Self {
        let machine = Machine::new(MachineConfig {
            cpus,
            controllers: vec![controller],
            ..MachineConfig::default()
        });
        let system = machine.system();
        let channel = machine.pcid_channel(0);
        let bar = system.map(channel, 1 << 59, 16384, SHARED).unwrap();
        let root = system.open("/scheme/memory/scheme-root", 0).unwrap();
        let memory = system.openat(root, "zeroed@wb?phys_contiguous", 0).unwrap();
        let translation = system.openat(root, "translation", 0).unwrap();
        let mut bus = Self {
            machine,
            system,
            channel,
            bar,
            translation,
            memory,
            entries: 0,
            queues: (0, NonNull::dangling()),
        };
        bus.queues = bus.allocate(4 * 4096);
        bus
    }

    /// Asks pcid.
    pub fn ask(&self, request: &[u8]) -> Vec<u8> {
        assert_eq!(self.system.write(self.channel, request), Ok(request.len()));
        let mut len = [0; 8];
        assert_eq!(self.system.read(self.channel, &mut len), Ok(8));
        let mut answer = vec![0; u64::from_le_bytes(len) as usize];
        assert_eq!(self.system.read(self.channel, &mut answer), Ok(answer.len()));
        answer
    }

    pub fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset < 16384);
        // SAFETY: within the mapping, which stays.
        unsafe { AtomicU32::from_ptr(self.bar.as_ptr().add(offset).cast()) }
    }

    pub fn translate(&self, virtual_address: usize) -> Result<u64> {
        let mut word = virtual_address.to_ne_bytes();
        self.system.call(self.translation, &mut word, &[])?;
        Ok(u64::from_ne_bytes(word))
    }

    pub fn allocate(&self, len_bytes: usize) -> (u64, NonNull<u8>) {
        let start = self.system.map(self.memory, 0, len_bytes, PRIVATE).unwrap();
        (self.translate(start.as_ptr() as usize).unwrap(), start)
    }

    /// Enables the controller with admin queues of 64 entries.
    pub fn enable(&self) {
        let asq = self.queues.0;
        self.word(register::AQA).store(
            Aqa::new().with_asqs_z(63).with_acqs_z(63).into(),
            Ordering::Release,
        );
        for (offset, address) in [(register::ASQ, asq), (register::ACQ, asq + 4096)] {
            self.word(offset).store(address as u32, Ordering::Release);
            self.word(offset + 4)
                .store((address >> 32) as u32, Ordering::Release);
        }
        let cc = Cc::new()
            .with_en(true)
            .with_iosqes(register::IOSQES)
            .with_iocqes(register::IOCQES);
        self.word(register::CC).store(cc.into(), Ordering::Release);
        self.wait(|bus| Csts::from(bus.word(register::CSTS).load(Ordering::Acquire)).rdy());
    }

    /// Clears CC.EN and waits until the controller has seen it.
    pub fn disable(&mut self) {
        self.word(register::CC).store(0, Ordering::Release);
        self.wait(|bus| !Csts::from(bus.word(register::CSTS).load(Ordering::Acquire)).rdy());
        self.entries = 0;
        // SAFETY: the queues' own memory, which the controller has let go of.
        unsafe { self.queues.1.as_ptr().write_bytes(0, 8192) };
    }

    /// Puts Identify Controller, with its data to `data`, into the admin queue and rings.
    pub fn identify(&mut self, data: u64) {
        let entry = nvme_spec::SubmissionEntry {
            cid: self.entries as u16,
            prp1: data,
            ..command::identify(Cns::CONTROLLER, 0, 0)
        };
        let slot = (self.entries % 64) as usize;
        // SAFETY: a slot of the submission queue that the controller does not look at before the doorbell is rung.
        unsafe {
            self.queues
                .1
                .as_ptr()
                .add(slot * 64)
                .cast::<nvme_spec::SubmissionEntry>()
                .write(entry);
        }
        self.entries += 1;
        self.word(register::DOORBELLS)
            .store(self.entries % 64, Ordering::Release);
    }

    /// Waits for the completion of the command that was sent last; its status.
    pub fn completed(&self) -> u16 {
        let slot = ((self.entries - 1) % 64) as usize;
        let phase = u32::from(((self.entries - 1) / 64).is_multiple_of(2));
        // SAFETY: the last dword of an entry of the completion queue.
        let word = unsafe { AtomicU32::from_ptr(self.queues.1.as_ptr().add(4096 + slot * 16 + 12).cast()) };
        self.wait(|_| word.load(Ordering::Acquire) >> 16 & 1 == phase);
        (word.load(Ordering::Acquire) >> 17) as u16
    }

    /// Waits for something that the device does.
    pub fn wait(&self, done: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "the device does not do it");
            std::thread::yield_now();
        }
    }
}
