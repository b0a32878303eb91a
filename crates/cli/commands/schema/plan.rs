//! A plan: what would be registered, how it differs from what is there, and what the registry would say to it.

use std::io::{self, Write};

use headwater_avro::registry::{Registry, RegistryError, Verdict};
use headwater_avro::{OnIncompatible, field_changes, first_difference};
use headwater_pipeline::present::{PresentTable, RecordSchema, Schemas};
use headwater_pipeline::settings::SinkSettings;
use headwater_pipeline::{Halt, Settings};
use serde::Serialize;

use super::changes::{Changed, ChangedTable};
use super::registry_failed;

/// What would be registered.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// Whether a statement was tried.
    statement: bool,
    tables: Vec<TablePlan>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TablePlan {
    table: String,
    /// What the statement did to it.
    changes: Vec<String>,
    subjects: Vec<SubjectPlan>,
    /// Why there is nothing to compare.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// No schema can be made of it.
    impossible: bool,
}

#[derive(Debug, Serialize)]
struct SubjectPlan {
    part: &'static str,
    subject: String,
    state: State,
    /// The version that it is or that it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// The fields that differ from that version.
    fields: Vec<String>,
    /// Of the subject, or the registry's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    compatibility: Option<String>,
    /// The registry's words.
    messages: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// How a schema stands to its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// The subject does not exist.
    New,
    /// The subject has it.
    Same,
    /// The registry would take it.
    Compatible,
    /// The registry would refuse it.
    Incompatible,
}

/// The tables as they are.
pub async fn of_present(
    registry: &Registry,
    settings: &Settings,
    tables: Vec<PresentTable>,
) -> Result<Plan, Halt> {
    let mut plan = Plan::default();
    for table in &tables {
        plan.tables
            .push(table_plan(registry, settings, table, Vec::new()).await.map_err(|e| registry_failed(&e))?);
    }
    Ok(plan)
}

/// The tables that a statement changes.
pub async fn of_change(registry: &Registry, settings: &Settings, changed: Changed) -> Result<Plan, Halt> {
    let (tables, notes) = changed.tables();
    let mut plan = Plan { statement: true, tables: Vec::new(), notes };
    for ChangedTable { name, lines, after } in tables {
        plan.tables.push(match after {
            Some(table) => {
                table_plan(registry, settings, &table, lines).await.map_err(|e| registry_failed(&e))?
            }
            None => {
                TablePlan { table: name, changes: lines, subjects: Vec::new(), note: None, impossible: false }
            }
        });
    }
    Ok(plan)
}

async fn table_plan(
    registry: &Registry,
    settings: &Settings,
    table: &PresentTable,
    changes: Vec<String>,
) -> Result<TablePlan, RegistryError> {
    let mut plan =
        TablePlan { table: table.name(), changes, subjects: Vec::new(), note: None, impossible: false };
    match &table.schemas {
        Schemas::Outbox => {
            plan.note =
                Some("an outbox table: its rows are events, whose subjects are in the rows".to_owned());
        }
        Schemas::Unregistered => plan.note = Some("its values are JSON: nothing is registered".to_owned()),
        Schemas::Impossible(error) => {
            plan.note = Some(error.to_string());
            plan.impossible = true;
        }
        Schemas::Record { key, value } => {
            for (part, schema) in [("key", key.as_ref()), ("value", Some(value))] {
                if let Some(schema) = schema {
                    let mut subject = subject_plan(registry, auto_registers(settings), part, schema).await?;
                    subject.note = note(settings, table, subject.state);
                    plan.subjects.push(subject);
                }
            }
        }
    }
    Ok(plan)
}

/// What the configuration makes of the registry's answer.
fn note(settings: &Settings, table: &PresentTable, state: State) -> Option<&'static str> {
    let relation = &table.relation.table;
    let records = settings.records.records_for(&relation.namespace, &relation.name);
    match state {
        State::Same => None,
        State::Incompatible if records.on_incompatible == OnIncompatible::SetCompatibilityNone => {
            Some("on_incompatible would set this subject's level to NONE and register it")
        }
        State::Incompatible => Some("headwater run would halt at the first row"),
        State::New | State::Compatible if !auto_registers(settings) => Some(
            "auto_register is false: register it before the first row comes (headwater schema show --request)",
        ),
        State::New | State::Compatible => None,
    }
}

