//! Certificates, keys and kubeconfigs of a cluster that lives for hours.
//!
//! In: a folder, the API server's address and who needs a certificate. Out: PEM files and kubeconfigs with everything
//! inside, so that they can be copied. A real authority is needed: rustls refuses the self-signed certificate that the
//! API server makes by itself.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate authority that writes into one folder.
pub(crate) struct Authority<'a> {
    folder: &'a Path,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Whom a certificate names.
pub(crate) struct Subject<'a> {
    /// File name without ending.
    pub(crate) file: &'a str,
    /// Kubernetes' user name.
    pub(crate) user: &'a str,
    /// Kubernetes' group.
    pub(crate) group: Option<&'a str>,
    /// DNS names of a server.
    pub(crate) names: &'a [&'a str],
    /// Addresses of a server.
    pub(crate) addresses: &'a [IpAddr],
}

impl<'a> Authority<'a> {
    /// Makes `ca.crt`, and `sa.key` and `sa.pub` with which service account tokens are signed.
    pub(crate) fn create(folder: &'a Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = named("test-cluster", None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = parameters.self_signed(&key)?.pem();
        write(folder, "ca.crt", &certificate)?;
        let tokens = KeyPair::generate()?;
        write(folder, "sa.key", &tokens.serialize_pem())?;
        write(folder, "sa.pub", &tokens.public_key_pem())?;
        Ok(Self { folder, issuer: Issuer::new(parameters, key), certificate })
    }

    /// Makes `<file>.crt` and `<file>.key`.
    pub(crate) fn issue(&self, subject: &Subject<'_>) -> Result<()> {
        let (certificate, key) = self.sign(subject)?;
        write(self.folder, &format!("{}.crt", subject.file), &certificate)?;
        write(self.folder, &format!("{}.key", subject.file), &key)
    }

    /// Makes the kubeconfig `<file>.conf` of a user.
    pub(crate) fn kubeconfig(&self, server: &str, file: &str, user: &str, group: Option<&str>) -> Result<()> {
        let (certificate, key) = self.sign(&Subject { file, user, group, names: &[], addresses: &[] })?;
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                "certificate-authority-data": STANDARD.encode(&self.certificate),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate-data": STANDARD.encode(certificate),
                "client-key-data": STANDARD.encode(key),
            }}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        });
        write(self.folder, &format!("{file}.conf"), &serde_yaml::to_string(&text)?)
    }

    fn sign(&self, subject: &Subject<'_>) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = named(subject.user, subject.group);
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        for name in subject.names {
            parameters.subject_alt_names.push(SanType::DnsName((*name).try_into()?));
        }
        for address in subject.addresses {
            parameters.subject_alt_names.push(SanType::IpAddress(*address));
        }
        Ok((parameters.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn named(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn write(folder: &Path, file: &str, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(file);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
