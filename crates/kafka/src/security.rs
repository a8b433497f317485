//! Encryption and identity of a connection: from files or the bytes of a Secret to properties of the client library.
//!
//! [`Credentials::read`] touches files; everything else is plain data. What is secret never appears in `Debug` output or
//! in an error.

use std::fmt;
use std::path::Path;

use scadles_api::worker::{KafkaConfig, KafkaSecurity, SaslMechanism};

use crate::connection::KafkaConnection;
use crate::error::{Error, Result};

const CA_FIELD: &str = "spec.kafka.tls.caSecret";
const SASL_FIELD: &str = "spec.kafka.sasl.secret";

/// What begins a certificate in PEM form.
const PEM_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Bytes that may be secret, with the words for where they come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// Where they come from, for errors: "file /etc/kafka/password", "key password of Secret demo/kafka".
    pub origin: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Material({})", self.origin)
    }
}

/// Which certificates of brokers are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Those that the machine trusts.
    SystemCertificates,
    /// Those that lead to one of these (PEM, one or several).
    Certificates(Material),
}

/// Who the client is to the brokers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How the password is checked.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub username: Material,
    /// Its password.
    pub password: Material,
}

/// Encryption and identity of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `None`: plain text.
    pub tls: Option<Tls>,
    /// `None`: nobody.
    pub sasl: Option<Sasl>,
}

impl Credentials {
    /// Reads the files that `security` names.
    pub fn read(security: &KafkaSecurity) -> Result<Self> {
        let tls = match (security.tls, &security.ca_file) {
            (false, _) => None,
            (true, None) => Some(Tls::SystemCertificates),
            (true, Some(path)) => Some(Tls::Certificates(read(CA_FIELD, path)?)),
        };
        let sasl = match &security.sasl {
            None => None,
            Some(sasl) => Some(Sasl {
                mechanism: sasl.mechanism,
                username: read(SASL_FIELD, &sasl.username_file)?,
                password: read(SASL_FIELD, &sasl.password_file)?,
            }),
        };
        Ok(Self { tls, sasl })
    }
}

fn read(field: &'static str, path: &Path) -> Result<Material> {
    let origin = format!("file {}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => Ok(Material { origin, bytes }),
        Err(error) => {
            let problem = match error.kind() {
                std::io::ErrorKind::NotFound => "is missing".to_owned(),
                _ => format!("cannot be read ({error})"),
            };
            Err(Error::Secret { field, origin, problem })
        }
    }
}

impl KafkaConnection {
    /// The same brokers, reached with `credentials`.
    pub fn with_credentials(mut self, credentials: &Credentials) -> Result<Self> {
        let protocol = match (&credentials.tls, &credentials.sasl) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        };
        let mut set = |key: &str, value: &str| self.properties.insert(key.to_owned(), value.to_owned());
        set("security.protocol", protocol);
        if let Some(Tls::Certificates(material)) = &credentials.tls {
            set("ssl.ca.pem", certificates(material)?);
        }
        if let Some(sasl) = &credentials.sasl {
            set("sasl.mechanism", mechanism(sasl.mechanism));
            set("sasl.username", word(&sasl.username)?);
            set("sasl.password", word(&sasl.password)?);
        }
        Ok(self)
    }
}

impl TryFrom<&KafkaConfig> for KafkaConnection {
    type Error = Error;

    /// Reads the files that the configuration names.
    fn try_from(config: &KafkaConfig) -> Result<Self> {
        let connection = Self::new(&config.bootstrap_servers);
        match &config.security {
            None => Ok(connection),
            Some(security) => connection.with_credentials(&Credentials::read(security)?),
        }
    }
}

