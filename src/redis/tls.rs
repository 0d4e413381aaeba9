//! The TLS settings for connections to Redis: which authorities to trust, and which certificate to present.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::options::RedisOptions;
use crate::error::Error;

/// Where systems keep the certificate authorities that they trust, in one file.
const SYSTEM_CAS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Reads the certificates when the store is opened, so that a bad file is an error then and not at some later connection.
pub(super) fn config(options: &RedisOptions) -> Result<Arc<ClientConfig>, Error> {
    let unusable = |reason: String| Error::Config(format!("the certificates for Redis cannot be used: {reason}"));
    let shown = match (&options.tls_cert, &options.tls_key) {
        (Some(cert), Some(key)) => {
            let chain = certificates(&pem_with::<CertificateDer>(cert, "certificate")?).map_err(unusable)?;
            let key = PrivateKeyDer::from_pem_slice(&pem_with::<PrivateKeyDer>(key, "private key")?)
                .map_err(|error| unusable(error.to_string()))?;
            Some((chain, key))
        }
        (None, None) => None,
        _ => return Err(Error::Config("tls_cert and tls_key are given together or not at all".into())),
    };
    let trusted = match &options.tls_ca {
        Some(ca) => authorities(&pem_with::<CertificateDer>(ca, "certificate")?).map_err(unusable)?,
        None => {
            let system = SYSTEM_CAS.iter().find_map(|path| std::fs::read(path).ok());
            // If the system has no usable file, the authorities that are compiled in are used.
            let compiled_in = || webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
            system.and_then(|pem| authorities(&pem).ok()).unwrap_or_else(compiled_in)
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(trusted);
    let config = match shown {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))?,
        None => config.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(store)
}

/// Reads a file that must hold at least one item of this kind: an empty list would be taken for "trust nobody" or "present nothing".
fn pem_with<T: PemObject>(path: &Path, what: &str) -> Result<Vec<u8>, Error> {
    let pem = std::fs::read(path).map_err(Error::io("read", path))?;
    T::from_pem_slice(&pem).map_err(|_| Error::Config(format!("{} holds no {what} in PEM", path.display())))?;
    Ok(pem)
}
