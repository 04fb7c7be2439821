//! PEM files: the reader of certificates and private keys, which reports why a block cannot be
//! used.
//!
//! Files come from many tools, so the reader accepts every unambiguous variant: a byte order mark,
//! UTF-16 (from a redirect in PowerShell), indentation, text between the blocks, and OpenSSL's
//! `TRUSTED CERTIFICATE`, whose trust settings are left out. A broken certificate does not affect
//! the other blocks of its file.
//!
//! Each error is the end of a sentence: the caller puts the path of the file before it.

use std::borrow::Cow;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A block of a PEM file, from BEGIN to END.
#[derive(Debug, PartialEq, Eq)]
struct PemBlock {
    label: String,
    /// The lines between BEGIN and END, without indentation.
    lines: Vec<String>,
    /// Whether the END line was found.
    has_end: bool,
}

/// The certificates of a file, in order; in place of a broken block, the reason why the block
/// cannot be read. An error if the file has no certificate block.
pub(super) fn certificates(
    file: &[u8],
) -> Result<Vec<Result<CertificateDer<'static>, String>>, String> {
    let blocks = blocks(&text(file)?);
    let found: Vec<_> = blocks.iter().filter_map(PemBlock::certificate).collect();
    if found.is_empty() {
        return Err(format!("it contains no certificate{}", list_labels(&blocks)));
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn private_key(file: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let blocks = blocks(&text(file)?);
    let key = blocks.iter().find(|block| block.label.ends_with("PRIVATE KEY"));
    let Some(key) = key else {
        return Err(format!("it contains no private key{}", list_labels(&blocks)));
    };
    let is_encrypted = key.label.starts_with("ENCRYPTED")
        || key
            .lines
            .iter()
            .any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
    if is_encrypted {
        let remedy = "decrypt it with `openssl pkey -in FILE -out PLAIN`";
        return Err(format!("the private key is encrypted: {remedy}"));
    }
    PrivateKeyDer::from_pem_slice(key.text(&key.label)?.as_bytes())
        .map_err(|error| format!("the block {} cannot be read: {error}", key.label))
}

impl PemBlock {
    /// The certificate; `None` if the block has another label.
    fn certificate(&self) -> Option<Result<CertificateDer<'static>, String>> {
        let is_trusted = self.label == "TRUSTED CERTIFICATE";
        if !is_trusted && self.label != "CERTIFICATE" && self.label != "X509 CERTIFICATE" {
            return None;
        }
        let text = match self.text("CERTIFICATE") {
            Ok(text) => text,
            Err(reason) => return Some(Err(reason)),
        };
        Some(match CertificateDer::from_pem_slice(text.as_bytes()) {
            Ok(certificate) if is_trusted => Ok(without_trust_settings(&certificate)),
            Ok(certificate) => Ok(certificate),
            Err(error) => Err(error.to_string()),
        })
    }

    /// The block as PEM text, with this label.
    fn text(&self, label: &str) -> Result<String, String> {
        if !self.has_end {
            return Err(format!("the block {} has no END line: it was cut short", self.label));
        }
        let lines = self.lines.join("\n");
        Ok(format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"))
    }
}

/// The certificate of a `TRUSTED CERTIFICATE`: its first DER value. OpenSSL's trust settings
/// follow.
fn without_trust_settings(certificate: &CertificateDer<'static>) -> CertificateDer<'static> {
    let length = DerValue::read(certificate)
        .map_or(certificate.len(), |value| certificate.len() - value.rest.len());
    certificate[..length].to_vec().into()
}

/// Whether the bytes have the outer structure of an X.509 certificate of any version (RFC 5280,
/// section 4.1): a sequence of two sequences and a bit string.
pub(super) fn is_certificate(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let parts = || {
        let whole = DerValue::read(der).filter(|v| v.tag == SEQUENCE && v.rest.is_empty())?;
        let fields = DerValue::read(whole.content).filter(|v| v.tag == SEQUENCE)?;
        let algorithm = DerValue::read(fields.rest).filter(|v| v.tag == SEQUENCE)?;
        DerValue::read(algorithm.rest).filter(|v| v.tag == BIT_STRING && v.rest.is_empty())
    };
    parts().is_some()
}

/// A DER value, and the bytes after it.
struct DerValue<'a> {
    tag: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> DerValue<'a> {
    /// Reads a value of less than 16 MiB; `None` if the bytes are no such value.
    fn read(der: &'a [u8]) -> Option<Self> {
        let (tag, length, after) = match der {
            [tag, length @ ..=0x7f, after @ ..] => (tag, [0, 0, *length], after),
            [tag, 0x81, a, after @ ..] => (tag, [0, 0, *a], after),
            [tag, 0x82, a, b, after @ ..] => (tag, [0, *a, *b], after),
            [tag, 0x83, a, b, c, after @ ..] => (tag, [*a, *b, *c], after),
            _ => return None,
        };
        let [a, b, c] = length;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let (content, rest) = after.split_at_checked(length)?;
        Some(Self { tag: *tag, content, rest })
    }
}

/// The text of a file in UTF-8 or UTF-16. A file in DER is an error.
fn text(file: &[u8]) -> Result<Cow<'_, str>, String> {
    let wide = |file: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = file.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let decoded: String = char::decode_utf16(units).filter_map(Result::ok).collect();
        Cow::Owned(decoded)
    };
    Ok(match file {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        // A DER sequence: its length is in the long form, or its first value has the tag with which
        // a certificate or a key begins.
        [0x30, 0x80..=0x84, ..] | [0x30, _, 0x02 | 0x30, ..] => {
            let remedy = "convert it with `openssl x509 -inform der` or `openssl pkey -inform der`";
            return Err(format!("it is DER, not PEM: {remedy}"));
        }
        file => String::from_utf8_lossy(file),
    })
}

