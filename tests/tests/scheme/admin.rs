//! Admin passthrough.

use nvme_driver::embedded::Handle;
use nvme_spec::command::{self, FormatCdw10};
use nvme_spec::identify::Cns;
use nvme_spec::{CompletionEntry, FeatureId, Status, SubmissionEntry};
use zerocopy::{FromBytes, IntoBytes};

use super::*;

fn open(client: &Client) -> Handle {
    client.open("controller/admin", OpenFlags::READ_WRITE).unwrap()
}

/// Sends `entry`, of which `len_bytes` come back.
fn transact(
    handle: &Handle,
    entry: SubmissionEntry,
    len_bytes: u64,
) -> Result<(CompletionEntry, Vec<u8>), Errno> {
    let entry = SubmissionEntry {
        prp1: len_bytes,
        ..entry
    };
    assert_eq!(handle.write_at(entry.as_bytes(), 0)?, 64);
    let mut text = read_all(handle, 8192)?;
    let data = text.split_off(16);
    Ok((CompletionEntry::read_from_bytes(&text).unwrap(), data))
}

#[test]
fn a_command_returns_what_the_documents_show() {
    let driver = start("size=1MiB,namespaces=2");
    let client = root(&driver);
    let handle = open(&client);
    let (completion, data) = transact(&handle, command::identify(Cns::CONTROLLER, 0, 0), 4096).unwrap();
    assert_eq!(completion.status(), Status::SUCCESS);
    assert_eq!(data, document(&client, "controller/identify").unwrap());
    // What the device refuses is a completion with a status.
    let (completion, data) = transact(&handle, command::identify(Cns(0xEE), 0, 0), 4096).unwrap();
    assert!(completion.status().is(Status::INVALID_FIELD));
    assert!(data.is_empty());
    // A value in dword 0, and a command that moves nothing.
    let (completion, _) = transact(
        &handle,
        command::get_features(FeatureId::NUMBER_OF_QUEUES, 0, 0),
        0,
    )
    .unwrap();
    let queues = if cfg!(feature = "multi-queue") { 2 } else { 1 };
    assert_eq!(completion.dw0 & 0xFFFF, queues - 1, "0's based");
}

#[test]
fn handles_used_at_once_get_their_own_answers() {
    let driver = start("size=1MiB,namespaces=8");
    let client = &root(&driver);
    std::thread::scope(|scope| {
        for nsid in 1..=8 {
            scope.spawn(move || {
                let handle = open(client);
                let wanted = document(client, &format!("{nsid}/identify")).unwrap();
                for _ in 0..50 {
                    let (completion, data) =
                        transact(&handle, command::identify(Cns::NAMESPACE, nsid, 0), 4096).unwrap();
                    assert_eq!(completion.status(), Status::SUCCESS);
                    // NGUID and EUI64 differ between namespaces.
                    assert!(data == wanted, "namespace {nsid}");
                }
            });
        }
    });
}

#[test]
fn what_belongs_to_the_driver_is_refused_and_the_driver_goes_on() {
    let driver = start("size=1MiB,lba=512");
    let client = root(&driver);
    let handle = open(&client);
    for entry in [
        command::delete_io_sq(1),
        command::delete_io_cq(1),
        command::abort(1, 0),
        command::async_event_request(),
        command::doorbell_buffer_config(0, 0),
        command::set_features(FeatureId::NUMBER_OF_QUEUES, 0, 0, false),
    ] {
        assert_eq!(transact(&handle, entry, 0).err(), Some(Errno::EPERM), "{entry:?}");
    }
    let format = FormatCdw10::new().with_format_index(1);
    assert_eq!(
        transact(&handle, command::format_nvm(1, format), 0).err(),
        Some(Errno::EOPNOTSUPP)
    );
    assert_eq!(
        user(&driver).open("controller/admin", OpenFlags::READ).err(),
        Some(Errno::EACCES)
    );
    let disk = client.open("1", OpenFlags::READ_WRITE).unwrap();
    assert_eq!(disk.write_at(&[1; 700], 100), Ok(700));
}

#[test]
fn a_format_that_keeps_the_blocks_erases_the_data() {
    let driver = start("size=1MiB,lba=512");
    let client = root(&driver);
    let (handle, disk) = (open(&client), client.open("1", OpenFlags::READ_WRITE).unwrap());
    disk.write_at(&[1; 700], 100).unwrap();
    let flbas = document(&client, "1/identify").unwrap()[26];
    let format = FormatCdw10::new().with_format_index(flbas & 0xF);
    let (completion, _) = transact(&handle, command::format_nvm(1, format), 0).unwrap();
    assert_eq!(completion.status(), Status::SUCCESS);
    let mut back = [1; 1000];
    assert_eq!(disk.read_at(&mut back, 0), Ok(1000));
    assert_eq!(back, [0; 1000]);
}
