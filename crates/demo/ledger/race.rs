//! Two commands on one version of an order, as two instances of the order service would meet: both read it, both decide,
//! and one of them is too late.

use anyhow::Result;
use serde::Serialize;
use tokio_postgres::Client;

use super::order::{Command, Order};
use super::store::{self, Appended};
use crate::database::Database;
use crate::service::Failure;

/// How often the one that was too late decides again.
const TRIES: usize = 10;

/// What one of them did, step by step.
#[derive(Serialize)]
pub struct Runner {
    pub wants: &'static str,
    pub steps: Vec<String>,
}

/// One places the order, the other adds a line to it: whoever comes second decides on another order than it had read.
pub async fn run(one: &Database, two: &Database, id: &str) -> Result<[Runner; 2], Failure> {
    let (mut one, mut two) = (one.client().await?, two.client().await?);
    let (seen, also_seen) = (store::load(&*one, id).await?, store::load(&*two, id).await?);
    let line = Command::AddLine { sku: "bucket".to_owned(), quantity: 1, cents: 990 };
    if let Err(why) = seen.decide(Command::Place) {
        return Err(Failure::conflict(format!(
            "This order can't be placed: {why}. Choose one that is open."
        )));
    }
    let mut first = Runner { wants: "place the order", steps: Vec::new() };
    let mut second = Runner { wants: "add a bucket", steps: Vec::new() };
    let (begun, also_begun) = tokio::join!(
        first.attempt(&mut one, id, &seen, Command::Place),
        second.attempt(&mut two, id, &also_seen, line.clone()),
    );
    if begun? == Some(Appended::Conflict) {
        first.again(&mut one, id, Command::Place).await?;
    }
    if also_begun? == Some(Appended::Conflict) {
        second.again(&mut two, id, line).await?;
    }
    Ok([first, second])
}

impl Runner {
    /// None: the order's rules refuse the command.
    async fn attempt(
        &mut self,
        client: &mut Client,
        id: &str,
        order: &Order,
        command: Command,
    ) -> Result<Option<Appended>> {
        let (seen, next) = (order.version, order.version + 1);
        let event = match order.decide(command) {
            Ok(event) => event,
            Err(why) => {
                self.steps.push(format!("reads version {seen}, and is refused: {why}"));
                return Ok(None);
            }
        };
        let appended = store::append(client, id, order, &event, None).await?;
        self.steps.push(match appended {
            Appended::Done => format!("reads version {seen}, and its event becomes version {next}"),
            Appended::Conflict => {
                format!("reads version {seen}, but somebody else has written version {next}")
            }
        });
        Ok(Some(appended))
    }

    /// Looks again and decides again, until it is done or refused.
    async fn again(&mut self, client: &mut Client, id: &str, command: Command) -> Result<()> {
        for _ in 0..TRIES {
            let order = store::load(&*client, id).await?;
            if self.attempt(client, id, &order, command.clone()).await? != Some(Appended::Conflict) {
                break;
            }
        }
        Ok(())
    }
}
