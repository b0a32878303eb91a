//! The channel binding `tls-server-end-point` (RFC 5929, section 4): a hash of the server's certificate.
//!
//! The hash is the one that the certificate's own signature uses, SHA-256 in place of MD5 and SHA-1. So the signature
//! algorithm has to be read from the certificate:
//!
//! ```text
//! Certificate         ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm AlgorithmIdentifier, … }
//! AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }
//! RSASSA-PSS params   ::= SEQUENCE { hashAlgorithm [0] AlgorithmIdentifier DEFAULT sha1, … }
//! ```

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const CONTEXT_0: u8 = 0xa0;

/// The binding of a DER certificate, or `None` if its signature has no hash of its own (Ed25519) or is unknown.
pub(crate) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    match signature_hash(certificate)? {
        Hash::Sha224 => Some(Sha224::digest(certificate).to_vec()),
        Hash::Sha256 => Some(Sha256::digest(certificate).to_vec()),
        Hash::Sha384 => Some(Sha384::digest(certificate).to_vec()),
        Hash::Sha512 => Some(Sha512::digest(certificate).to_vec()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (_signed_part, after) = element(certificate, SEQUENCE)?;
    let (algorithm, _) = element(after, SEQUENCE)?;
    let (oid, parameters) = element(algorithm, OBJECT_IDENTIFIER)?;
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: [u8; 6] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
    if let Some(rest) = oid.strip_prefix(&RSA) {
        return match rest {
            [0x0a] => pss_hash(parameters),
            // MD5, SHA-1, SHA-256
            [0x04 | 0x05 | 0x0b] => Some(Hash::Sha256),
            [0x0c] => Some(Hash::Sha384),
            [0x0d] => Some(Hash::Sha512),
            [0x0e] => Some(Hash::Sha224),
            _ => None,
        };
    }
    match oid.strip_prefix(&ECDSA)? {
        [0x03, 0x01] => Some(Hash::Sha224),
        // SHA-1, SHA-256
        [0x01] | [0x03, 0x02] => Some(Hash::Sha256),
        [0x03, 0x03] => Some(Hash::Sha384),
        [0x03, 0x04] => Some(Hash::Sha512),
        _ => None,
    }
}

fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let (parameters, _) = element(parameters, SEQUENCE)?;
    let Some((explicit, _)) = element(parameters, CONTEXT_0) else {
        // The default is SHA-1.
        return Some(Hash::Sha256);
    };
    let (algorithm, _) = element(explicit, SEQUENCE)?;
    let (oid, _) = element(algorithm, OBJECT_IDENTIFIER)?;
    const SHA2: [u8; 8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    match oid.strip_prefix(&SHA2) {
        Some([0x01]) => Some(Hash::Sha256),
        Some([0x02]) => Some(Hash::Sha384),
        Some([0x03]) => Some(Hash::Sha512),
        Some([0x04]) => Some(Hash::Sha224),
        // SHA-1: 1.3.14.3.2.26
        None if oid == [0x2b, 0x0e, 0x03, 0x02, 0x1a] => Some(Hash::Sha256),
        _ => None,
    }
}

/// Splits one DER element with the given tag into its content and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // Long form: the low bits count the bytes of the length. Four are enough for any certificate.
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (length, rest) = rest.split_at_checked(count)?;
        (length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match content.len() {
            length @ 0..=0x7f => out.push(length as u8),
            length => out.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        out.extend(content);
        out
    }

    fn certificate(oid: &[u8], parameters: &[u8]) -> Vec<u8> {
        let signed_part = der(SEQUENCE, &[&[0; 300]]);
        let algorithm = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[oid]), parameters]);
        der(SEQUENCE, &[&signed_part, &algorithm, &der(0x03, &[&[0; 64]])])
    }

    #[test]
    fn the_hash_is_the_signatures() {
        let rsa = |last| [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, last].to_vec();
        let ecdsa = |last| [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, last].to_vec();
        let sha384 = der(OBJECT_IDENTIFIER, &[&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02]]);
        let pss = der(SEQUENCE, &[&der(CONTEXT_0, &[&der(SEQUENCE, &[&sha384])])]);
        let null: &[u8] = &[0x05, 0x00];
        for (oid, parameters, hash) in [
            (rsa(0x04), null, Some(Hash::Sha256)),
            (rsa(0x05), null, Some(Hash::Sha256)),
            (rsa(0x0b), null, Some(Hash::Sha256)),
            (rsa(0x0c), null, Some(Hash::Sha384)),
            (rsa(0x0d), null, Some(Hash::Sha512)),
            (rsa(0x0e), null, Some(Hash::Sha224)),
            (rsa(0x0a), pss.as_slice(), Some(Hash::Sha384)),
            (rsa(0x0a), &[0x30, 0x00], Some(Hash::Sha256)),
            (ecdsa(0x02), &[], Some(Hash::Sha256)),
            (ecdsa(0x03), &[], Some(Hash::Sha384)),
            (ecdsa(0x04), &[], Some(Hash::Sha512)),
            // Ed25519
            (vec![0x2b, 0x65, 0x70], &[], None),
        ] {
            assert_eq!(signature_hash(&certificate(&oid, parameters)), hash, "{oid:02x?}");
        }
        assert_eq!(tls_server_end_point(&certificate(&rsa(0x0c), null)).map(|hash| hash.len()), Some(48));
    }

    #[test]
    fn a_cut_certificate_has_no_binding() {
        let whole = certificate(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02], &[]);
        for length in 0..whole.len() {
            assert_eq!(tls_server_end_point(&whole[..length]), None);
        }
        assert!(tls_server_end_point(&whole).is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            tls_server_end_point(&bytes);
        }
    }
}
