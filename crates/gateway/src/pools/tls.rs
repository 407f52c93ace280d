//! TLS to backends: whom they are believed to be, and the certificate that the gateway shows them.
//!
//! Knows files and certificates, nothing of HTTP.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use web::tls::TlsFiles;

use crate::config::BackendConfig;

/// Why no TLS connection to a backend can be made.
#[derive(Debug, thiserror::Error)]
pub enum BackendTlsError {
    #[error("the certificates in {} cannot be used; give PEM", .path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the file {} has no certificate", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("a certificate in {} cannot be used as an authority", .path.display())]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("the key in {} cannot be used; give PEM (PKCS#8, PKCS#1 or SEC1)", .path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the certificate in {} and its key do not belong together", .path.display())]
    Pair {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("this system has no certificate authorities; install them, or give an `authority`")]
    NoSystemAuthorities,
    #[error("TLS is not possible with this build")]
    Protocol(#[source] rustls::Error),
}

/// What a client of one backend needs, without ALPN (the HTTP client adds it), and what keeps its
/// certificate fresh.
pub(super) fn client_config(
    backend: &BackendConfig,
) -> Result<(ClientConfig, Option<Arc<ShownCertificate>>), BackendTlsError> {
    let roots = match &backend.authority {
        Some(path) => Arc::new(authority(path)?),
        // Without TLS nobody is checked; a machine without authorities can still use plain HTTP.
        None if !backend.url.starts_with("https:") => Arc::new(RootCertStore::empty()),
        None => system_authorities()?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(BackendTlsError::Protocol)?
        .with_root_certificates(roots);
    match &backend.certificate {
        None => Ok((builder.with_no_client_auth(), None)),
        Some(files) => {
            let shown = Arc::new(ShownCertificate::read(files.clone())?);
            let resolver: Arc<dyn ResolvesClientCert> = shown.clone();
            Ok((builder.with_client_cert_resolver(resolver), Some(shown)))
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// Read once: it takes some ten milliseconds, and there may be many backends.
fn system_authorities() -> Result<Arc<RootCertStore>, BackendTlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() { Err(BackendTlsError::NoSystemAuthorities) } else { Ok(Arc::clone(roots)) }
}

fn authority(path: &Path) -> Result<RootCertStore, BackendTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| BackendTlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BackendTlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| BackendTlsError::Certificates { path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(BackendTlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(certificates)
}

/// The gateway's own certificate, read anew while it runs: such certificates often live a day.
#[derive(Debug)]
pub(super) struct ShownCertificate {
    files: TlsFiles,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ShownCertificate {
    fn read(files: TlsFiles) -> Result<ShownCertificate, BackendTlsError> {
        let current = RwLock::new(Arc::new(certified_key(&files)?));
        Ok(ShownCertificate { files, current })
    }

    /// New connections use what the files hold now; if that is unusable, what was there before.
    pub(super) fn refresh(&self) -> Result<(), BackendTlsError> {
        let fresh = Arc::new(certified_key(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn certified_key(files: &TlsFiles) -> Result<CertifiedKey, BackendTlsError> {
    let chain = certificates(&files.certificates)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| BackendTlsError::Key { path: files.key.clone(), source })?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|source| BackendTlsError::Pair { path: files.certificates.clone(), source })
}

impl ResolvesClientCert for ShownCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
