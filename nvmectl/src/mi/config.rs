//! `mi config`.

use nvme_spec::mi::{
    MalformedMessage, MiResponse, MiStatus, RESPONSE_HEADER_BYTES, mctp_transmission_unit_bytes,
    smbus_frequency,
};
use serde::Serialize;

use super::{FORMATS, failure, read};
use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::tree::Tree;
use crate::view;

/// The answers to Configuration Get: Health Status Change, SMBus/I2C Frequency of two ports, MCTP Transmission Unit Size of
/// the same.
pub const PATH: &str = "controller/mi/config";
const PORTS: usize = 2;
const BYTES: usize = (1 + 2 * PORTS) * RESPONSE_HEADER_BYTES;
const ASKED: &str = "Configuration Get";

/// Prints the settings.
///
/// # Errors
/// What reading and decoding them gives; unsupported where none of them can be asked for.
pub fn run(tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
    output.check_format("mi config", &FORMATS)?;
    let bytes = read(tree, PATH)?;
    if matches!(output.format, Format::Raw | Format::Hex) {
        return output.bytes(&bytes);
    }
    let document = decode(tree.scheme(), &bytes)?;
    if output.format == Format::Json {
        return output.json(&document);
    }
    let text = view::render(&document, &[], &output.style);
    output.text(&text)
}

/// Settings of the management interface (NVMe-MI 1.2, section 5.2). What is not told is null, and the words beside it say
/// why: of its ports a controller of that version tells nothing in band.
#[derive(Debug, Serialize)]
struct ConfigDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    health_status_change: String,
    ports: Vec<Port>,
}

#[derive(Debug, Serialize)]
struct Port {
    port: usize,
    smbus_frequency_hz: Option<u32>,
    smbus: String,
    mctp_unit_bytes: Option<u16>,
    mctp: String,
}

fn decode(scheme: &str, bytes: &[u8]) -> Result<ConfigDocument, Error> {
    if bytes.len() != BYTES {
        let why = format!("it has {} bytes instead of {BYTES}", bytes.len());
        return Err(Error::malformed(PATH, why));
    }
    let malformed = |why| failure(PATH, ASKED, why);
    let mut answers = Vec::new();
    for message in bytes.chunks(RESPONSE_HEADER_BYTES) {
        answers.push(MiResponse::parse(message).map_err(malformed)?);
    }
    // Configuration Get need not be there in band at all.
    if let [first, rest @ ..] = answers.as_slice()
        && first.status == MiStatus::INVALID_COMMAND_OPCODE
        && rest.iter().all(|answer| answer.status == first.status)
    {
        return Err(malformed(MalformedMessage::Refused(first.status)));
    }
    let (health, of_ports) = answers.split_at(1);
    let (smbus, mctp) = of_ports.split_at(PORTS);
    let told = |answer: &MiResponse<'_>| match answer.succeeded() {
        Ok(_) => "can be set".to_owned(),
        Err(why) => not_told(why),
    };
    let mut ports = Vec::new();
    for (port, (smbus, mctp)) in smbus.iter().zip(mctp).enumerate() {
        let (smbus_frequency_hz, smbus) = match smbus_frequency(smbus) {
            Ok(frequency) => (frequency.hz(), frequency.to_string()),
            Err(why @ MalformedMessage::Refused(_)) => (None, not_told(why)),
            Err(why) => return Err(malformed(why)),
        };
        let (mctp_unit_bytes, mctp) = match mctp_transmission_unit_bytes(mctp) {
            Ok(bytes) => (Some(bytes), "told".to_owned()),
            Err(why @ MalformedMessage::Refused(_)) => (None, not_told(why)),
            Err(why) => return Err(malformed(why)),
        };
        ports.push(Port {
            port,
            smbus_frequency_hz,
            smbus,
            mctp_unit_bytes,
            mctp,
        });
    }
    Ok(ConfigDocument {
        schema: "nvmectl-mi-config",
        version: "1.0",
        device: format!("{scheme}:controller"),
        health_status_change: health.iter().map(told).collect(),
        ports,
    })
}

fn not_told(why: MalformedMessage) -> String {
    match why {
        MalformedMessage::Refused(status) => format!("not told in band: {status}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn messages(dw0: [u32; 5]) -> Vec<u8> {
        dw0.iter()
            .flat_map(|dw0| [&[0x04, 0x88, 0, 0], &dw0.to_le_bytes()[..]].concat())
            .collect()
    }

    fn document(dw0: [u32; 5]) -> serde_json::Value {
        serde_json::to_value(decode("nvme", &messages(dw0)).unwrap()).unwrap()
    }

    #[test]
    fn what_is_told_is_shown_with_its_unit() {
        let document = document([0, 0x08_0304, 0x200, 0x4000, 0xFA00]);
        assert_eq!(document["health_status_change"], "can be set");
        assert_eq!(
            document["ports"],
            json!([
                {"port": 0, "smbus_frequency_hz": null, "smbus": "not told in band: Invalid Parameter",
                 "mctp_unit_bytes": 64, "mctp": "told"},
                {"port": 1, "smbus_frequency_hz": 400_000, "smbus": "400 kHz", "mctp_unit_bytes": 250, "mctp": "told"},
            ])
        );
    }

    #[test]
    fn a_controller_that_tells_nothing_is_unsupported() {
        let error = decode("nvme", &messages([3; 5])).unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(
            error
                .to_string()
                .contains("does not answer Configuration Get in band"),
            "{error}"
        );
        // One that is only silent about its ports is not.
        let document = document([0, 4, 4, 4, 4]);
        assert_eq!(document["ports"][1]["mctp_unit_bytes"], json!(null));
    }

    #[test]
    fn malformed_answers_are_refused_in_words() {
        for (bytes, words) in [
            (messages([0; 5])[..39].to_vec(), "it has 39 bytes instead of 40"),
            (
                messages([0, 0x500, 0, 0x4000, 0x4000]),
                "SFREQ is 5h, which is reserved",
            ),
            (
                messages([0, 0, 0, 0x4000, 0x3F00]),
                "MTUS is 3Fh, which is reserved",
            ),
            (vec![0; 40], "its message type is 0h and not 4h"),
        ] {
            let error = decode("nvme", &bytes).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
