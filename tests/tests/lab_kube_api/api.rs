//! What somebody with kubectl would ask of an API server, and how: raw paths, server-side apply, strict validation.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use xdp_lb_tests::lab::http;

/// An API server, asked as its administrator.
#[derive(Clone, Debug)]
pub struct Api {
    at: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Api {
    pub fn at(at: SocketAddr) -> Result<Self> {
        let crypto = Arc::new(ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(Arc::clone(&crypto)).with_safe_default_protocol_versions()?;
        let tls = tls.dangerous().with_custom_certificate_verifier(Arc::new(AsKubeconfig(crypto)));
        Ok(Self { at, tls: Arc::new(tls.with_no_client_auth()) })
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> Result<(u16, String)> {
        let stream = TcpStream::connect_timeout(&self.at, http::BOUND)?;
        stream.set_read_timeout(Some(http::BOUND))?;
        stream.set_nodelay(true)?;
        let tls = ClientConnection::new(Arc::clone(&self.tls), self.at.ip().into())?;
        // HTTP/1.0: the answer comes in one piece.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nAuthorization: Bearer admin\r\nAccept: application/json\r\n{more}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        http::exchange(StreamOwned::new(tls, stream), &request).with_context(|| format!("{method} {path}"))
    }

    /// What is at a path; `None` where nothing is.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.ask("GET", path, "", "")? {
            (404, _) => Ok(None),
            (200, body) => Ok(Some(serde_json::from_str(&body)?)),
            (status, body) => bail!("{path}: {status} {body}"),
        }
    }

    /// The status that the API server answers with, and what it says.
    pub fn says(&self, path: &str) -> Result<(u16, String)> {
        self.ask("GET", path, "", "")
    }

    /// Items of the list at a path.
    pub fn list(&self, path: &str) -> Result<Vec<Value>> {
        let list = self.get(path)?.with_context(|| format!("{path} is not there"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies an object, and writes its status where it has one. When the last answer came.
    pub fn put(&self, object: &Value) -> Result<Instant> {
        let mut spec = object.clone();
        let status = spec.as_object_mut().and_then(|object| object.remove("status"));
        let path = path(object);
        self.patch(
            "apply-patch+yaml",
            &format!("{path}?fieldManager=test&force=true&fieldValidation=Strict"),
            &spec,
        )?;
        if let Some(status) = status.filter(|status| !status.is_null()) {
            // A Node has two addresses of one type, which cannot be applied: the kubelet writes them so, too.
            self.patch("merge-patch+json", &format!("{path}/status"), &json!({ "status": status }))?;
        }
        Ok(Instant::now())
    }

    fn patch(&self, how: &str, path: &str, object: &Value) -> Result<()> {
        let kind = format!("Content-Type: application/{how}\r\n");
        let (status, said) = self.ask("PATCH", path, &kind, &object.to_string())?;
        ensure!(matches!(status, 200 | 201), "{path}: {status} {said}");
        Ok(())
    }

    pub fn remove(&self, path: &str) -> Result<()> {
        let (status, said) = self.ask("DELETE", path, "", "")?;
        ensure!(status == 200, "delete {path}: {status} {said}");
        Ok(())
    }
}

/// Where an object is.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map_or_else(String::new, |name| format!("namespaces/{name}/"));
    let plural = text(&object["kind"]).to_lowercase() + "s";
    format!("/{root}/{version}/{namespace}{plural}/{}", text(&object["metadata"]["name"]))
}

/// Whoever says it is the server is believed, as the kubeconfigs of this server have it; what it signs is looked at.
#[derive(Debug)]
struct AsKubeconfig(Arc<CryptoProvider>);

impl ServerCertVerifier for AsKubeconfig {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
