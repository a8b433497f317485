//! Certificates and users of a broker under test that takes TLS and SCRAM only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Result, failed};

/// User of the secured broker.
pub const USER: &str = "scadles";
/// Its password.
pub const PASSWORD: &str = "scadles-secret";

/// Files of a secured broker: what it needs, and the Secrets of its clients as folders.
pub(super) struct SecureFiles {
    dir: PathBuf,
}

impl SecureFiles {
    /// Makes a certificate authority, a certificate for the loopback address, another authority that nobody knows, and
    /// the folders `ca`, `sasl` and `stranger` of clients.
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let files = Self { dir: dir.join("secrets") };
        let folder = |name: &str| files.dir.join(name);
        for name in ["broker", "ca", "sasl", "stranger"] {
            fs::create_dir_all(folder(name)).map_err(|error| failed("make a folder of Secrets", error))?;
        }
        let broker = folder("broker");
        authority(&broker.join("ca.key"), &folder("ca").join("ca.crt"), "scadles tests")?;
        authority(&broker.join("stranger.key"), &folder("stranger").join("ca.crt"), "a stranger")?;
        files.certify(&broker)?;
        let write = |path: PathBuf, text: &str| {
            fs::write(path, text).map_err(|error| failed("write a Secret", error))
        };
        write(folder("sasl").join("username"), USER)?;
        write(folder("sasl").join("password"), PASSWORD)?;
        Ok(files)
    }

    /// The broker's key and certificate, in the one file that Kafka wants.
    fn certify(&self, broker: &Path) -> Result<()> {
        let path = |name: &str| broker.join(name).display().to_string();
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let request = ["-subj", "/CN=kafka", "-keyout", &path("kafka.key"), "-out", &path("kafka.csr")];
        openssl(&[&["req"], &new_key[..], &request].concat())?;
        fs::write(broker.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
            .map_err(|error| failed("write the certificate's names", error))?;
        let authority =
            ["-CA", &self.ca_file().display().to_string(), "-CAkey", &path("ca.key"), "-CAcreateserial"];
        let signed = ["-in", &path("kafka.csr"), "-extfile", &path("names"), "-out", &path("kafka.crt")];
        openssl(&[&["x509", "-req", "-days", "7"], &authority[..], &signed].concat())?;
        let read = |name: &str| fs::read_to_string(broker.join(name));
        read("kafka.key")
            .and_then(|key| fs::write(broker.join("kafka.pem"), key + &read("kafka.crt")?))
            .map_err(|error| failed("join the broker's key and certificate", error))
    }

    /// The folder of the clients' Secrets.
    pub(super) fn folder(&self) -> &Path {
        &self.dir
    }

    pub(super) fn ca_file(&self) -> PathBuf {
        self.dir.join("ca/ca.crt")
    }

    /// What the broker is told; `internal` is the port of its own plain listener, for tools; `controller` what is to be
    /// added to listeners and protocols.
    pub(super) fn properties(&self, port: u16, internal: u16, controller: &(String, &str)) -> String {
        format!(
            "listeners=SECURE://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{internal}{listener}\n\
             advertised.listeners=SECURE://127.0.0.1:{port},PLAINTEXT://127.0.0.1:{internal}\n\
             listener.security.protocol.map=SECURE:SASL_SSL,PLAINTEXT:PLAINTEXT{protocol}\n\
             inter.broker.listener.name=PLAINTEXT\nsasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN\n\
             listener.name.secure.scram-sha-512.sasl.jaas.config={SCRAM} required;\n\
             listener.name.secure.scram-sha-256.sasl.jaas.config={SCRAM} required;\n\
             listener.name.secure.plain.sasl.jaas.config={PLAIN} required user_{USER}=\"{PASSWORD}\";\n\
             ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n",
            listener = controller.0,
            protocol = controller.1,
            keystore = self.dir.join("broker/kafka.pem").display(),
        )
    }

    /// Arguments of `kafka-storage format` that make the user.
    pub(super) fn users() -> Vec<String> {
        ["SCRAM-SHA-512", "SCRAM-SHA-256"]
            .into_iter()
            .flat_map(|mechanism| {
                ["--add-scram".to_owned(), format!("{mechanism}=[name={USER},password={PASSWORD}]")]
            })
            .collect()
    }
}

const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule";
const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule";

fn authority(key: &Path, certificate: &Path, name: &str) -> Result<()> {
    let (key, certificate) = (key.display().to_string(), certificate.display().to_string());
    let subject = format!("/CN={name}");
    let kind =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "7"];
    openssl(&[&kind[..], &["-subj", &subject, "-keyout", &key, "-out", &certificate]].concat())
}

fn openssl(arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed("run openssl, which makes certificates for a test", error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(&format!("run openssl {arguments:?}"), String::from_utf8_lossy(&output.stderr)))
}
