//! The profile: a user service says what changed, and an e-mail service of another team does something about it.

pub mod mailer;
pub mod users;

mod dead_letters;
mod outgoing;
mod page;
mod schema;
mod script;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use reqwest::RequestBuilder;
use serde_json::{Value as Json, json};

use crate::database::Database;
use crate::run::{
    Mailbox, Playing, Process, Relay, Scenario, Servers, Settings, Stage, argument, perform,
    prometheus_config, relay_config,
};
use dead_letters::DeadLetters;

const OUTBOX: &str = include_str!("../../../sql/outbox.sql");

/// What runs, and where to look.
pub struct Profile {
    stage: Stage,
    users: Database,
    mails: Database,
    users_url: String,
    mailer_url: String,
    topic: String,
    relay_config: PathBuf,
    dead_letters: DeadLetters,
    processes: Vec<Process>,
    mailbox: Mailbox,
}

/// Starts it, plays the script and ends all of it.
pub async fn run(settings: &Settings) -> Result<()> {
    perform(Profile::start(&settings.servers).await?, &settings.playing).await
}

impl Scenario for Profile {
    const PAGE: &'static str = include_str!("page.html");

    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn mailbox(&self) -> Option<&Mailbox> {
        Some(&self.mailbox)
    }

    async fn state(&self, _: Option<&str>) -> Result<Json> {
        page::state(self).await
    }

    fn buttons() -> Router<Arc<Profile>> {
        page::buttons()
    }

    async fn play(&self, playing: &Playing) -> Result<()> {
        if playing.page_only {
            return script::entered(self).await;
        }
        script::play(self, if playing.long { 1500 } else { 80 }).await
    }
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
        let dead_letters = DeadLetters::read(&servers.bootstrap, &format!("{topic}.dead"))?;
        let relay_config = stage.write("relay.toml", &relay_toml(&stage, &users_db, &relay_address))?;
        let jobs = [("users", &*users_address), ("relay", &relay_address), ("mailer", &mailer_address)];
        stage.write("prometheus.yml", &prometheus_config(&jobs))?;
        let group = format!("{}-mailer", servers.name);
        let processes = vec![
            stage.service(
                "users",
                "owns the profiles",
                &["users", "--listen", &users_address, "--database-url", &users_db],
            )?,
            stage.headwater(
                "relay",
                "headwater run: outbox to Kafka",
                &["run", "-c", argument(&relay_config)?],
            )?,
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
        let profile = Profile {
            stage,
            users,
            mails,
            users_url,
            mailer_url,
            topic,
            relay_config,
            dead_letters,
            processes,
            mailbox,
        };
        for process in &profile.processes {
            process.start()?;
        }
        let relay = format!("http://{relay_address}/readyz");
        for url in
            [format!("{}/healthz", profile.users_url), format!("{}/healthz", profile.mailer_url), relay]
        {
            profile.stage.until_answers(&url, &profile.processes).await?;
        }
        Ok(profile)
    }

    /// Through the user service, as its users would; without an address the event will not fit its schema.
    fn change_request(&self, id: &str, email: Option<&str>, name: &str) -> RequestBuilder {
        let url = format!("{}/users/{id}", self.users_url);
        self.stage.http.put(url).json(&json!({ "email": email, "name": name }))
    }

    /// What an operator asks of the e-mail service: `pause`, `resume`, `replay`.
    fn operator_request(&self, order: &str) -> RequestBuilder {
        self.stage.http.post(format!("{}/{order}", self.mailer_url))
    }

    /// What the e-mail service says of itself.
    async fn metrics(&self) -> Result<String> {
        let answer = self.stage.http.get(format!("{}/metrics", self.mailer_url)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }
}

/// The sum over the labels of a metric whose line contains `part`.
fn sum(metrics: &str, part: &str) -> f64 {
    let lines = metrics.lines().filter(|line| !line.starts_with('#') && line.contains(part));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
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
