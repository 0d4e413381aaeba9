//! Why a server could not start.

use std::io;
use std::path::PathBuf;

use super::address::Address;

/// Why a server could not start.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: Address,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An encrypted address was given without a certificate.
    #[error("{address} needs a certificate and its key: give --tls-cert and --tls-key")]
    CertificateMissing {
        /// The address.
        address: Address,
    },
    /// The certificate or the key cannot be used.
    #[error("cannot use {path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The identity is longer than [`IDENTITY_BYTES_MAX`](super::IDENTITY_BYTES_MAX).
    #[error("the identity has {bytes} bytes, the limit is {max}", max = super::IDENTITY_BYTES_MAX)]
    Identity {
        /// Its length.
        bytes: usize,
    },
    /// The address of the metrics and the status page cannot be listened on.
    #[error("cannot serve metrics on {address}: {source}; give another metrics_address, or none")]
    Status {
        /// The address.
        address: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system gave no threads to serve on.
    #[error("cannot start the server's threads: {0}")]
    Threads(io::Error),
}
