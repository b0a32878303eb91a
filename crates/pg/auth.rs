//! Logging in: SCRAM-SHA-256, bound to the TLS channel where that is possible; the weaker methods only where the
//! settings or the channel allow them; everything else is refused with the reason.
//!
//! The rules are libpq's (`fe-auth.c`), with two differences: MD5 needs consent, and a cleartext password is sent
//! only to a server whose certificate was verified.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::error::{Error, ErrorKind, ServerError};
use crate::settings::{ChannelBinding, ConnectSettings};
use crate::wire::Wire;

/// What is known about the channel over which the password goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    /// It is TLS.
    pub(crate) encrypted: bool,
    /// It is TLS, and the server proved that it is the one that was meant.
    pub(crate) verified: bool,
    /// `tls-server-end-point`, if the certificate has one.
    pub(crate) end_point: Option<Vec<u8>>,
}

/// Answers the server's requests until it says that the role is logged in. The startup message was sent before.
pub(crate) async fn log_in(
    wire: &mut Wire,
    settings: &ConnectSettings,
    channel: &Channel,
) -> Result<(), Error> {
    match read(wire).await? {
        Message::AuthenticationOk => return without_binding(settings, "asked for no password"),
        Message::AuthenticationCleartextPassword => {
            without_binding(settings, "asked for a cleartext password")?;
            if !channel.verified {
                return Err(refused(
                    "the server asks for the password in cleartext, which is sent only over TLS that verifies the \
                     server (sslmode verify-full, or verify-ca with a root file)",
                ));
            }
            let password = password(settings)?;
            wire.send(|out| frontend::password_message(password.as_bytes(), out)).await?;
        }
        Message::AuthenticationMd5Password(body) => {
            without_binding(settings, "asked for an MD5 password")?;
            if !settings.allow_md5 {
                return Err(refused(
                    "the server asks for an MD5 password hash, which is not allowed; give the role a \
                     SCRAM-SHA-256 password, or allow MD5",
                ));
            }
            let hash = md5_hash(settings.user.as_bytes(), password(settings)?.as_bytes(), body.salt());
            wire.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
        }
        Message::AuthenticationSasl(body) => scram(wire, settings, channel, &body).await?,
        Message::AuthenticationGss
        | Message::AuthenticationSspi
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential => {
            return Err(refused(
                "the server asks for GSSAPI, SSPI or Kerberos, which is not supported; use scram-sha-256 or cert in \
                 its pg_hba.conf",
            ));
        }
        _ => return Err(Error::protocol("the server answered the startup with something unexpected")),
    }
    match read(wire).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(Error::protocol("the server answered the password with something unexpected")),
    }
}

/// Logging in without SCRAM is never bound to the channel; who requires that must not be led around it.
fn without_binding(settings: &ConnectSettings, what: &str) -> Result<(), Error> {
    if settings.channel_binding == ChannelBinding::Require {
        return Err(refused(format!("channel binding is required, but the server {what}")));
    }
    Ok(())
}

async fn scram(
    wire: &mut Wire,
    settings: &ConnectSettings,
    channel: &Channel,
    body: &AuthenticationSaslBody,
) -> Result<(), Error> {
    let offered =
        body.mechanisms().map(|mechanism| Ok(mechanism.to_owned())).collect::<Vec<_>>().map_err(|cause| {
            Error::because(ErrorKind::Protocol, "the list of SASL mechanisms cannot be read", cause)
        })?;
    let (mechanism, binding) = choose(&offered, settings.channel_binding, channel)?;
    let mut exchange = sasl::ScramSha256::new(password(settings)?.as_bytes(), binding);
    let not_proved = |cause| Error::because(ErrorKind::Authentication, "the SCRAM exchange failed", cause);
    wire.send(|out| frontend::sasl_initial_response(mechanism, exchange.message(), out)).await?;
    let Message::AuthenticationSaslContinue(body) = read(wire).await? else {
        return Err(Error::protocol("the server broke the SCRAM exchange off"));
    };
    exchange.update(body.data()).map_err(not_proved)?;
    wire.send(|out| frontend::sasl_response(exchange.message(), out)).await?;
    // Without this message the server has not proved that it knows the password, and is not believed.
    let Message::AuthenticationSaslFinal(body) = read(wire).await? else {
        return Err(Error::protocol("the server skipped the end of the SCRAM exchange"));
    };
    exchange.finish(body.data()).map_err(not_proved)
}