fn auto_registers(settings: &Settings) -> bool {
    matches!(&settings.sink, SinkSettings::Kafka { registry: Some(registry), .. } if registry.auto_register)
}

async fn subject_plan(
    registry: &Registry,
    auto_register: bool,
    part: &'static str,
    schema: &RecordSchema,
) -> Result<SubjectPlan, RegistryError> {
    let mut plan = SubjectPlan {
        part,
        subject: schema.subject.0.clone(),
        state: State::New,
        version: None,
        fields: Vec::new(),
        compatibility: None,
        messages: Vec::new(),
        note: None,
    };
    let Some(latest) = registry.latest(&schema.subject).await? else { return Ok(plan) };
    plan.version = Some(latest.version);
    // What needn't be registered is used under the latest version's id.
    let usable = !auto_register && first_difference(&schema.json, &latest.schema).is_none();
    if usable || registry.find(&schema.subject, &schema.json).await?.is_some() {
        plan.state = State::Same;
        return Ok(plan);
    }
    plan.fields = field_changes(&latest.schema, &schema.json);
    plan.compatibility = Some(registry.compatibility(Some(&schema.subject)).await?);
    plan.state = match registry.verdict(&schema.subject, &schema.json).await? {
        Verdict::Compatible => State::Compatible,
        Verdict::Incompatible(messages) => {
            plan.messages = messages;
            State::Incompatible
        }
    };
    Ok(plan)
}

impl Plan {
    /// Whether rows could not go on as they do now.
    pub fn is_refused(&self) -> bool {
        self.count(State::Incompatible) > 0 || self.tables.iter().any(|table| table.impossible)
    }

    fn count(&self, state: State) -> usize {
        let subjects = self.tables.iter().flat_map(|table| &table.subjects);
        subjects.filter(|subject| subject.state == state).count()
    }

    /// For machines.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut out, self)?;
        writeln!(out)
    }

    /// For people.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        for table in &self.tables {
            table.write_text(&mut out)?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        let (new, compatible) = (self.count(State::New), self.count(State::Compatible));
        let refused =
            self.count(State::Incompatible) + self.tables.iter().filter(|table| table.impossible).count();
        let verdict = match (new, compatible, refused) {
            (0, 0, 0) if self.statement && self.tables.is_empty() => {
                "the statement changes no schema of a published table".to_owned()
            }
            (0, 0, 0) => "nothing to register".to_owned(),
            (new, compatible, 0) => format!("{new} new, {compatible} changed, all compatible"),
            (new, compatible, refused) => format!("{new} new, {compatible} changed, {refused} refused"),
        };
        writeln!(out, "{verdict}")
    }
}

impl TablePlan {
    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.table)?;
        for line in &self.changes {
            writeln!(out, "  {line}")?;
        }
        if let Some(note) = &self.note {
            writeln!(out, "  {note}")?;
        }
        for subject in &self.subjects {
            let SubjectPlan { part, subject: name, version, .. } = subject;
            let version = version.unwrap_or_default();
            let level = subject.compatibility.as_deref().unwrap_or_default();
            let state = match subject.state {
                State::New => "is new".to_owned(),
                State::Same => "is registered".to_owned(),
                State::Compatible => format!("differs from version {version}, compatible ({level})"),
                State::Incompatible => format!("differs from version {version}, INCOMPATIBLE ({level})"),
            };
            writeln!(out, "  {part:<5}  {name} {state}")?;
            for line in subject.fields.iter().chain(&subject.messages) {
                writeln!(out, "         {line}")?;
            }
            if let Some(note) = subject.note {
                writeln!(out, "         {note}")?;
            }
        }
        Ok(())
    }
}
