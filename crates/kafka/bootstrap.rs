//! The way back to the bootstrap servers for a client that has no brokers left.
//!
//! In: a client that says that all brokers are down and then does nothing. Out: the same client, connecting again.
//!
//! A KRaft broker that is fenced for a moment answers metadata requests with no brokers at all. librdkafka then forgets
//! every broker it knows, and starts over with `bootstrap.servers` by a timer, which the very same answer cancels if
//! the broker's thread was quicker than the main thread; nothing ever starts that timer again, and not a record is
//! delivered (confluentinc/librdkafka#5301, open in 2.12.1 and 2.15.0). Naming the servers again does what the timer
//! should have done, and queue, sequence numbers and order stay as they are.

use std::ffi::CString;

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};

use crate::error::Error;

/// `bootstrap.servers` as librdkafka wants it.
pub(crate) struct BootstrapServers(CString);

impl BootstrapServers {
    pub(crate) fn new(servers: &str) -> Result<BootstrapServers, Error> {
        let native = CString::new(servers)
            .map_err(|_| Error::configuration("reading the bootstrap servers", "they hold a zero byte"))?;
        Ok(BootstrapServers(native))
    }

    /// Makes them known to a client. Those that it knows stay as they are; in a client that has learned other brokers
    /// they are forgotten again with the next metadata.
    ///
    /// librdkafka keeps a copy of the list for each call: not for every tick of a clock.
    #[allow(unsafe_code)]
    pub(crate) fn add_to<C: ClientContext>(&self, client: &Client<C>) {
        // SAFETY: the client is alive, since it is borrowed; the string ends with a zero byte and is copied before the
        // call returns; librdkafka's handles may be used from any thread.
        let known = unsafe { rd_kafka_brokers_add(client.native_ptr(), self.0.as_ptr()) };
        tracing::info!(known, "no broker was left to ask; going back to the bootstrap servers");
    }
}
