//! An order as its events make it. Pure: no database, no clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What has happened. Names and fields are stored for ever: they are added to, and never changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type", content = "payload")]
pub enum Event {
    LineAdded { sku: String, quantity: i64, cents: i64 },
    LineRemoved { sku: String },
    Placed {},
    Paid { cents: i64 },
    Cancelled { reason: String },
}

/// What somebody wants.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    AddLine { sku: String, quantity: u16, cents: u32 },
    RemoveLine { sku: String },
    Place,
    Pay,
    Cancel { reason: String },
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Open,
    Placed,
    Paid,
    Cancelled,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Line {
    pub quantity: i64,
    pub cents: i64,
}

/// The state: a fold of the events.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Order {
    /// How many events are in it.
    pub version: i32,
    pub status: Status,
    pub lines: BTreeMap<String, Line>,
    pub total_cents: i64,
}

impl Order {
    /// The next event. It has happened: nothing is refused here.
    pub fn apply(&mut self, event: &Event) {
        self.version += 1;
        match event {
            Event::LineAdded { sku, quantity, cents } => {
                let line = self.lines.entry(sku.clone()).or_default();
                line.quantity += quantity;
                line.cents += cents;
            }
            Event::LineRemoved { sku } => {
                self.lines.remove(sku);
            }
            Event::Placed {} => self.status = Status::Placed,
            Event::Paid { .. } => self.status = Status::Paid,
            Event::Cancelled { .. } => self.status = Status::Cancelled,
        }
        self.total_cents = self.lines.values().map(|line| line.cents).sum();
    }

    /// What a command would make happen, or why not.
    pub fn decide(&self, command: Command) -> Result<Event, &'static str> {
        use Status::{Cancelled, Open, Paid, Placed};
        match (command, self.status) {
            (Command::AddLine { sku, quantity, cents }, Open) => {
                Ok(Event::LineAdded { sku, quantity: quantity.into(), cents: cents.into() })
            }
            (Command::RemoveLine { sku }, Open) if self.lines.contains_key(&sku) => {
                Ok(Event::LineRemoved { sku })
            }
            (Command::RemoveLine { .. }, Open) => Err("there is no such line"),
            (Command::Place, Open) if self.lines.is_empty() => Err("an empty order can't be placed"),
            (Command::Place, Open) => Ok(Event::Placed {}),
            (Command::Pay, Placed) => Ok(Event::Paid { cents: self.total_cents }),
            (Command::Cancel { reason }, Open | Placed) => Ok(Event::Cancelled { reason }),
            (Command::Cancel { .. }, Paid) => Err("it is paid"),
            (_, Cancelled) => Err("it is cancelled"),
            (Command::AddLine { .. } | Command::RemoveLine { .. } | Command::Place, Placed | Paid) => {
                Err("it is placed")
            }
            (Command::Pay, Open) => Err("it is not placed"),
            (Command::Pay, Paid) => Err("it is paid"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(commands: &[&str], expected: Result<(Status, i64), &str>) {
        let mut order = Order::default();
        let mut outcome = Ok(());
        for command in commands {
            let command: Command = serde_json::from_str(command).expect("a command");
            outcome = order.decide(command).map(|event| order.apply(&event));
        }
        assert_eq!(outcome.map(|()| (order.status, order.total_cents)), expected, "{commands:?}");
    }

    const ROPE: &str = r#"{"command": "add_line", "sku": "rope", "quantity": 2, "cents": 500}"#;
    const NO_ROPE: &str = r#"{"command": "remove_line", "sku": "rope"}"#;
    const PLACE: &str = r#"{"command": "place"}"#;
    const PAY: &str = r#"{"command": "pay"}"#;
    const CANCEL: &str = r#"{"command": "cancel", "reason": "too late"}"#;

    #[test]
    fn commands_become_events_or_are_refused() {
        check(&[ROPE], Ok((Status::Open, 500)));
        check(&[ROPE, ROPE, PLACE, PAY], Ok((Status::Paid, 1000)));
        check(&[ROPE, NO_ROPE], Ok((Status::Open, 0)));
        check(&[ROPE, PLACE, CANCEL], Ok((Status::Cancelled, 500)));
        check(&[NO_ROPE], Err("there is no such line"));
        check(&[PLACE], Err("an empty order can't be placed"));
        check(&[ROPE, PAY], Err("it is not placed"));
        check(&[ROPE, PLACE, ROPE], Err("it is placed"));
        check(&[ROPE, PLACE, PAY, CANCEL], Err("it is paid"));
        check(&[CANCEL, ROPE], Err("it is cancelled"));
    }
}