/// The mechanism, and what to say about channel binding (RFC 5802, section 6).
///
/// A client that can bind but is offered no -PLUS says "I think you cannot" (`y`). A server that can will then know
/// that somebody in between has cut the offer, and end it: that is the protection against a downgrade.
fn choose(
    offered: &[String],
    wanted: ChannelBinding,
    channel: &Channel,
) -> Result<(&'static str, sasl::ChannelBinding), Error> {
    let offers = |mechanism: &str| offered.iter().any(|name| name == mechanism);
    if !offers(sasl::SCRAM_SHA_256) && !offers(sasl::SCRAM_SHA_256_PLUS) {
        let phrase = format!("the server offers only {}, not SCRAM-SHA-256", offered.join(", "));
        return Err(refused(phrase));
    }
    if offers(sasl::SCRAM_SHA_256_PLUS) && !channel.encrypted {
        return Err(refused(
            "the server offers channel binding on a connection without TLS: not what it seems",
        ));
    }
    let required = wanted == ChannelBinding::Require;
    if required && !channel.encrypted {
        return Err(refused("channel binding is required, but the connection does not use TLS"));
    }
    let end_point = channel.end_point.as_ref().filter(|_| wanted != ChannelBinding::Disable);
    match end_point {
        Some(hash) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            Ok((sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.clone())))
        }
        Some(_) if required => Err(refused("channel binding is required, but the server does not offer it")),
        None if required => {
            Err(refused("channel binding is required, but the server's certificate has no hash to bind to"))
        }
        _ if !offers(sasl::SCRAM_SHA_256) => Err(refused(
            "the server offers only SCRAM-SHA-256-PLUS, and channel binding is off or not possible",
        )),
        Some(_) => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())),
        None => Ok((sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported())),
    }
}

fn password(settings: &ConnectSettings) -> Result<&str, Error> {
    match &settings.password {
        Some(password) => Ok(password.expose()),
        None => Err(refused("the server asks for a password, and none is configured")),
    }
}

async fn read(wire: &mut Wire) -> Result<Message, Error> {
    match wire.read_message().await? {
        Message::ErrorResponse(body) => Err(Error::from_server("to log in", ServerError::parse(&body))),
        message => Ok(message),
    }
}

fn refused(phrase: impl Into<String>) -> Error {
    Error::new(ErrorKind::Authentication, phrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLUS: &str = "SCRAM-SHA-256-PLUS";
    const SCRAM: &str = "SCRAM-SHA-256";

    /// What is said: the mechanism and the first letter of the GS2 header, or part of the refusal.
    fn check(
        offered: &[&str],
        wanted: ChannelBinding,
        channel: &Channel,
        expected: Result<(&str, u8), &str>,
    ) {
        let offered: Vec<_> = offered.iter().map(|&name| name.to_owned()).collect();
        match (choose(&offered, wanted, channel), expected) {
            (Ok((mechanism, binding)), Ok((name, flag))) => {
                let message = sasl::ScramSha256::new(b"p", binding).message().to_vec();
                assert_eq!((mechanism, message[0]), (name, flag), "{offered:?} {wanted:?} {channel:?}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (Ok((mechanism, _)), Err(part)) => panic!("{mechanism}, though {part}"),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }

    #[test]
    fn channel_binding_as_in_libpq() {
        use ChannelBinding::{Disable, Prefer, Require};
        let plain = Channel::default();
        let tls = Channel { encrypted: true, verified: false, end_point: Some(vec![1; 32]) };
        let ed25519 = Channel { encrypted: true, verified: true, end_point: None };
        let both = [PLUS, SCRAM];
        check(&both, Prefer, &tls, Ok((PLUS, b'p')));
        check(&both, Require, &tls, Ok((PLUS, b'p')));
        check(&both, Disable, &tls, Ok((SCRAM, b'n')));
        // The offer may have been cut: say that this side could have.
        check(&[SCRAM], Prefer, &tls, Ok((SCRAM, b'y')));
        check(&[SCRAM], Disable, &tls, Ok((SCRAM, b'n')));
        check(&[SCRAM], Require, &tls, Err("does not offer it"));
        check(&[SCRAM], Prefer, &plain, Ok((SCRAM, b'n')));
        check(&[SCRAM], Require, &plain, Err("does not use TLS"));
        check(&both, Prefer, &plain, Err("without TLS"));
        check(&both, Prefer, &ed25519, Ok((SCRAM, b'n')));
        check(&both, Require, &ed25519, Err("no hash"));
        check(&[PLUS], Disable, &tls, Err("only SCRAM-SHA-256-PLUS"));
        check(&["OAUTHBEARER"], Prefer, &tls, Err("only OAUTHBEARER"));
        check(&[], Prefer, &tls, Err("not SCRAM"));
    }
}