/// The blocks of a text, in order. A BEGIN line ends a block that has no END line.
fn blocks(text: &str) -> Vec<PemBlock> {
    let mut blocks = Vec::new();
    let mut open: Option<PemBlock> = None;
    for line in text.lines().map(str::trim) {
        let label_after = |mark: &str| line.strip_prefix(mark)?.strip_suffix("-----");
        if let Some(label) = label_after("-----BEGIN ") {
            let block = PemBlock { label: label.to_owned(), lines: Vec::new(), has_end: false };
            blocks.extend(open.replace(block));
        } else if label_after("-----END ").is_some() {
            blocks.extend(open.take().map(|block| PemBlock { has_end: true, ..block }));
        } else if let Some(block) = &mut open {
            block.lines.push(line.to_owned());
        }
    }
    blocks.extend(open);
    blocks
}

/// The labels of the blocks, for errors about a missing block.
fn list_labels(blocks: &[PemBlock]) -> String {
    let labels: Vec<_> = blocks.iter().map(|block| block.label.as_str()).collect();
    if labels.is_empty() { String::new() } else { format!(", only {}", labels.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block that can be read. It contains [`DER`], a value of five bytes, not a real
    /// certificate.
    const GOOD: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    const DER: &[u8] = &[0x30, 3, 2, 1, 1];

    fn read(file: &[u8]) -> Vec<Option<Vec<u8>>> {
        let found = certificates(file).expect("there is one");
        found.into_iter().map(|found| found.ok().map(|der| der.to_vec())).collect()
    }

    #[test]
    fn certificate_is_found_in_every_encoding() {
        let wide: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let with_text = format!("Bag Attributes\n  friendlyName: x\n{GOOD}\ntrailing text");
        for file in [
            GOOD.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", GOOD.as_bytes()].concat(),
            [&[0xff, 0xfe], &wide[..]].concat(),
            GOOD.replace('\n', "\r\n").into_bytes(),
            GOOD.replace("-----B", "    -----B").replace("MAM", "    MAM").into_bytes(),
            with_text.into_bytes(),
            GOOD.replace("CERTIFICATE", "X509 CERTIFICATE").into_bytes(),
            // With trust settings after the certificate.
            GOOD.replace("CERTIFICATE", "TRUSTED CERTIFICATE")
                .replace("MAMCAQE=", "MAMCAQEwAwIBAg==")
                .into_bytes(),
        ] {
            assert_eq!(read(&file), [Some(DER.to_vec())], "{}", String::from_utf8_lossy(&file));
        }
    }

    #[test]
    fn broken_block_does_not_affect_the_others() {
        let broken = GOOD.replace("MAM", "M?M");
        let cut = "-----BEGIN CERTIFICATE-----\nMAMC";
        let file = format!("{GOOD}{broken}{GOOD}{cut}");
        let good = Some(DER.to_vec());
        let found = read(file.as_bytes());
        assert_eq!(found[..3], [good.clone(), None, good]);
    }

    #[test]
    fn block_without_end_is_reported_as_broken() {
        let open = GOOD.replace("-----END CERTIFICATE-----\n", "");
        let good = Some(DER.to_vec());
        assert_eq!(read(format!("{open}{GOOD}").as_bytes()), [None, good.clone()]);
        assert_eq!(read(format!("{GOOD}{open}").as_bytes()), [good, None]);
    }

    #[test]
    fn missing_block_error_names_the_labels_and_the_remedy() {
        let reason = |file: &str| certificates(file.as_bytes()).expect_err("there is none");
        assert_eq!(reason("nonsense"), "it contains no certificate");
        let key = "-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n";
        assert_eq!(reason(key), "it contains no certificate, only PRIVATE KEY");
        // A certificate, a key of 85 bytes with Ed25519, and one of 48 bytes.
        for der in [&[0x30, 0x82, 1, 1], &[0x30, 0x53, 2, 1], &[0x30, 0x2e, 0x30, 5]] {
            let reason = certificates(der).expect_err("it is not PEM");
            assert!(reason.contains("openssl x509 -inform der"), "{reason}");
        }
        let locked = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let old = key.replace("MAM", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nMAM");
        for encrypted in [locked, old] {
            let reason = private_key(encrypted.as_bytes()).expect_err("it is encrypted");
            assert!(reason.contains("openssl pkey"), "{reason}");
        }
        let none = private_key(GOOD.as_bytes()).expect_err("there is none");
        assert_eq!(none, "it contains no private key, only CERTIFICATE");
    }
}