fn mechanism(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

/// A user's name or a password: one line, the line's end not part of it.
fn word(material: &Material) -> Result<&str> {
    let text = text(SASL_FIELD, material)?;
    let word = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    match word {
        "" => Err(unusable(SASL_FIELD, material, "is empty")),
        word if word.contains(['\n', '\0']) => Err(unusable(SASL_FIELD, material, "has more than one line")),
        word => Ok(word),
    }
}

fn certificates(material: &Material) -> Result<&str> {
    match text(CA_FIELD, material)? {
        text if text.trim().is_empty() => Err(unusable(CA_FIELD, material, "is empty")),
        text if !text.contains(PEM_CERTIFICATE) || text.contains('\0') => {
            Err(unusable(CA_FIELD, material, "holds no certificate in PEM form"))
        }
        text => Ok(text),
    }
}

fn text<'a>(field: &'static str, material: &'a Material) -> Result<&'a str> {
    std::str::from_utf8(&material.bytes).map_err(|_| unusable(field, material, "is no text"))
}

fn unusable(field: &'static str, material: &Material, problem: &str) -> Error {
    Error::Secret { field, origin: material.origin.clone(), problem: problem.to_owned() }
}

/// Whether the value of a client property stays out of logs and errors.
pub(crate) fn is_secret(property: &str) -> bool {
    ["password", "secret", "pem", "jaas"].iter().any(|part| property.contains(part))
}

impl fmt::Debug for KafkaConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |(key, value): (&String, &String)| format!("{key}={}", if is_secret(key) { "…" } else { value });
        f.debug_struct("KafkaConnection")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .field("properties", &self.properties.iter().map(shown).collect::<Vec<_>>())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn material(text: &str) -> Material {
        Material { origin: "key k of Secret demo/kafka".to_owned(), bytes: text.as_bytes().to_vec() }
    }

    fn of_user(username: &str, password: &str) -> Credentials {
        let sasl = Sasl {
            mechanism: SaslMechanism::ScramSha512,
            username: material(username),
            password: material(password),
        };
        Credentials { tls: Some(Tls::Certificates(material(PEM_CERTIFICATE))), sasl: Some(sasl) }
    }

    fn connect(credentials: &Credentials) -> Result<KafkaConnection> {
        KafkaConnection::new("kafka.demo:9092").with_credentials(credentials)
    }

    fn protocol(tls: bool, sasl: bool) -> String {
        let all = of_user("u", "p");
        let credentials = Credentials { tls: all.tls.filter(|_| tls), sasl: all.sasl.filter(|_| sasl) };
        connect(&credentials).unwrap().properties["security.protocol"].clone()
    }

    #[test]
    fn encryption_and_identity_make_the_protocol() {
        assert_eq!(protocol(false, false), "PLAINTEXT");
        assert_eq!(protocol(true, false), "SSL");
        assert_eq!(protocol(false, true), "SASL_PLAINTEXT");
        assert_eq!(protocol(true, true), "SASL_SSL");
    }

    #[test]
    fn the_end_of_a_line_is_not_part_of_a_password_and_blanks_are() {
        for (given, password) in
            [("geheim\n", "geheim"), ("geheim\r\n", "geheim"), (" ge heim ", " ge heim ")]
        {
            let connection = connect(&of_user("u", given)).unwrap();
            assert_eq!(connection.properties["sasl.password"], password);
        }
    }

    #[test]
    fn a_secret_shows_in_no_output() {
        let credentials = of_user("camera", "geheim");
        let connection = connect(&credentials).unwrap();
        let shown = format!("{connection:?} {credentials:?}");
        assert!(shown.contains("sasl.username=camera") && shown.contains("SCRAM-SHA-512"), "{shown}");
        assert!(!shown.contains("geheim"), "{shown}");
        let error = connect(&of_user("camera", "geheim\nzwei")).unwrap_err().to_string();
        assert!(!error.contains("geheim"), "{error}");
    }

    #[test]
    fn every_unusable_value_is_refused_with_its_origin_and_the_remedy() {
        let pem = |text: &str| Credentials { tls: Some(Tls::Certificates(material(text))), sasl: None };
        let not_text = Material { bytes: vec![0xff], ..material("") };
        let (user, ca) = ((SASL_FIELD, "username"), (CA_FIELD, "ca.crt"));
        for (credentials, (field, remedy), problem) in [
            (of_user("", "p"), user, "is empty"),
            (of_user("u", "\n"), user, "is empty"),
            (of_user("u", "a\nb"), user, "more than one line"),
            (pem(" \n"), ca, "is empty"),
            (pem("MIIB"), ca, "no certificate in PEM form"),
            (Credentials { tls: Some(Tls::Certificates(not_text)), sasl: None }, ca, "is no text"),
        ] {
            let message = connect(&credentials).unwrap_err().to_string();
            for part in [field, problem, "key k of Secret demo/kafka", remedy] {
                assert!(message.contains(part), "{part} is missing in: {message}");
            }
        }
    }

    #[test]
    fn a_file_that_is_missing_is_named_with_the_field_and_the_remedy() {
        let missing = std::env::temp_dir().join("scadles-no-such-folder/ca.crt");
        let security = KafkaSecurity { tls: true, ca_file: Some(missing.clone()), sasl: None };
        let config =
            KafkaConfig { bootstrap_servers: "kafka.demo:9092".to_owned(), security: Some(security) };
        let error = KafkaConnection::try_from(&config).unwrap_err();
        let message = error.to_string();
        for part in [CA_FIELD, &missing.display().to_string(), "is missing", "ca.crt"] {
            assert!(message.contains(part), "{part} is missing in: {message}");
        }
        assert!(!error.is_transient());
    }

    #[test]
    fn a_configuration_without_security_is_plain_text_and_reads_no_file() {
        let config = KafkaConfig { bootstrap_servers: "kafka.demo:9092".to_owned(), security: None };
        assert_eq!(KafkaConnection::try_from(&config).unwrap(), KafkaConnection::new("kafka.demo:9092"));
    }
}
