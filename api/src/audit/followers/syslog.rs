//! RFC 5424 messages, one a row.
//!
//! Over TCP they are octet-counted (RFC 6587). Syslog has no acknowledgements, so a run of messages has a connection of its own:
//! it is sent, our side is closed, and it counts as delivered when the receiver, having read to the end, closes the other.
//! A receiver that dies in between breaks the connection off instead, and gets the messages again. Over UDP nobody learns of
//! what is lost: at most once on the wire.

use std::{fmt::Write, io, net::SocketAddr, time::Duration};

use chrono::SecondsFormat;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, lookup_host},
};
use tollgate_boot::config::{self, SyslogProtocol};
use tollgate_domain::TenantId;

use super::{Failure, row::Message};

/// Facility 13: log audit.
const FACILITY: u8 = 13;
/// What a datagram carries, its header apart.
const DATAGRAM: usize = 60_000;
/// What a receiver may say before it closes. It has nothing to say.
const CHATTER: u64 = 64 << 10;

#[derive(Debug)]
pub struct Syslog {
    address: String,
    protocol: SyslogProtocol,
    patience: Duration,
}

impl Syslog {
    #[must_use]
    pub fn new(config: &config::Syslog, patience: Duration) -> Self {
        Self { address: config.address.clone(), protocol: config.protocol, patience }
    }

    /// The largest body of a message, where there is a bound.
    #[must_use]
    pub const fn largest(&self) -> Option<usize> {
        match self.protocol {
            SyslogProtocol::Udp => Some(DATAGRAM),
            SyslogProtocol::Tcp => None,
        }
    }

    /// # Errors
    /// When the receiver cannot be reached, or (over TCP) did not read all of it.
    pub async fn send(&self, tenant: TenantId, messages: &[Message]) -> Result<(), Failure> {
        let sending = async {
            match self.protocol {
                SyslogProtocol::Tcp => self.tcp(tenant, messages).await,
                SyslogProtocol::Udp => self.udp(tenant, messages).await,
            }
        };
        match tokio::time::timeout(self.patience, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(Failure::new("the receiver cannot be reached", error))
            }
            Ok(Err(error)) => Err(Failure::new("the connection to the receiver broke off", error)),
            Err(elapsed) => Err(Failure::new("the receiver did not read to the end in time", elapsed)),
        }
    }

    async fn tcp(&self, tenant: TenantId, messages: &[Message]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            let frame = frame(tenant, message);
            bytes.extend_from_slice(format!("{} ", frame.len()).as_bytes());
            bytes.extend_from_slice(&frame);
        }
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        let mut chatter = stream.take(CHATTER);
        tokio::io::copy(&mut chatter, &mut tokio::io::sink()).await?;
        if chatter.limit() == 0 {
            return Err(io::Error::other("the receiver talks instead of closing: it does not speak syslog"));
        }
        Ok(())
    }

    async fn udp(&self, tenant: TenantId, messages: &[Message]) -> io::Result<()> {
        let found = lookup_host(&self.address).await?.next();
        let to = found.ok_or_else(|| io::Error::other("the name has no address"))?;
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        for message in messages {
            let mut frame = frame(tenant, message);
            // An event that does not fit is cut: part of it in time beats none.
            frame.truncate(DATAGRAM + 1024);
            socket.send(&frame).await?;
        }
        Ok(())
    }
}

/// One message: header, structured data, and the row.
fn frame(tenant: TenantId, message: &Message) -> Vec<u8> {
    let priority = FACILITY * 8 + message.severity;
    let at = message.at.to_rfc3339_opts(SecondsFormat::Micros, true);
    // 32473 is the number that RFC 5612 keeps for whoever has none of his own.
    let mut head = format!("<{priority}>1 {at} - tollgate - {} [tollgate@32473", message.kind);
    parameter(&mut head, "tenant", &tenant.to_string());
    parameter(&mut head, "position", &message.position.to_string());
    parameter(&mut head, "id", &message.id);
    if let Some(request) = &message.request {
        parameter(&mut head, "request", request);
    }
    head.push_str("] ");
    let mut frame = head.into_bytes();
    frame.extend_from_slice(&message.body);
    frame
}

fn parameter(head: &mut String, name: &str, value: &str) {
    // Writing to a String does not fail.
    let _ = write!(head, " {name}=\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | ']') {
            head.push('\\');
        }
        head.push(c);
    }
    head.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::formats::fixtures::{opened, tenant};

    #[test]
    fn a_frame_is_a_message_of_rfc_5424() {
        let message = Message {
            position: 12,
            kind: "admin_event",
            id: "evt_1".into(),
            request: Some(r#"a"b\c]d"#.into()),
            severity: 5,
            at: opened(),
            body: r#"{"a":"b"}"#.into(),
        };
        assert_eq!(
            String::from_utf8(frame(tenant(), &message)).unwrap(),
            format!(
                r#"<109>1 2023-11-14T22:13:20.123456Z - tollgate - admin_event [tollgate@32473 tenant="{}" position="12" id="evt_1" request="a\"b\\c\]d"] {{"a":"b"}}"#,
                tenant()
            )
        );
    }
}
