//! TLS over a connection that stands. The handshake is proven, the certificate is not judged: a check asks whether
//! the backend serves, and clients ask whom they trust.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::fault::Fault;
use crate::health::{Failure, TlsFault};

/// Makes sessions.
#[derive(Clone)]
pub(super) struct Client(Option<TlsConnector>);

impl Client {
    /// With ring's algorithms.
    pub fn new() -> Self {
        let provider = Arc::new(ring::default_provider());
        let versions =
            ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        // ring knows the ciphers of both versions: this cannot fail, and if it did, every handshake would.
        let config = versions.ok().map(|builder| {
            let verifier = Arc::new(AnyCertificate(provider));
            let mut config =
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            // Every question is asked by a whole handshake.
            config.resumption = Resumption::disabled();
            TlsConnector::from(Arc::new(config))
        });
        Self(config)
    }

    /// A session; `host` is the name that the server is asked for.
    pub async fn connect<S>(
        &self,
        stream: S,
        address: IpAddr,
        host: Option<&str>,
    ) -> Result<TlsStream<S>, Fault>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = host
            .and_then(|host| ServerName::try_from(host.to_owned()).ok())
            .unwrap_or(ServerName::IpAddress(address.into()));
        let connector = self.0.as_ref().ok_or(Failure::Tls(TlsFault::Handshake))?;
        connector.connect(name, stream).await.map_err(fault)
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

fn fault(error: io::Error) -> Fault {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return Fault::Io(error);
    };
    let fault = match tls {
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => TlsFault::NotTls,
        Error::AlertReceived(_) => TlsFault::Refused,
        _ => TlsFault::Handshake,
    };
    Failure::Tls(fault).into()
}

/// Takes any certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
