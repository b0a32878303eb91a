//! From a relation id to the plan its rows are written with.
//!
//! `Announced` is a table whose Relation message was read and whose first row has not come: nothing is resolved for a
//! table that only stands in skipped transactions. `Ready` has a plan whose history record is acknowledged.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use headwater_avro::{EnumLabels, FilterPlan, KeyPlan, LinePlan, SchemaId, TableDescription, ValuePlan};
use headwater_pgoutput::{Lsn, RelationId, TableSchema};

use crate::aside_plan::AsidePlan;
use crate::counts::Counts;
use crate::halt::Halt;
use crate::outbox::{EventPlan, EventTopics};
use crate::reselect::ReselectPlan;
use crate::route::topic_taken;
use crate::trace::TraceColumns;

/// How the rows of one version of one table are written, and where they go.
#[derive(Debug)]
pub(crate) struct TablePlan {
    /// `schema.table`, for labels and messages.
    pub(crate) name: String,
    pub(crate) topic: String,
    /// Whether other tables may write to it too.
    pub(crate) shares_topic: bool,
    pub(crate) description: TableDescription,
    /// The labels of enums that the schema lists.
    pub(crate) labels: EnumLabels,
    pub(crate) form: Form,
    /// Which rows become records; none if all do.
    pub(crate) filter: Option<FilterPlan>,
    /// Where a row has its trace context.
    pub(crate) trace: Option<TraceColumns>,
    /// How rows are set aside, where the table's policy says so.
    pub(crate) aside: Option<Box<AsidePlan>>,
    /// How rows are read back for unchanged TOAST values, where that is asked for.
    pub(crate) reselect: Option<Box<ReselectPlan>>,
    /// Records offered since the last report, by operation.
    pub(crate) counts: Counts,
}

impl TablePlan {
    #[inline]
    pub(crate) fn is_unplanned(&self) -> bool {
        matches!(self.form, Form::Unplanned { .. })
    }
}

/// What becomes of a row.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each table, in a box")]
pub(crate) enum Form {
    /// A change record of Kafka.
    Record {
        key: Option<(KeyPlan, SchemaId)>,
        value: ValuePlan,
        /// Meaningless where values aren't Avro, as the key's id is where keys aren't.
        value_id: SchemaId,
        partitions: i32,
        /// Columns whose text chooses the partition in the place of the key.
        partition_by: Vec<usize>,
        /// Where the records of a keyless table go, all of them, so that their order is kept.
        keyless_partition: i32,
    },
    /// A change record as a line of JSON.
    Lines(LinePlan),
    /// An event of the outbox.
    Event(EventPlan, EventTopics),
    /// Nothing: the table is left out by configuration.
    LeftOut,
    /// There is no schema for it, and its policy sets its rows aside. It is asked again after a while.
    Unplanned { reason: String, ask_again: Instant },
}

/// The state of one relation.
#[derive(Debug)]
enum Entry {
    /// Its Relation message came at this point (commit LSN, ordinal); no row has come since.
    Announced(Box<TableSchema>, (Lsn, u64)),
    Ready(Box<TablePlan>),
}

/// The table that came to a topic last.
#[derive(Debug)]
struct Owner {
    name: String,
    relation: RelationId,
    shares_topic: bool,
}

/// Plans by relation; owned by the pump.
#[derive(Debug, Default)]
pub(crate) struct TableCache {
    entries: HashMap<RelationId, Entry, BuildHasherDefault<ById>>,
    /// Which table writes to a topic: two of them would mix two tables' rows, unless both were told so.
    topics: HashMap<String, Owner>,
    /// What was announced last of each.
    schemas: HashMap<RelationId, TableSchema>,
}

impl TableCache {
    /// A Relation message came: the present plan, if any, ends here. Returns it for its last counts.
    pub(crate) fn announce(&mut self, table: TableSchema, at: (Lsn, u64)) -> Option<Box<TablePlan>> {
        self.schemas.insert(table.id, table.clone());
        match self.entries.insert(table.id, Entry::Announced(Box::new(table), at)) {
            Some(Entry::Ready(plan)) => Some(plan),
            _ => None,
        }
    }

    /// What was announced last of a relation.
    pub(crate) fn schema_of(&self, relation: RelationId) -> Option<&TableSchema> {
        self.schemas.get(&relation)
    }

    /// The announcement that must be resolved before a row of this relation can be written; None when it is ready.
    pub(crate) fn unresolved(&self, relation: RelationId) -> Option<(TableSchema, (Lsn, u64))> {
        match self.entries.get(&relation) {
            Some(Entry::Announced(table, at)) => Some(((**table).clone(), *at)),
            _ => None,
        }
    }

    /// The plan for a relation whose announcement was resolved; None when no Relation message ever came.
    #[inline]
    pub(crate) fn plan_for(&mut self, relation: RelationId) -> Option<&mut TablePlan> {
        match self.entries.get_mut(&relation) {
            Some(Entry::Ready(plan)) => Some(plan),
            _ => None,
        }
    }

    /// An announcement was resolved and its history record is acknowledged.
    pub(crate) fn insert(&mut self, relation: RelationId, plan: TablePlan) -> Result<(), Halt> {
        if !matches!(plan.form, Form::Event(..) | Form::LeftOut | Form::Unplanned { .. }) {
            let owner = Owner { name: plan.name.clone(), relation, shares_topic: plan.shares_topic };
            // The same name under another id is the table dropped and created again: its topic goes on.
            if let Some(other) = self.topics.get(&plan.topic)
                && other.name != owner.name
                && other.relation != relation
                && !(other.shares_topic && owner.shares_topic)
            {
                return Err(topic_taken(&other.name, &owner.name, &plan.topic));
            }
            self.topics.insert(plan.topic.clone(), owner);
        }
        self.entries.insert(relation, Entry::Ready(Box::new(plan)));
        Ok(())
    }

    /// Every plan, for its counts.
    pub(crate) fn plans_mut(&mut self) -> impl Iterator<Item = &mut TablePlan> {
        self.entries.values_mut().filter_map(|entry| match entry {
            Entry::Ready(plan) => Some(&mut **plan),
            Entry::Announced(..) => None,
        })
    }

    /// Schema and name of a relation, as it was announced.
    pub(crate) fn name_of(&self, relation: RelationId) -> Option<(&str, &str)> {
        match self.entries.get(&relation)? {
            Entry::Announced(table, _) => Some((&table.namespace, &table.name)),
            Entry::Ready(plan) => Some((&plan.description.schema, &plan.description.table)),
        }
    }
}

/// Looked up for every row. Relation ids are given by the server in ascending order: nobody chooses them to collide.
#[derive(Default)]
struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    #[inline]
    fn write_u32(&mut self, number: u32) {
        // 2^64 divided by the golden ratio: all bits of the product depend on those of the number below them.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
