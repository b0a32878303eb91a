//! TLS to the registry: rustls with ring, the system's authorities or those of a file.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{RegistrySettings, RegistrySettingsError};

/// `encrypted` is false if no address needs TLS; the system's authorities, a slow read, are then left alone.
pub(super) fn client_config(
    settings: &RegistrySettings,
    encrypted: bool,
) -> Result<ClientConfig, RegistrySettingsError> {
    let tls = |error: rustls::Error| RegistrySettingsError::Tls(error.to_string());
    let roots = match &settings.ca_file {
        Some(path) => roots_of_file(path)?,
        None if encrypted => roots_of_system()?,
        None => RootCertStore::empty(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_root_certificates(roots);
    let Some((chain_path, key_path)) = &settings.client_cert else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates("client certificate", chain_path)?;
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|error| unusable("client key", key_path, error.to_string()))?;
    config.with_client_auth_cert(chain, key).map_err(tls)
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, RegistrySettingsError> {
    const WHAT: &str = "certificate authorities";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, path)? {
        roots.add(certificate).map_err(|error| unusable(WHAT, path, error.to_string()))?;
    }
    Ok(roots)
}

/// One unusable file among the system's is no reason to stop; none usable at all is.
fn roots_of_system() -> Result<RootCertStore, RegistrySettingsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(loaded.certs);
    match (usable, loaded.errors.first()) {
        (0, Some(error)) => Err(RegistrySettingsError::Tls(format!("the system's authorities: {error}"))),
        (0, None) => {
            Err(RegistrySettingsError::Tls("the system has no authorities; name a CA file".to_owned()))
        }
        _ => Ok(roots),
    }
}

fn certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, RegistrySettingsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(what, path, error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable(what, path, "no certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn unusable(what: &'static str, path: &Path, reason: String) -> RegistrySettingsError {
    RegistrySettingsError::Certificate { what, path: path.to_path_buf(), reason }
}
