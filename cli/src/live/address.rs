//! `--ui [ADDRESS:PORT]`: where the page is, and who may ask for it. Pure but for [`Address::listen`].

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    str::FromStr,
};

use crate::failure::{Failure, Result};

/// The port of a page whose user has not named one.
pub const DEFAULT_PORT: u16 = 8090;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    socket: SocketAddr,
    /// Whether another port will do.
    port_is_free: bool,
}

impl Default for Address {
    /// This machine alone, on [`DEFAULT_PORT`] or, if that is taken, on a free port.
    fn default() -> Self {
        Self { socket: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DEFAULT_PORT), port_is_free: true }
    }
}

/// Why a text names no place to listen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give an IP address and a port, such as 127.0.0.1:8090, or a port alone; `--ui` without either goes behind the job file"
)]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    /// Only what is written as an address is listened on: a name could turn out to be one that others reach.
    fn from_str(text: &str) -> std::result::Result<Self, NoAddress> {
        let on_loopback = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        let socket = match (text.parse::<SocketAddr>(), port.parse::<u16>(), text.parse::<IpAddr>()) {
            (Ok(socket), ..) => socket,
            (_, Ok(port), _) => on_loopback(port),
            (.., Ok(address)) => {
                return Ok(Self { socket: SocketAddr::new(address, DEFAULT_PORT), port_is_free: true });
            }
            _ => return Err(NoAddress),
        };
        Ok(Self { socket, port_is_free: false })
    }
}

impl Address {
    /// Opens it.
    pub fn listen(&self) -> Result<TcpListener> {
        let listener = match TcpListener::bind(self.socket) {
            Err(error) if self.port_is_free && error.kind() == ErrorKind::AddrInUse => {
                TcpListener::bind((self.socket.ip(), 0))
            }
            other => other,
        };
        listener.map_err(|error| {
            Failure::configuration(
                format!("--ui {}: cannot be listened on: {error}", self.socket),
                "name an address of this machine and a free port, or --ui alone: 127.0.0.1 and a free port",
            )
        })
    }
}

/// Whether a request for this `Host` may be answered by a page that listens on `address`.
///
/// A name that an attacker's page has made to point at this machine (DNS rebinding) is still the attacker's name in this
/// header. So on a loopback address loopback names alone are answered to. On another one, which the user has written out,
/// addresses are as well: an address cannot be made to point anywhere else.
pub fn is_own_name(host: &str, address: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = match literal {
        Some(inner) => inner.parse().map(IpAddr::V6).ok(),
        None => name.parse().map(IpAddr::V4).ok(),
    };
    named.is_some_and(|named: IpAddr| named.is_loopback() || !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> Option<String> {
        text.parse::<Address>().ok().map(|address| address.socket.to_string())
    }

    #[test]
    fn only_what_is_written_as_an_address_is_listened_on() {
        for (text, wanted) in [
            ("127.0.0.1:9000", Some("127.0.0.1:9000")),
            ("9000", Some("127.0.0.1:9000")),
            ("localhost:9000", Some("127.0.0.1:9000")),
            ("0.0.0.0:9000", Some("0.0.0.0:9000")),
            ("0.0.0.0", Some("0.0.0.0:8090")),
            ("[::1]:9000", Some("[::1]:9000")),
            ("example.org:9000", None),
            (":9000", None),
            ("job.yaml", None),
            ("", None),
            ("localhost", None),
        ] {
            assert_eq!(socket(text).as_deref(), wanted, "{text}");
        }
        assert!(Address::default().socket.ip().is_loopback());
    }

    #[test]
    fn a_port_that_is_taken_is_another_one_only_if_none_was_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = taken.local_addr().unwrap();
        let named: Address = socket.to_string().parse().unwrap();
        let failure = named.listen().unwrap_err();
        assert!(failure.message.contains(&format!("--ui {socket}")), "{failure:?}");
        let free = Address { port_is_free: true, ..named }.listen().unwrap();
        assert_ne!(free.local_addr().unwrap(), socket);
    }

    #[test]
    fn only_own_names_are_answered_to() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let everywhere: IpAddr = "0.0.0.0".parse().unwrap();
        for (host, on_loopback, on_all) in [
            ("localhost:8090", true, true),
            ("LOCALHOST", true, true),
            ("127.0.0.1:8090", true, true),
            ("127.9.9.9", true, true),
            ("[::1]:8090", true, true),
            ("192.168.1.7:8090", false, true),
            ("[fe80::1]:8090", false, true),
            ("example.org:8090", false, false),
            ("127.0.0.1.example.org", false, false),
            ("localhost.example.org:8090", false, false),
            ("::1", false, false),
            ("", false, false),
        ] {
            assert_eq!(is_own_name(host, loopback), on_loopback, "{host}");
            assert_eq!(is_own_name(host, everywhere), on_all, "{host}");
        }
    }
}
