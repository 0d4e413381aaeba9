use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A certificate authority of one's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key and that of its authority, in PEM.
#[derive(Clone)]
pub struct Certificate {
    authority: String,
    certificate: String,
    key: String,
}

impl Authority {
    #[expect(clippy::new_without_default, reason = "each has keys of its own")]
    pub fn new() -> Self {
        let mut params = named("authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn certify(&self, name: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let mut params = named(name);
        params.subject_alt_names = CertificateParams::new([name.to_string()]).unwrap().subject_alt_names;
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate { authority: self.0.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// OpenSSL takes a certificate for self-signed that has the name of its issuer.
fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Certificate {
    /// Writes `ca.pem`, `cert.pem` and `key.pem`, and returns their paths.
    pub fn write(&self, directory: &Path) -> [PathBuf; 3] {
        let paths = ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.join(name));
        for (path, pem) in paths.iter().zip([&self.authority, &self.certificate, &self.key]) {
            std::fs::write(path, pem).unwrap();
        }
        paths
    }
}
