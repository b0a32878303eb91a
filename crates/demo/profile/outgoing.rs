//! Mails that are written down, and not known to be sent.

use std::time::Duration;

use anyhow::{Context, Result};
use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::Notify;

use crate::database::Database;
use crate::service::Stop;

/// How long before it looks again, or tries again.
const PAUSE: Duration = Duration::from_secs(1);

/// Sends until `stop`, one after the other.
pub async fn send(database: &Database, port: u16, written: &Notify, stop: &Stop) -> Result<()> {
    let server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous("127.0.0.1").port(port).build();
    while !stop.is_wanted() {
        match send_one(database, &server).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "a mail could not be sent yet"),
        }
        tokio::select! {
            () = written.notified() => {}
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.wanted() => {}
        }
    }
    Ok(())
}

/// The oldest mail; false if there is none. The row is locked until the server has it, so that two instances don't send
/// the same one.
async fn send_one(database: &Database, server: &AsyncSmtpTransport<Tokio1Executor>) -> Result<bool> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let row = transaction
        .query_opt(
            "SELECT event_id, address, subject, body FROM mail
             WHERE sent_at IS NULL AND refused IS NULL AND try_at <= now() ORDER BY try_at LIMIT 1
             FOR UPDATE SKIP LOCKED",
            &[],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let event_id: &str = row.get(0);
    let mail = Message::builder()
        .message_id(Some(format!("<{event_id}@mailer.example.com>")))
        .from(Mailbox::new(None, "shop@example.com".parse()?))
        .to(row.get::<_, &str>(1).parse().context("an address that is none")?)
        .subject(row.get::<_, String>(2))
        .body(row.get::<_, String>(3))?;
    match server.send(mail).await {
        Ok(_) => {
            let sent = "UPDATE mail SET sent_at = now() WHERE event_id = $1";
            transaction.execute(sent, &[&event_id]).await?;
        }
        // a mailbox that does not exist, or is full, must not keep the mails of all others waiting
        Err(error) if error.is_permanent() => {
            let refused = "UPDATE mail SET refused = $2 WHERE event_id = $1";
            transaction.execute(refused, &[&event_id, &error.to_string()]).await?;
        }
        Err(error) if error.is_transient() => {
            let later = "UPDATE mail SET try_at = now() + interval '1 minute' WHERE event_id = $1";
            transaction.execute(later, &[&event_id]).await?;
        }
        Err(error) => return Err(error).context("the mail server"),
    }
    transaction.commit().await?;
    Ok(true)
}
