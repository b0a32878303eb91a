//! The profile: a user service says what changed, and an e-mail service of another team does something about it.

pub mod mailer;
pub mod users;

mod outgoing;
mod schema;
mod script;

use anyhow::{Context, Result};
use clap::Args;

use crate::database::Database;
use crate::run::{Mailbox, Process, Relay, Servers, Stage, argument, prometheus_config, relay_config};

const OUTBOX: &str = include_str!("../../../sql/outbox.sql");

/// What `profile` is called with.
#[derive(Args)]
pub struct Settings {
    #[command(flatten)]
    servers: Servers,
    /// 3,000 changes instead of 80.
    #[arg(long)]
    long: bool,
}

/// What runs, and where to look.
pub struct Profile {
    stage: Stage,
    users: Database,
    mails: Database,
    users_url: String,
    mailer_url: String,
    topic: String,
    processes: Vec<Process>,
    mailbox: Mailbox,
}

/// Starts it, plays the script and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    let profile = Profile::start(&settings.servers).await?;
    let result = profile.stage.play(script::play(&profile, if settings.long { 3000 } else { 80 })).await;
    profile.stage.end(&profile.processes, result).await
}

impl Profile {
    async fn start(servers: &Servers) -> Result<Profile> {
        let stage = Stage::new(servers)?;
        stage.say("a user service, its relay, and the e-mail service of another team");
        let users = stage.create_database("users", &[OUTBOX, include_str!("users.sql")]).await?;
        let mails = stage.create_database("mailer", &[include_str!("mailer.sql")]).await?;
        let [smtp, users_address, relay_address, mailer_address] =
            [stage.address(), stage.address(), stage.address(), stage.address()];
        let (_, smtp_port) = smtp.rsplit_once(':').context("no port")?;
        let mailbox = Mailbox::start(&servers.stack, smtp_port).await?;
        let users_db = stage.database_url(&stage.named("users"))?;
        let mailer_db = stage.database_url(&stage.named("mailer"))?;
        let topic = format!("{}.user.profile.updated", servers.name);
        let subject = format!("{topic}-payload");
        schema::register(&servers.registry, &subject, include_str!("profile.avsc")).await?;
        stage.make_topics(&[&topic, &format!("{topic}.dead")]).await?;
        let config = stage.write("relay.toml", &relay_toml(&stage, &users_db, &relay_address))?;
        let jobs = [("users", &*users_address), ("relay", &relay_address), ("mailer", &mailer_address)];
        stage.write("prometheus.yml", &prometheus_config(&jobs))?;
        let group = format!("{}-mailer", servers.name);
        let processes = vec![
            stage.service(
                "users",
                "owns the profiles",
                &["users", "--listen", &users_address, "--database-url", &users_db],
            )?,
            stage.headwater("relay", "headwater run", &["run", "-c", argument(&config)?])?,
            stage.service(
                "mailer",
                "sends a mail for each change",
                &[
                    "mailer",
                    "--listen",
                    &mailer_address,
                    "--database-url",
                    &mailer_db,
                    "--bootstrap",
                    &servers.bootstrap,
                    "--registry",
                    &servers.registry,
                    "--topic",
                    &topic,
                    "--group",
                    &group,
                    "--subject",
                    &subject,
                    "--smtp-port",
                    smtp_port,
                ],
            )?,
        ];
        let (users_url, mailer_url) = (format!("http://{users_address}"), format!("http://{mailer_address}"));
        let profile = Profile { stage, users, mails, users_url, mailer_url, topic, processes, mailbox };
        for process in &profile.processes {
            process.start()?;
        }
        let relay = format!("http://{relay_address}/readyz");
        for url in
            [format!("{}/healthz", profile.users_url), format!("{}/healthz", profile.mailer_url), relay]
        {
            profile.stage.until_answers(&url).await?;
        }
        Ok(profile)
    }
}

fn relay_toml(stage: &Stage, database_url: &str, listen: &str) -> String {
    let sections = format!(
        r#"[[outbox]]
table = "headwater.outbox"
topic = "{}.user.${{aggregatetype}}.updated"
aggregatetypes = "profile"
payload = "raw"
headers_column = "headers"
status = true
"#,
        stage.servers.name
    );
    let slot = stage.named("users");
    relay_config(
        stage,
        &Relay { database_url, slot: &slot, publication: "headwater_outbox", listen, sections: &sections },
    )
}
