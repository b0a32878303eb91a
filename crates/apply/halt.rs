//! Why applying can't go on: what waiting mends, and what a person has to.

use std::fmt;

/// What a person has to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HaltCause {
    /// The target's role lacks a right, or its login was refused.
    TargetRights,
    /// The target database refused for another reason that repeating won't mend.
    TargetError,
    /// A table is missing or doesn't fit its topic, and may not be made or altered.
    TargetUnsuitable,
    /// A record that can't be applied.
    Record,
    /// The offsets in the database don't fit the topic.
    Offsets,
    /// Kafka refused.
    Kafka,
    /// The registry refused.
    Registry,
}

/// The end of `headwater apply`, told to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// For machines.
    pub cause: HaltCause,
    /// What happened and where: table, topic, partition, offset. Never a value.
    pub what: String,
    /// What can be done about it.
    pub advice: String,
}

impl Halt {
    pub(crate) fn new(cause: HaltCause, what: impl Into<String>, advice: impl Into<String>) -> Halt {
        Halt { cause, what: what.into(), advice: advice.into() }
    }
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Halt {}

/// What ends a session; the loop in `run.rs` decides by it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database or the registry is away: wait, claim the partitions again, go on from the offsets there.
    Away(String),
    /// Somebody else has claimed a partition: join the group anew.
    Fenced(String),
    /// A record that the database or its schema refuses; in a batch of several, nobody knows yet which.
    Refused(Refusal),
    /// A person is needed.
    Halt(Halt),
}

/// Why a record can't be applied. Never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Where in its way it failed: `decode`, `apply`, `event`.
    pub(crate) stage: &'static str,
    /// The target table, if it is known.
    pub(crate) table: Option<String>,
    pub(crate) reason: String,
}

impl From<Halt> for Failure {
    fn from(halt: Halt) -> Failure {
        Failure::Halt(halt)
    }
}

/// An error of the target database, sorted. `doing` says what was under way.
pub(crate) fn of_postgres(error: &headwater_pg::Error, doing: &str, table: Option<&str>) -> Failure {
    let words =
        error.server().map_or_else(|| with_causes(error), |server| named(&server.code, &server.message));
    if error.is_transient() {
        return Failure::Away(format!("{doing}: {words}"));
    }
    let code = error.sqlstate().unwrap_or_default();
    // Data exceptions, integrity violations, limits of a row and what triggers raise are about rows, and the server's
    // words may quote them. 21000 is two keys of a batch that are one to the table (1.0 and 1.00).
    if ["22", "23", "54", "P0"].iter().any(|class| code.starts_with(class)) || code == "21000" {
        let constraint = match code {
            "23505" => ": another unique constraint than the key's",
            "23503" => {
                ": a foreign key; tables of a replica must not have them, since topics are not applied in step"
            }
            "23502" => ": a NOT NULL column got a NULL",
            "23514" => ": a CHECK constraint",
            "22003" => ": a number is out of the column's range",
            "22001" => ": a text is too long for its column",
            "54000" => ": a limit of the server, such as the size of an index's entry",
            "P0001" => ": raised by a trigger",
            _ => "",
        };
        let reason = format!("the database refuses the row (SQLSTATE {code}{constraint})");
        return Failure::Refused(Refusal { stage: "apply", table: table.map(str::to_owned), reason });
    }
    let rights = error.kind() == headwater_pg::ErrorKind::Authentication || code == "42501";
    let (cause, advice) = if rights {
        (
            HaltCause::TargetRights,
            "grant the role of target.url what the message names; docs/APPLY.md lists the rights",
        )
    } else {
        (HaltCause::TargetError, "the server's own words say what is wrong")
    };
    Failure::Halt(Halt::new(cause, format!("{doing}: {words}"), advice))
}

fn named(code: &str, message: &str) -> String {
    format!("SQLSTATE {code}: {message}")
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
