//! What went wrong in Kafka, and the one place that decides what may be done about it.
//!
//! In: librdkafka's codes. Out: an [`Error`] with a [`Class`] (what the caller does), an [`ErrorKind`] (what it
//! is) and advice where a human has to act. No error text holds a key, a value or a secret.

use std::fmt;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// What the caller may do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The cause is outside and passes: the same thing may be tried again later.
    ///
    /// Of a delivery, which librdkafka has already retried, it says the same as [`Class::Rebuild`].
    Retriable,
    /// It fails again in the same way until a human changes a right, a topic, a setting or a row.
    Fatal,
    /// This client can't continue without losing the order: drop it and start again from the checkpoint.
    Rebuild,
}

/// What an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A property, a topic's setting or a value that is refused.
    Configuration,
    /// No broker answered in time.
    Unreachable,
    /// The credentials or certificates were refused.
    Authentication,
    /// The principal lacks a right (an ACL).
    NotAuthorized,
    /// The topic or the partition doesn't exist.
    UnknownTopic,
    /// The record is larger than this client, the topic or the broker accepts.
    TooLarge,
    /// The cluster can't do it at the moment.
    Unavailable,
    /// The record was dropped unsent because the producer was purged.
    Purged,
    /// The idempotent producer's sequence is broken.
    Sequence,
    /// Anything else.
    Other,
}

/// An error of Kafka or of librdkafka.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq)]
struct Inner {
    code: Code,
    kind: ErrorKind,
    class: Class,
    /// What was being done, in the present tense.
    doing: String,
    /// librdkafka's own words, if it said more than the code.
    reason: String,
}

impl Error {
    /// What the caller may do.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// What the error is about.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether there is no such topic, or no such partition of it.
    pub fn is_unknown_topic(&self) -> bool {
        matches!(self.0.code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
    }

    /// The name of librdkafka's code, for the `errors by class` metric and logs.
    pub fn code(&self) -> String {
        format!("{:?}", self.0.code)
    }

    /// What a human can do about it; `None` where waiting or a restart is enough.
    pub fn advice(&self) -> Option<&'static str> {
        advice(self.0.kind, self.0.code)
    }

    /// An error known by its code.
    pub(crate) fn from_code(code: Code, doing: impl Into<String>, reason: impl Into<String>) -> Error {
        let (class, kind) = classify(code);
        Error(Box::new(Inner { code, kind, class, doing: doing.into(), reason: reason.into() }))
    }

    /// A setting, topic name or configuration that can't work.
    pub(crate) fn configuration(doing: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::from_code(Code::InvalidArgument, doing, reason)
    }

    /// The producer's fatal error: the cause decides whether a new producer can do better.
    pub(crate) fn producer_fatal(cause: Code, doing: impl Into<String>, reason: impl Into<String>) -> Error {
        let mut error = Error::from_code(cause, doing, reason);
        if error.0.class != Class::Fatal {
            error.0.class = Class::Rebuild;
        }
        error
    }

    /// What rdkafka says, without the values of properties.
    pub(crate) fn from_rdkafka(error: &KafkaError, doing: impl Into<String>) -> Error {
        match error {
            KafkaError::ClientConfig(_, _, name, _) if crate::is_secret_property(name) => {
                Error::configuration(
                    doing,
                    format!("the value of {name} is refused (not shown: it is a secret)"),
                )
            }
            KafkaError::ClientConfig(_, reason, ..) => Error::configuration(doing, reason),
            KafkaError::ClientCreation(reason) | KafkaError::AdminOpCreation(reason) => {
                Error::configuration(doing, reason)
            }
            KafkaError::Nul(_) => Error::configuration(doing, "a name contains a NUL byte"),
            KafkaError::Canceled => Error::from_code(Code::OperationTimedOut, doing, "no answer in time"),
            other => Error::from_code(other.rdkafka_error_code().unwrap_or(Code::Fail), doing, ""),
        }
    }

    /// Whether more is known than the code.
    pub(crate) fn has_reason(&self) -> bool {
        !self.0.reason.is_empty()
    }

    /// The same error with a reason that was learned elsewhere (a connection's error event).
    pub(crate) fn because(mut self, cause: Option<(Code, String)>) -> Error {
        let Some((code, reason)) = cause else { return self };
        if self.0.kind == ErrorKind::Unreachable && classify(code).1 != ErrorKind::Other {
            (self.0.class, self.0.kind) = classify(code);
            self.0.code = code;
        }
        self.0.reason = reason;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if inner.code == Code::InvalidArgument {
            return write!(f, "{}: {}", inner.doing, inner.reason);
        }
        write!(f, "{}: {}", inner.doing, description(inner.code))?;
        if inner.reason.is_empty() { Ok(()) } else { write!(f, " ({})", inner.reason) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}, {:?}, {self})", self.0.class, self.0.kind)
    }
}

