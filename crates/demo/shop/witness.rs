//! What the director notes while it plays: every status that an event comes to, and how often people were told.
//!
//! An event that is exhausted is told in one mail. There is one exception, and it is counted: a mail server knows no
//! transactions, so a relay that is killed when the mail server has taken a mail and before the row says so tells it
//! again. After each kill of the relay its sessions and the mail server come to rest, and then both sides are compared: the
//! events that are in a mail and not noted are those that may be in one more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use anyhow::{Result, ensure};

use super::Shop;
use crate::run::until;

/// All that an event can come to.
const STATUSES: [&str; 7] = ["BLOCKED", "CANCELLED", "DEAD", "FAILED", "NEW", "PROCESSED", "SENT"];

/// The director's notes of one run.
#[derive(Default)]
pub struct Witness {
    /// How often an event was in a mail that its row knew nothing of when the relay was killed.
    untold: Mutex<BTreeMap<String, usize>>,
}

impl Witness {
    /// Begins to take notes.
    pub async fn new(shop: &Shop) -> Result<Witness> {
        shop.product.execute(include_str!("witness.sql")).await?;
        shop.orders.execute(include_str!("witness_orders.sql")).await?;
        Ok(Witness::default())
    }

    /// The statuses that were reached behind a note, and the number of the last note.
    pub async fn reached(&self, shop: &Shop, after: i64) -> Result<(BTreeSet<String>, i64)> {
        let client = shop.product.client().await?;
        let rows = client.query("SELECT DISTINCT status FROM witness WHERE number > $1", &[&after]).await?;
        let last = client.query_one("SELECT coalesce(max(number), 0) FROM witness", &[]).await?.get(0);
        Ok((rows.iter().map(|row| row.get(0)).collect(), last))
    }

    /// How often each event was exhausted.
    async fn deaths(&self, shop: &Shop) -> Result<BTreeMap<String, usize>> {
        let sql = "SELECT id::text, count(*) FROM witness WHERE status = 'DEAD' GROUP BY id";
        let rows = shop.product.client().await?.query(sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as usize)).collect())
    }

    /// To be called when the relay was killed, before it is started again.
    pub async fn relay_was_killed(&self, shop: &Shop) -> Result<()> {
        until("the sessions of the relay to end", async || {
            let sessions = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name LIKE 'headwater%'";
            Ok(shop.product.number(sessions).await? == 0)
        })
        .await?;
        shop.mailbox.come_to_rest().await?;
        let deaths = self.deaths(shop).await?;
        let sql = "SELECT id::text FROM headwater.outbox WHERE status = 'DEAD' AND notified_at IS NULL";
        let mails = shop.mailbox.mails()?;
        for row in shop.product.client().await?.query(sql, &[]).await? {
            let id: String = row.get(0);
            let told = mails.iter().filter(|mail| mail.body.contains(&id)).count();
            let mut untold = self.untold.lock().expect("nobody panics with it");
            let untold = untold.entry(id.clone()).or_default();
            // all deaths but the last are noted, and rightly told
            let noted = deaths.get(&id).map_or(0, |deaths| deaths - 1) + *untold;
            ensure!(
                told == noted || told == noted + 1,
                "event {id} is in {told} mails, of which {noted} are noted"
            );
            *untold += told - noted;
        }
        Ok(())
    }

    /// Events of an article come in their order, except those that are sent again: each of the others was written into the
    /// copy. Equal tables would not say it, since a later event brings what an earlier one should have.
    async fn applied(&self, shop: &Shop) -> Result<()> {
        let first = "SELECT aggregateid || ' ' || (payload->>'version') FROM headwater.outbox
                     WHERE attempt = 1 AND status = 'PROCESSED'";
        let first = shop.product.client().await?.query(first, &[]).await?;
        let applied = "SELECT DISTINCT sku || ' ' || version FROM applied";
        let applied = shop.orders.client().await?.query(applied, &[]).await?;
        let applied: BTreeSet<String> = applied.iter().map(|row| row.get(0)).collect();
        let missing =
            first.iter().map(|row| row.get::<_, String>(0)).find(|change| !applied.contains(change));
        ensure!(missing.is_none(), "a change was confirmed and never written into the copy: {missing:?}");
        Ok(())
    }

    /// What has to hold at the end, of all events of the run. Says what was counted.
    pub async fn sums_up(&self, shop: &Shop) -> Result<()> {
        let (reached, _) = self.reached(shop, 0).await?;
        ensure!(
            reached.iter().map(String::as_str).eq(STATUSES),
            "only these statuses were reached: {reached:?}"
        );
        let left = "SELECT count(*) FROM (SELECT lag(status) OVER (PARTITION BY id ORDER BY number) FROM witness) w (was)
                    WHERE was = 'PROCESSED'";
        ensure!(shop.product.number(left).await? == 0, "an event that was PROCESSED became something else");
        self.applied(shop).await?;
        let (deaths, mails) = (self.deaths(shop).await?, shop.mailbox.mails()?);
        let untold = self.untold.lock().expect("nobody panics with it").clone();
        let ids = shop.product.text("SELECT string_agg(id::text, ' ') FROM headwater.outbox").await?;
        for id in ids.split(' ') {
            let of = |counts: &BTreeMap<String, usize>| counts.get(id).copied().unwrap_or(0);
            let told = mails.iter().filter(|mail| mail.body.contains(id)).count();
            let (died, again) = (of(&deaths), of(&untold));
            ensure!(
                told == died + again,
                "event {id} was exhausted {died} times and is in {told} mails ({again} again)"
            );
        }
        let (died, again): (usize, usize) = (deaths.values().sum(), untold.values().sum());
        shop.stage
            .say(format!("in this run events were exhausted {died} times, and each time told in one mail"));
        if again > 0 {
            shop.stage.say(format!(
                "  but {again} were told twice: the relay was killed when the mail was sent and before it was noted"
            ));
        }
        let reached: Vec<_> = reached.into_iter().collect();
        shop.stage.say(format!("statuses that were reached: {}", reached.join(", ")));
        Ok(())
    }
}
