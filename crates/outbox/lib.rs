//! The life of an outbox row after it was written: NEW, SENT, PROCESSED; or FAILED, sent again, and in the end DEAD.
//!
//! In: what the pipeline has sent ([`headwater_pipeline::sent`]), the position it has confirmed, the answers of
//! consumers. Out: statuses in the rows, rows that are written again, notifications. Invariants:
//! - SENT is written only of events that Kafka has and whose position is stored.
//! - Nothing here is on the way of data: what can't be written now is written later, or found again in the rows. Only an
//!   event that was set aside makes the stream wait until its row is DEAD.
//! - An event is sent again by writing its row again, so it takes the same way as the first time.
//!
//! The modules in reading order:

pub mod settings;

pub mod table;

mod pause;

mod mark_sent;

mod aside;

pub mod reconcile;

mod policy;

mod answer;

mod answer_reader;

mod life;

pub mod listing;

mod answers;

mod letters;

mod feedback;

pub mod resend;

mod attempts;

mod mail;

mod notify;

mod run;

pub use life::Status;
pub use policy::{Policies, Policy, ProcessedWhen};
pub use run::run;
pub use settings::{FeedbackSettings, MailSettings, MailTls, NotifySettings, Settings};