impl std::error::Error for Error {}

/// librdkafka's sentence for a code, without rdkafka's name in front.
fn description(code: Code) -> String {
    let text = code.to_string();
    match text.split_once(" (").and_then(|(_, rest)| rest.strip_suffix(')')) {
        Some(sentence) => sentence.to_owned(),
        None => text,
    }
}

/// The class and the kind of every code that librdkafka knows.
///
/// `message.timeout.ms` is 0 and retries are unlimited, so a produce error reaches this table only after
/// librdkafka has judged it permanent for the record, or for the whole producer.
fn classify(code: Code) -> (Class, ErrorKind) {
    use Class::{Fatal, Rebuild, Retriable};
    use ErrorKind::*;
    match code {
        // The connection or the name service: nothing was decided about the request.
        Code::BrokerTransportFailure
        | Code::Resolve
        | Code::AllBrokersDown
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::NetworkException
        | Code::UnknownBroker
        | Code::NodeUpdate
        | Code::RebootstrapRequired => (Retriable, Unreachable),

        // The cluster is electing, loading, short of replicas or throttling; it says so itself and recovers.
        Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::RequestTimedOut
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::StaleControllerEpoch
        | Code::StaleBrokerEpoch
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::ISRInsufficient
        | Code::NotController
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        | Code::ReassignmentInProgress
        | Code::NoReassignmentInProgress
        | Code::ListenerNotFound
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable
        | Code::ElectionNotNeeded
        | Code::ThrottlingQuotaExceeded
        | Code::WaitingForCoordinator
        | Code::WaitCache
        | Code::OperationNotAttempted
        | Code::InconsistentVoterSet
        | Code::UnstableOffsetCommit
        | Code::CriticalSystemResource => (Retriable, Unavailable),

        // librdkafka's own queues and moments: the same call succeeds later.
        Code::QueueFull
        | Code::InProgress
        | Code::PreviousInProgress
        | Code::Interrupted
        | Code::Retry
        | Code::Partial
        | Code::Noop
        | Code::PartitionEOF
        | Code::NoOffset
        | Code::RebalanceInProgress
        | Code::AssignPartitions
        | Code::RevokePartitions
        | Code::AssignmentLost
        | Code::PollExceeded
        | Code::FetchSessionIdNotFound
        | Code::InvalidFetchSessionEpoch
        | Code::UnknownSubscriptionId
        | Code::TelemetryTooLarge
        | Code::NoError => (Retriable, Other),

        // A corrupt frame: TCP's checksum let it through once, and a new connection reads it well.
        Code::BadMessage | Code::InvalidMessage | Code::InvalidMessageSize | Code::Underflow => {
            (Rebuild, Other)
        }

        // The record was given back undelivered: only the checkpoint knows where to go on.
        Code::PurgeQueue | Code::PurgeInflight | Code::BrokerDestroy | Code::DestroyBroker => {
            (Rebuild, Purged)
        }
        // Never with message.timeout.ms = 0; were it to come, later records may have overtaken this one.
        Code::MessageTimedOut => (Rebuild, Unavailable),

        // The idempotent producer and the broker disagree on a sequence: another producer id starts anew, from
        // the checkpoint. This includes ids the broker forgot while nothing was produced for days.
        Code::Fatal
        | Code::GaplessGuarantee
        | Code::Inconsistent
        | Code::Fenced
        | Code::State
        | Code::Outdated
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping
        | Code::UnknownProducerId
        | Code::ProducerFenced
        | Code::InvalidTransactionalState
        | Code::ConcurrentTransactions
        | Code::TransactionCoordinatorFenced => (Rebuild, Sequence),

        // Group membership: the one consumer here assigns itself, so these only say that it must start again.
        Code::IllegalGeneration
        | Code::InconsistentGroupProtocol
        | Code::UnknownMemberId
        | Code::MemberIdRequired
        | Code::GroupMaxSizeReached
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::UnreleasedInstanceId
        | Code::UnsupportedAssignor
        | Code::UnknownGroup
        | Code::GroupIdNotFound
        | Code::NonEmptyGroup
        | Code::GroupSubscribedToTopic
        | Code::ExistingSubscription
        | Code::Conflict => (Rebuild, Other),

        // Somebody deleted or shrank the topic. What was acknowledged there is gone with it: a human decides.
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::ResourceNotFound => (Fatal, UnknownTopic),

        // The same record is as large the next time.
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::OffsetMetadataTooLarge => {
            (Fatal, TooLarge)
        }

        // Rights don't come back by themselves, and a silent wait would hold WAL without anybody knowing.
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed
        | Code::DelegationTokenOwnerMismatch
        | Code::DelegationTokenRequestNotAllowed => (Fatal, NotAuthorized),

        // Mechanism, certificate, user or password.
        Code::Authentication
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::DelegationTokenAuthDisabled
        | Code::DelegationTokenNotFound
        | Code::DelegationTokenExpired
        | Code::InvalidPrincipalType
        | Code::PrincipalDeserializationFailure
        | Code::UnacceptableCredential => (Fatal, Authentication),

        // A setting of ours or of the topic that this cluster refuses.
        Code::InvalidArgument
        | Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::InvalidRequest
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidRequiredAcks
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::InvalidCommitOffsetSize
        | Code::InvalidTransactionTimeout
        | Code::InvalidUpdateVersion
        | Code::InvalidType
        | Code::PolicyViolation
        | Code::UnsupportedVersion
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::UnsupportedFeature
        | Code::UnknownProtocol
        | Code::NotImplemented
        | Code::NotConfigured
        | Code::TopicDeletionDisabled
        | Code::DuplicateResource
        | Code::TopicAlreadyExists
        | Code::FeatureUpdateFailed
        | Code::ReadOnly
        | Code::FileSystem
        | Code::NoEnt => (Fatal, Configuration),

        // Reading: the position isn't there any more, or the bytes aren't what was written.
        Code::OffsetOutOfRange
        | Code::AutoOffsetReset
        | Code::LogTruncation
        | Code::InvalidDifferentRecord
        | Code::BadCompression => (Fatal, Other),

        // Raised by rdkafka's serialisers and callbacks, which are not used: a bug if seen.
        Code::KeySerialization
        | Code::ValueSerialization
        | Code::KeyDeserialization
        | Code::ValueDeserialization
        | Code::Application
        | Code::Fail => (Fatal, Other),

        // Also what a newer broker may say: starting again from the checkpoint is always right, and repeats
        // with backoff and a log line, so nobody overlooks it.
        Code::Unknown | Code::Begin | Code::End | Code::EndAll | _ => (Rebuild, Other),
    }
}

