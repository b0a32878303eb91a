//! What the profile's page shows, and what its buttons do.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Profile, sum};
use crate::page::ask;
use crate::service::Failure;

const USERS: &str = "SELECT coalesce(json_agg(u ORDER BY id), '[]')::text FROM users u";
/// What the e-mail service knows of each user.
const SEEN: &str = "SELECT coalesce(json_agg(s ORDER BY s.id), '[]')::text FROM (
    SELECT user_id AS id, s.version, count(m.sent_at) AS mails,
           (array_agg(m.address ORDER BY m.at DESC) FILTER (WHERE m.sent_at IS NOT NULL))[1] AS address
    FROM seen s LEFT JOIN mail m USING (user_id) GROUP BY user_id, s.version) s";
/// The newest events. The version is in the payload: how a consumer tells an older one.
const EVENTS: &str = "SELECT coalesce(json_agg(e), '[]')::text FROM (
    SELECT id, to_char(created_at, 'HH24:MI:SS') AS at, aggregateid AS user, payload->'version' AS version,
           payload->'email' AS email, status, attempt
    FROM headwater.outbox ORDER BY created_at DESC LIMIT 12) e";

pub fn buttons() -> Router<Arc<Profile>> {
    Router::new()
        .route("/users", post(change))
        .route("/users/{id}/again", post(again))
        .route("/users/{id}/older", post(older))
        .route("/mailer/{order}", post(order))
}

/// Users, what the e-mail service made of their events, and what it says of itself.
pub async fn state(profile: &Profile) -> Result<Value> {
    // What was made of an event is read before its row: never a mail for an event that is not there.
    let dead_letters = profile.dead_letters.newest();
    let seen: Value = serde_json::from_str(&profile.mails.text(SEEN).await?)?;
    let mails = profile
        .mails
        .client()
        .await?
        .query("SELECT event_id, CASE WHEN refused IS NOT NULL THEN 'refused' WHEN sent_at IS NULL THEN 'to be mailed'
                     ELSE 'mailed' END
             FROM mail ORDER BY at DESC LIMIT 100", &[])
        .await?;
    let mails: BTreeMap<String, String> = mails.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut events: Value = serde_json::from_str(&profile.users.text(EVENTS).await?)?;
    for event in events.as_array_mut().into_iter().flatten() {
        let id = event["id"].as_str().unwrap_or_default();
        let newest = seen.as_array().into_iter().flatten().find(|seen| seen["id"] == event["user"]);
        let newest = newest.and_then(|seen| seen["version"].as_i64());
        let outcome = if dead_letters.iter().any(|letter| letter.event_id == id) {
            "set aside"
        } else {
            match mails.get(id) {
                Some(outcome) => outcome,
                // true of it whether it was read already or is still to come
                None if newest >= event["version"].as_i64() => "passed over",
                None => "waiting",
            }
        };
        event["outcome"] = json!(outcome);
    }
    // nobody else says how far it is
    let mailer = profile.metrics().await.ok().map(|metrics| {
        json!({
            "lag": sum(&metrics, "service_consumer_lag_records"),
            "mailed": sum(&metrics, "\"handled\""),
            "skipped": sum(&metrics, "\"seen_before\""),
            "set_aside": sum(&metrics, "\"dead_letter\""),
            "paused": sum(&metrics, "service_consumer_paused") > 0.0,
        })
    });
    Ok(json!({
        "users": serde_json::from_str::<Value>(&profile.users.text(USERS).await?)?,
        "seen": seen,
        "events": events,
        "dead_letters": dead_letters,
        "mailer": mailer,
    }))
}

#[derive(Deserialize)]
struct Change {
    id: String,
    name: String,
    /// Left out: the event will not fit its schema.
    email: Option<String>,
}

async fn change(
    State(profile): State<Arc<Profile>>,
    Json(change): Json<Change>,
) -> Result<Json<Value>, Failure> {
    let request = profile.change_request(&change.id, change.email.as_deref(), &change.name);
    ask("user service", request).await.map(Json)
}

/// What a relay does that was killed before it noted what it had sent, and here a person by `headwater outbox replay`.
async fn again(State(profile): State<Arc<Profile>>, Path(id): Path<String>) -> Result<(), Failure> {
    let client = profile.users.client().await?;
    let newest = client
        .query_opt(
            "SELECT created_at::text, (created_at + interval '1 microsecond')::text FROM headwater.outbox
             WHERE aggregateid = $1 AND status <> 'NEW' ORDER BY created_at DESC LIMIT 1",
            &[&id],
        )
        .await?;
    drop(client);
    let Some(row) = newest else {
        return Err(Failure::conflict(format!("No event of {id} was sent yet. Is the relay running?")));
    };
    let (from, to): (&str, &str) = (row.get(0), row.get(1));
    profile.stage.outbox(&profile.relay_config, &["replay", "--from", from, "--to", to]).await?;
    Ok(())
}

/// An event that somebody restored from yesterday: no service would send it, so it is put into the outbox by hand.
async fn older(State(profile): State<Arc<Profile>>, Path(id): Path<String>) -> Result<(), Failure> {
    let put = profile
        .users
        .client()
        .await?
        .query_opt(
            "SELECT headwater.outbox_put('profile', $1, 'ProfileUpdated', payload) FROM (
                 SELECT payload FROM headwater.outbox JOIN users ON users.id = aggregateid
                 WHERE aggregateid = $1 AND payload ? 'email' AND (payload->>'version')::bigint < users.version
                 ORDER BY created_at LIMIT 1) older",
            &[&id],
        )
        .await?;
    if put.is_none() {
        return Err(Failure::conflict(format!("{id} has one version only: change the profile first.")));
    }
    Ok(())
}

async fn order(State(profile): State<Arc<Profile>>, Path(order): Path<String>) -> Result<(), Failure> {
    if !matches!(order.as_str(), "pause" | "resume" | "replay") {
        return Err(Failure::not_found("pause, resume or replay"));
    }
    ask("e-mail service", profile.operator_request(&order)).await.map(drop)
}
