//! The certificate of a server, for `tls://` and `wss://`.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::{ServerError, TlsFiles};

/// Reads certificate and key when the server starts, so that whatever is wrong with them is found then.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unusable(&files.cert))?;
    if chain.is_empty() {
        return Err(unusable(&files.cert)("it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unusable(&files.key))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable(&files.cert))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                unusable(&files.key)(format!("it is not the key of {}", files.cert.display()))
            }
            error => unusable(&files.cert)(error.to_string()),
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unusable<E: Display>(path: &Path) -> impl FnOnce(E) -> ServerError {
    move |reason| ServerError::Certificate { path: path.to_owned(), reason: reason.to_string() }
}