/// What the operator can do; by kind, since the codes of a kind share their remedy.
fn advice(kind: ErrorKind, code: Code) -> Option<&'static str> {
    match kind {
        ErrorKind::Configuration if code == Code::InvalidReplicationFactor => Some(
            "the cluster has fewer brokers than topics.replication_factor: lower it, or use -1 for the broker's \
             default",
        ),
        ErrorKind::Configuration if code == Code::PolicyViolation => Some(
            "the cluster's create-topic policy refuses these settings: adapt [topics], or create the topics \
             yourself",
        ),
        ErrorKind::Configuration => Some("correct the setting named here"),
        ErrorKind::Authentication => Some(
            "check security.protocol, sasl.mechanisms, sasl.username, sasl.password and ssl.ca.location under \
             kafka.properties against the broker's listener",
        ),
        ErrorKind::NotAuthorized => Some(
            "grant the principal WRITE and DESCRIBE on the topics (and READ on the checkpoint topic, CREATE if \
             Headwater makes the topics, IDEMPOTENT_WRITE on the cluster before Kafka 2.8)",
        ),
        ErrorKind::UnknownTopic => Some(
            "the topic or partition was deleted: records acknowledged there are gone; create it again, or run \
             `headwater init`, and decide whether consumers need a replay",
        ),
        ErrorKind::TooLarge => Some(
            "raise the topic's max.message.bytes (kafka-configs --alter --topic NAME --add-config \
             max.message.bytes=N; consumers' and replicas' fetch sizes follow by themselves), or keep the large \
             column out of the publication; if even small records are refused, the topic's limit is below \
             batch.size: lower batch.size under kafka.properties",
        ),
        ErrorKind::Unreachable => {
            Some("check kafka.bootstrap_servers, DNS, the network and advertised.listeners")
        }
        ErrorKind::Unavailable | ErrorKind::Purged | ErrorKind::Sequence | ErrorKind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaRespErr;

    use super::*;

    /// Codes that may rest on "start again from the checkpoint" for want of anything better.
    const REBUILD_OTHER: &[&str] = &[
        "Unknown",
        "Begin",
        "End",
        "EndAll",
        "BadMessage",
        "InvalidMessage",
        "InvalidMessageSize",
        "Underflow",
        "IllegalGeneration",
        "InconsistentGroupProtocol",
        "UnknownMemberId",
        "MemberIdRequired",
        "GroupMaxSizeReached",
        "FencedInstanceId",
        "FencedMemberEpoch",
        "StaleMemberEpoch",
        "UnreleasedInstanceId",
        "UnsupportedAssignor",
        "UnknownGroup",
        "GroupIdNotFound",
        "NonEmptyGroup",
        "GroupSubscribedToTopic",
        "ExistingSubscription",
        "Conflict",
    ];

    #[test]
    fn no_code_of_librdkafka_is_left_to_the_last_arm() {
        let codes = (-200..=200).filter_map(|n| RDKafkaRespErr::try_from(n).ok()).map(Code::from);
        let mut seen = 0;
        for code in codes {
            seen += 1;
            if classify(code) == (Class::Rebuild, ErrorKind::Other) {
                assert!(REBUILD_OTHER.contains(&format!("{code:?}").as_str()), "{code:?} is not classified");
            }
        }
        assert!(seen > 150, "only {seen} codes were tried");
    }

    #[test]
    fn classes_that_matter() {
        let table = [
            (Code::QueueFull, Class::Retriable, ErrorKind::Other),
            (Code::BrokerTransportFailure, Class::Retriable, ErrorKind::Unreachable),
            (Code::AllBrokersDown, Class::Retriable, ErrorKind::Unreachable),
            (Code::NotEnoughReplicas, Class::Retriable, ErrorKind::Unavailable),
            (Code::NotLeaderForPartition, Class::Retriable, ErrorKind::Unavailable),
            (Code::KafkaStorageError, Class::Retriable, ErrorKind::Unavailable),
            (Code::MessageTimedOut, Class::Rebuild, ErrorKind::Unavailable),
            (Code::PurgeQueue, Class::Rebuild, ErrorKind::Purged),
            (Code::PurgeInflight, Class::Rebuild, ErrorKind::Purged),
            (Code::OutOfOrderSequenceNumber, Class::Rebuild, ErrorKind::Sequence),
            (Code::UnknownProducerId, Class::Rebuild, ErrorKind::Sequence),
            (Code::Fatal, Class::Rebuild, ErrorKind::Sequence),
            (Code::UnknownTopicOrPartition, Class::Fatal, ErrorKind::UnknownTopic),
            (Code::UnknownPartition, Class::Fatal, ErrorKind::UnknownTopic),
            (Code::MessageSizeTooLarge, Class::Fatal, ErrorKind::TooLarge),
            (Code::TopicAuthorizationFailed, Class::Fatal, ErrorKind::NotAuthorized),
            (Code::ClusterAuthorizationFailed, Class::Fatal, ErrorKind::NotAuthorized),
            (Code::SaslAuthenticationFailed, Class::Fatal, ErrorKind::Authentication),
            (Code::SSL, Class::Fatal, ErrorKind::Authentication),
            (Code::InvalidRecord, Class::Fatal, ErrorKind::Configuration),
            (Code::InvalidReplicationFactor, Class::Fatal, ErrorKind::Configuration),
            (Code::PolicyViolation, Class::Fatal, ErrorKind::Configuration),
        ];
        for (code, class, kind) in table {
            assert_eq!(classify(code), (class, kind), "{code:?}");
        }
    }

    #[test]
    fn what_needs_a_human_says_what_to_do() {
        for code in [Code::MessageSizeTooLarge, Code::TopicAuthorizationFailed, Code::UnknownTopic, Code::SSL]
        {
            let error = Error::from_code(code, "producing to shop.public.inventory partition 0", "");
            assert_eq!(error.class(), Class::Fatal);
            assert!(error.advice().is_some(), "{error}");
        }
        let error = Error::from_code(Code::MessageSizeTooLarge, "producing to t partition 0", "");
        assert!(error.advice().is_some_and(|advice| advice.contains("max.message.bytes")));
        assert_eq!(error.to_string(), "producing to t partition 0: Broker: Message size too large");
        assert_eq!(error.code(), "MessageSizeTooLarge");
    }

    #[test]
    fn a_connections_reason_replaces_a_bare_time_out() {
        let timed_out = Error::from_code(Code::OperationTimedOut, "asking for the brokers", "");
        let refused = Some((Code::BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed".to_owned()));
        let error = timed_out.clone().because(refused);
        assert_eq!((error.class(), error.kind()), (Class::Retriable, ErrorKind::Unreachable));
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
        let wrong_password = Some((Code::Authentication, "SASL authentication error".to_owned()));
        let error = timed_out.clone().because(wrong_password);
        assert_eq!((error.class(), error.kind()), (Class::Fatal, ErrorKind::Authentication));
        assert_eq!(timed_out.clone().because(None), timed_out);
    }
}
