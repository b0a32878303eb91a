//! One mail to all recipients, over SMTP.

use std::error::Error;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use crate::settings::{MailSettings, MailTls};

/// How long a mail server may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Gives how many recipients the server refused for good while it took the mail for others.
///
/// # Errors
/// Why nobody has it.
pub(crate) async fn post(mail: &MailSettings, subject: &str, body: &str) -> Result<usize, String> {
    let transport = transport(mail)?;
    let server = |error: &dyn Error| format!("the mail server {}:{}: {}", mail.host, mail.port, chain(error));
    let refusal = match transport.send(message(mail, &mail.to, subject, body)?).await {
        Ok(_) => return Ok(0),
        // One recipient that is refused stops a mail for all of them: the others get one each.
        Err(error) if error.is_permanent() && mail.to.len() > 1 => error,
        Err(error) => return Err(server(&error)),
    };
    let (mut taken, mut refused) = (0, 0);
    for to in &mail.to {
        match transport.send(message(mail, std::slice::from_ref(to), subject, body)?).await {
            Ok(_) => taken += 1,
            Err(error) => {
                tracing::error!(
                    recipient = to,
                    error = server(&error),
                    "a recipient was not told of DEAD events"
                );
                refused += 1;
            }
        }
    }
    if taken == 0 { Err(server(&refusal)) } else { Ok(refused) }
}

fn message(mail: &MailSettings, to: &[String], subject: &str, body: &str) -> Result<Message, String> {
    let mailbox =
        |text: &str| text.parse::<Mailbox>().map_err(|error| format!("the address of a mail: {error}"));
    let mut message = Message::builder().from(mailbox(&mail.from)?).subject(subject);
    for to in to {
        message = message.to(mailbox(to)?);
    }
    message.body(body.to_owned()).map_err(|error| format!("writing a mail: {error}"))
}

fn transport(mail: &MailSettings) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let tls = tls(mail).map_err(|error| format!("preparing TLS for {}: {}", mail.host, chain(&error)))?;
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        .timeout(Some(LIMIT))
        .tls(tls);
    if let Some((username, password)) = &mail.login {
        transport = transport.credentials(Credentials::new(username.clone(), password.expose().to_owned()));
    }
    Ok(transport.build())
}

fn tls(mail: &MailSettings) -> Result<Tls, lettre::transport::smtp::Error> {
    if mail.tls == MailTls::None {
        return Ok(Tls::None);
    }
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(pem) = &mail.ca_pem {
        parameters = parameters
            .certificate_store(CertificateStore::None)
            .add_root_certificate(Certificate::from_pem(pem)?);
    }
    let parameters = parameters.build_rustls()?;
    Ok(if mail.tls == MailTls::Starttls { Tls::Required(parameters) } else { Tls::Wrapper(parameters) })
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
