//! `mi vpd`.

use nvme_spec::mi::{FruProduct, MiResponse, product_info};
use serde::Serialize;

use super::{FORMATS, failure, read};
use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::tree::Tree;
use crate::view;

/// The answer to VPD Read.
pub const PATH: &str = "controller/mi/vpd";

/// Prints the Product Info Area of the Vital Product Data; where there is none, why, and the bytes.
///
/// # Errors
/// What reading and decoding the answer gives.
pub fn run(tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
    output.check_format("mi vpd", &FORMATS)?;
    let message = read(tree, PATH)?;
    let data = MiResponse::parse(&message)
        .and_then(MiResponse::succeeded)
        .map_err(|why| failure(PATH, "VPD Read", why))?
        .data;
    if matches!(output.format, Format::Raw | Format::Hex) {
        return output.bytes(data);
    }
    let product = product_info(data);
    let document = VpdDocument {
        schema: "nvmectl-mi-vpd",
        version: "1.0",
        device: format!("{}:controller", tree.scheme()),
        size_bytes: data.len(),
        product: product.as_ref().ok().map(Product::new),
        not_decoded: product.as_ref().err().map(ToString::to_string),
        data: product
            .is_err()
            .then(|| data.iter().map(|byte| format!("{byte:02x}")).collect()),
    };
    if output.format == Format::Json {
        return output.json(&document);
    }
    match &document.not_decoded {
        None => {
            let text = view::render(&document, &[], &output.style);
            output.text(&text)
        }
        Some(why) => {
            output.text(&format!("not decoded: {why}\n\n"))?;
            output.hex(data)
        }
    }
}

/// Vital Product Data (NVMe-MI 1.2, section 8.2). With `product` null, `not_decoded` says why, and `data` is all of it in
/// hexadecimal.
#[derive(Debug, Serialize)]
struct VpdDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    size_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    product: Option<Product>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_decoded: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

#[derive(Debug, Serialize)]
struct Product {
    manufacturer: String,
    product_name: String,
    part_number: String,
    product_version: String,
    serial: String,
    asset_tag: String,
}

impl Product {
    fn new(product: &FruProduct<'_>) -> Self {
        Self {
            manufacturer: product.manufacturer.text().to_string(),
            product_name: product.product.text().to_string(),
            part_number: product.part_number.text().to_string(),
            product_version: product.version.text().to_string(),
            serial: product.serial.text().to_string(),
            asset_tag: product.asset_tag.text().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::style::Style;
    use crate::tree::fake::FakeTree;
    use crate::units::Units;

    /// A common header, and a Product Info Area of 32 bytes: Acme, SSD, P1, version 21 in BCD, SN7.
    const VPD: [u8; 40] = [
        0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0xFE, 0x01, 0x04, 0x19, 0xC4, b'A', b'c', b'm', b'e', 0xC3,
        b'S', b'S', b'D', 0xC2, b'P', b'1', 0x41, 0x12, 0xC3, b'S', b'N', b'7', 0x00, 0xC1, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x09,
    ];

    fn printed(vpd: &[u8], format: Format) -> Vec<u8> {
        let message = [&[0x04, 0x88, 0, 0, 0, 0, 0, 0], vpd].concat();
        let tree = FakeTree::new().file(PATH, &message);
        let mut out = Vec::new();
        run(
            &tree,
            &mut Output::new(&mut out, format, Style::plain(Units::Iec)),
        )
        .unwrap();
        out
    }

    #[test]
    fn the_product_is_said_in_words() {
        let text = String::from_utf8(printed(&VPD, Format::Table)).unwrap();
        for part in [
            "manufacturer     Acme\n",
            "product name     SSD\n",
            "serial           SN7\n",
            "asset tag        none\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let document: Value = serde_json::from_slice(&printed(&VPD, Format::Json)).unwrap();
        assert_eq!(document["product"]["product_version"], "21");
        assert_eq!(document["size_bytes"], 40);
        assert!(document.get("data").is_none());
        assert_eq!(printed(&VPD, Format::Raw), VPD, "without the message around them");
    }

    #[test]
    fn damaged_data_are_shown_as_bytes_with_the_reason() {
        let mut damaged = VPD;
        damaged[12] = b'B';
        let text = String::from_utf8(printed(&damaged, Format::Table)).unwrap();
        assert!(
            text.starts_with(
                "not decoded: the checksum of the Product Info Area is wrong\n\n00000000  01 00 00 00"
            ),
            "{text}"
        );
        let document: Value = serde_json::from_slice(&printed(&damaged, Format::Json)).unwrap();
        assert!(document["data"].as_str().unwrap().starts_with("0100000001"));
        assert!(document.get("product").is_none());
    }
}
