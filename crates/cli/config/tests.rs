//! Every wrong input with its exact message, the precedence of the three layers, and the issue's twelve lines.

use std::time::Duration;

use headwater_pg::{ChannelBinding, Host, RootCert, SslMode};
use headwater_pipeline::settings::{PayloadFormat, SinkSettings};

use super::*;

const COMPLETE: &str = r#"[postgres]
url = "postgres://headwater@db.internal:5432/shop"
publication = "shop"
slot = "headwater"

[kafka]
bootstrap_servers = "kafka.internal:9092"

[schema_registry]
url = "http://registry.internal:8081"

[topics]
prefix = "shop"

[[outbox]]
table = "public.outbox"

[http]
listen = "127.0.0.1:9187"
"#;

fn load_with(text: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    read("headwater.toml", text, variables, &flags)
}

fn load_text(text: &str) -> Config {
    load_with(text, &[], &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// The problems of a configuration, one line each.
fn problems(text: &str, variables: &[(&str, &str)], flags: &[&str]) -> Vec<String> {
    match load_with(text, variables, flags) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

/// The complete configuration, with one line put in the place of another.
fn replaced(line: &str, with: &str) -> String {
    assert!(COMPLETE.contains(line), "{line}");
    COMPLETE.replacen(line, with, 1)
}

fn kafka(config: &Config) -> &headwater_kafka::Settings {
    match &config.settings.sink {
        SinkSettings::Kafka { kafka, .. } => kafka,
        other => panic!("{other:?}"),
    }
}

#[test]
fn twelve_lines_are_complete() {
    let Config { settings, outbox: _, listen, warnings } = load_text(COMPLETE);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(listen.map(|address| address.to_string()).as_deref(), Some("127.0.0.1:9187"));
    assert_eq!(settings.publications, ["shop"]);
    assert_eq!(settings.slot, "headwater");
    assert_eq!(settings.postgres.host, Host::Tcp { host: "db.internal".to_owned(), port: 5432 });
    assert_eq!(settings.postgres.tls.mode, SslMode::VerifyFull);
    assert_eq!(settings.postgres.tls.root_cert, RootCert::System);
    assert_eq!(settings.postgres.channel_binding, ChannelBinding::Prefer);
    assert!(!settings.postgres.allow_md5);
    assert_eq!(settings.slot_create_timeout, Duration::from_secs(90));
    assert_eq!(settings.shutdown_timeout, Duration::from_secs(8));
    assert_eq!(settings.max_row_bytes, 64 << 20);
    assert_eq!(settings.checkpoint.topic, "headwater.checkpoint");
    assert_eq!(settings.topics.prefix, "shop");
    assert!(settings.topics.create && settings.tombstones_on_delete && !settings.adopt_slot);
    let [outbox] = settings.outbox.as_slice() else { panic!("{:?}", settings.outbox) };
    assert_eq!((outbox.schema.as_str(), outbox.table.as_str()), ("public", "outbox"));
    assert_eq!(outbox.payload_column, "payload");
    assert_eq!(outbox.route.payload, PayloadFormat::Avro);
    assert_eq!(outbox.route.topic, "outbox.event.${aggregatetype}");
}

#[test]
fn flags_over_environment_over_file() {
    let variables = [("HEADWATER_POSTGRES__SLOT", "from_variable"), ("HEADWATER_TOPICS__PREFIX", "variable")];
    let config = load_with(COMPLETE, &variables, &["topics.prefix=flag"]).expect("loads");
    assert_eq!(config.settings.slot, "from_variable");
    assert_eq!(config.settings.topics.prefix, "flag");

    let variables = [
        ("HEADWATER_POSTGRES__PASSWORD", "s3cret"),
        ("HEADWATER_POSTGRES__PUBLICATION", "shop, extra"),
        ("HEADWATER_POSTGRES__ALLOW_MD5", "true"),
        ("HEADWATER_TOPICS__PARTITIONS", "12"),
        ("HEADWATER_PIPELINE__SHUTDOWN_TIMEOUT", "3s"),
        ("HEADWATER_KAFKA__PROPERTIES__LINGER_MS", "7"),
        ("HEADWATER_LOG", "debug"),
        ("PGPASSWORD", "never read"),
    ];
    let config = load_with(COMPLETE, &variables, &["kafka.properties.batch.size=100000"]).expect("loads");
    assert_eq!(config.settings.postgres.password.as_ref().map(|secret| secret.expose()), Some("s3cret"));
    assert_eq!(config.settings.publications, ["shop", "extra"]);
    assert!(config.settings.postgres.allow_md5);
    assert_eq!(config.settings.topics.partitions, 12);
    assert_eq!(config.settings.shutdown_timeout, Duration::from_secs(3));
    assert_eq!(kafka(&config).properties["linger.ms"], "7");
    assert_eq!(kafka(&config).properties["batch.size"], "100000");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn properties_are_flattened_and_hidden_by_variables() {
    let text = format!(
        "{COMPLETE}\n[kafka.properties]\n\"client.rack\" = \"a\"\nlinger.ms = 3\nsocket = {{ keepalive.enable = true }}\n"
    );
    let config = load_text(&text);
    let expected = [("client.rack", "a"), ("linger.ms", "3"), ("socket.keepalive.enable", "true")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(kafka(&config).properties.clone().into_iter().collect::<Vec<_>>(), expected);
    let config = load_with(&text, &[("HEADWATER_KAFKA__PROPERTIES__LINGER_MS", "9")], &[]).expect("loads");
    assert_eq!(kafka(&config).properties["linger.ms"], "9");
}

/// What is wrong with lines that are added at the end, which begin in line 20.
#[test]
fn wrong_routes() {
    for (lines, expected) in [
        (
            "[records]\ntopic = \"{prefix}.{tabel}\"",
            "headwater.toml:21: records.topic: \"{prefix}.{tabel}\" has the unknown part {tabel}; there are {prefix}, \
             {database}, {schema}, {table}",
        ),
        (
            "[[table]]\ntables = \"public.a\"\ntopic = \"a b\"",
            "headwater.toml:22: table.topic: \"a b\" has ' ', which no topic can have; there are A-Z, a-z, 0-9, '.', '_', \
             '-' and parts in braces",
        ),
        (
            "[[table]]\ntables = \"public.a\"\nshared_topic = \"yes\"",
            "headwater.toml:22: table.shared_topic: \"yes\" is not one of refuse, table_in_key, unique_keys",
        ),
        (
            "[[route]]\nmatch = \"(\"\ntopic = \"a\"",
            "headwater.toml:21: route.match: \"(\" is no regular expression here: unclosed group",
        ),
        (
            "[[route]]\nmatch = \"(.*)\"\ntopic = \"$2\"",
            "headwater.toml:22: route.topic: \"$2\" has $2, and the expression has 1 groups",
        ),
        (
            "[[route]]\nmatch = \"(.*)\"\ntopic = \"all of $1\"",
            "headwater.toml:22: route.topic: has ' ', which no topic can have",
        ),
        (
            "[[route]]\nmatch = \".*\"",
            "headwater.toml: route.topic: is missing; write topic = \"app.$1\" below [route]",
        ),
        (
            "[[route]]\nmatch = \".*\"\ntopic = \"a\"\ntable_key_match = \"(.*)\"",
            "headwater.toml:23: route.table_key_match: needs route.table_key_value as well",
        ),
        (
            "[[route]]\nmatch = \".*\"\ntopic = \"a\"\ntable_key_match = \"(.*)\"\ntable_key_value = \"$x\"",
            "headwater.toml:24: route.table_key_value: \"$x\" has a $ without the number or {name} of a group behind it",
        ),
        (
            "[route]\nmatch = \".*\"",
            "headwater.toml:20: route: is one table; write [[route]] with two brackets, since there may be several",
        ),
        (
            "[messages]\ntraceparent_prefix = \"outbox.trace\"",
            "headwater.toml:21: messages.traceparent_prefix: 'outbox.trace' has a meaning of its own; choose a prefix that \
             begins with neither headwater. nor outbox.",
        ),
    ] {
        assert_eq!(problems(&format!("{COMPLETE}{lines}\n"), &[], &[]), [expected], "{lines}");
    }
}

#[test]
fn routes_and_trace_columns_are_read() {
    let lines = "[records]\ntopic = \"app.{table}\"\ntraceparent_column = \"trace\"\n\
        [[route]]\nmatch = 'app\\.(.*)_\\d'\ntopic = \"all.$1\"\n[messages]\ntraceparent_prefix = \"trace\"\n";
    let settings = load_text(&format!("{COMPLETE}{lines}")).settings;
    let route = settings.route("public", "item_7").expect("it is legal");
    assert_eq!((route.topic.as_str(), route.is_shared), ("all.item", true));
    let field = ("__dbz__physicalTableIdentifier".to_owned(), "app.item_7".to_owned());
    assert_eq!(route.naming.key_fields, [field]);
    assert_eq!(settings.messages.traceparent_prefix.as_deref(), Some("trace"));
    assert_eq!(settings.records.all.traceparent_column.0.as_deref(), Some("trace"));
}

#[test]
fn wrong_files() {
    let slot = "slot = \"headwater\"";
    for (text, expected) in [
        (
            replaced(slot, "solt = \"headwater\""),
            vec![
                "headwater.toml: postgres.slot: is missing; write slot = \"headwater\" below [postgres]",
                "headwater.toml:4: postgres.solt: unknown key; did you mean slot?",
            ],
        ),
        (
            replaced(slot, "slot = \"Head-water\""),
            vec![
                "headwater.toml:4: postgres.slot: 'Head-water' is not a slot name: 1 to 63 of a-z, 0-9 and _",
            ],
        ),
        (
            replaced(slot, "slot = 7"),
            vec!["headwater.toml:4: postgres.slot: is a whole number; write text in quotes"],
        ),
        (replaced(slot, "slot = \"\""), vec!["headwater.toml:4: postgres.slot: is empty"]),
        (
            replaced(slot, "slot = \"headwater\"\nslot_create_timeout = 30"),
            vec![
                "headwater.toml:5: postgres.slot_create_timeout: 30 has no unit; write \"30s\" for seconds \
             (units: ms, s, m, h)",
            ],
        ),
        (
            replaced(slot, "slot = \"headwater\"\nmax_row_bytes = \"1MiB\""),
            vec!["headwater.toml:5: postgres.max_row_bytes: unknown key; it belongs below [pipeline]"],
        ),
        (
            replaced(slot, "slot = \"headwater\"\nsslmode = \"verify\""),
            vec![
                "headwater.toml:5: postgres.sslmode: \"verify\" is not one of disable, prefer, require, verify-ca, \
             verify-full",
            ],
        ),
        (
            replaced(slot, "slot = \"headwater\"\nsslcert = \"a.pem\""),
            vec!["headwater.toml:5: postgres.sslcert: needs postgres.sslkey as well"],
        ),
        (
            replaced(slot, "slot = \"headwater\"\npassword_file = \"/nowhere/p\""),
            vec![
                "headwater.toml:5: postgres.password_file: /nowhere/p can't be read: No such file or directory (os error 2)",
            ],
        ),
        (
            replaced("publication = \"shop\"", "publication = []"),
            vec!["headwater.toml:3: postgres.publication: holds an empty name"],
        ),
        (
            replaced("postgres://headwater@db", "postgres://db"),
            vec![
                "headwater.toml:2: postgres.url: names no user; write for example postgres://user@host:5432/database",
            ],
        ),
        (
            replaced("/shop\"", "/shop?sslmode=maybe\""),
            vec![
                "headwater.toml:2: postgres.url: parameter sslmode: \"maybe\" is not one of disable, prefer, require, \
             verify-ca, verify-full",
            ],
        ),
        (
            replaced("[http]", "[htpp]"),
            vec!["headwater.toml:18: htpp: unknown section; did you mean [http]?"],
        ),
        (
            replaced("[[outbox]]", "[outbox]"),
            vec![
                "headwater.toml:15: outbox: is one table; write [[outbox]] with two brackets, since there may be several",
            ],
        ),
        (
            replaced("\"public.outbox\"", "\"outbox\""),
            vec![
                "headwater.toml:16: outbox.table: \"outbox\" is not schema.table; write for example \"public.outbox\"",
            ],
        ),
        (
            replaced(
                "table = \"public.outbox\"",
                "table = \"public.outbox\"\ncolumns = { pyload = \"body\" }",
            ),
            vec!["headwater.toml:17: outbox.columns.pyload: unknown key; did you mean payload?"],
        ),
        (
            replaced("table = \"public.outbox\"", "table = \"public.outbox\"\ntopic = \"${aggregatetype}\""),
            vec![
                "headwater.toml:17: outbox.topic: beside ${aggregatetype} it needs a fixed part of A-Z, a-z, 0-9, '.', \
             '_' and '-', so that a row can't name any topic it likes",
            ],
        ),
        (
            replaced("127.0.0.1:9187", "localhost"),
            vec![
                "headwater.toml:19: http.listen: \"localhost\" is not an address and a port; write for example \
             \"127.0.0.1:9187\"",
            ],
        ),
        (
            replaced("http://registry", "registry"),
            vec![
                "headwater.toml:10: schema_registry.url: does not start with http:// or https://; write for example \
             \"http://registry:8081\"",
            ],
        ),
        (
            replaced("prefix = \"shop\"", "prefix = \"shop\"\npartitions = \"6\""),
            vec!["headwater.toml:14: topics.partitions: is text; write a whole number, without quotes"],
        ),
        (
            format!("{COMPLETE}\n[pipeline]\nmax_in_flight_bytes = 64\nmax_row_bytes = \"1TB\"\n"),
            vec![
                "headwater.toml:22: pipeline.max_in_flight_bytes: 64 has no unit; write \"64MiB\" or \"64B\" \
             (units: B, KiB, MiB, GiB, kB, MB, GB)",
                "headwater.toml:23: pipeline.max_row_bytes: \"TB\" is not a unit of a size; write for example \"64MiB\" \
             (units: B, KiB, MiB, GiB, kB, MB, GB)",
            ],
        ),
        (
            format!("{COMPLETE}\n[sink]\ntype = \"kafak\"\n"),
            vec!["headwater.toml:22: sink.type: \"kafak\" is not one of kafka, stdout, file, discard"],
        ),
        (
            format!("{COMPLETE}\n[sink]\ntype = \"file\"\n"),
            vec!["headwater.toml: sink.path: is missing; write path = \"changes.jsonl\" below [sink]"],
        ),
        (
            format!("{COMPLETE}\n[sink]\npath = \"x\"\n"),
            vec!["headwater.toml:22: sink.path: has a meaning only with type = \"file\""],
        ),
        (
            format!("slot = \"x\"\n{COMPLETE}"),
            vec!["headwater.toml:1: slot: unknown section; it belongs below [postgres]"],
        ),
        (
            String::new(),
            vec![
                "headwater.toml: postgres.publication: is missing; write publication = \"shop\" below [postgres]",
                "headwater.toml: postgres.slot: is missing; write slot = \"headwater\" below [postgres]",
                "headwater.toml: postgres.url: is missing; write url = \"postgres://user@host:5432/database\" below \
             [postgres]",
                "headwater.toml: topics.prefix: is missing; write prefix = \"shop\" below [topics]",
                "headwater.toml: kafka.bootstrap_servers: is missing; write bootstrap_servers = \"host:9092\" below \
             [kafka]",
                "headwater.toml: schema_registry.url: is missing; write url = \"http://registry:8081\" below \
             [schema_registry]",
            ],
        ),
    ] {
        assert_eq!(problems(&text, &[], &[]), expected, "{text}");
    }
}

#[test]
fn properties_that_belong_to_headwater_are_refused_with_file_line_and_key() {
    let text = format!("{COMPLETE}\n[kafka.properties]\nlinger.ms = 5\nacks = 1\n");
    let problems = problems(&text, &[], &[]);
    let [problem] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(problem.starts_with("headwater.toml:23: kafka.properties.acks: "), "{problem}");
}

#[test]
fn syntax_errors_name_the_line() {
    let problems = problems(&replaced("slot = \"headwater\"", "slot = \"headwater"), &[], &[]);
    assert!(problems.iter().any(|problem| problem.starts_with("headwater.toml:4: ")), "{problems:?}");
}

#[test]
fn wrong_variables_and_flags() {
    for (variables, flags, expected) in [
        (
            &[("HEADWATER_POSTGRES__SOLT", "x")][..],
            &[][..],
            "environment variable HEADWATER_POSTGRES__SOLT: postgres.solt: unknown key; did you mean slot?",
        ),
        (
            &[("HEADWATER_PIPELINE__SHUTDOWN_TIMEOUT", "5")],
            &[],
            "environment variable HEADWATER_PIPELINE__SHUTDOWN_TIMEOUT: pipeline.shutdown_timeout: 5 has no unit; \
             write \"5s\" for seconds (units: ms, s, m, h)",
        ),
        (
            &[("HEADWATER_OUTBOX__TABLE", "x")],
            &[],
            "environment variable HEADWATER_OUTBOX__TABLE: [[outbox]] is a list of tables and can only be written in \
             the file",
        ),
        (&[], &["topics.prefix"], "--set topics.prefix: has no value; write --set section.key=value"),
        (&[], &["prefix=x"], "--set prefix: names no section; write --set section.key=value"),
        (
            &[],
            &["postgres.password=x"],
            "--set postgres.password: a secret on the command line shows in the process list; set \
             HEADWATER_POSTGRES__PASSWORD instead",
        ),
        (
            &[],
            &["kafka.properties.sasl.password=x"],
            "--set kafka.properties.sasl.password: a secret on the command line shows in the process list; set \
             HEADWATER_KAFKA__PROPERTIES__SASL_PASSWORD instead",
        ),
        (
            &[],
            &["topics.create=maybe"],
            "--set topics.create: topics.create: \"maybe\" is neither true nor false",
        ),
    ] {
        assert_eq!(problems(COMPLETE, variables, flags), [expected]);
    }
}

#[test]
fn warnings() {
    for (text, variables, expected) in [
        (
            replaced("headwater@db", "headwater:pw@db"),
            &[][..],
            "headwater.toml:2: postgres.url holds a password; keep it in the environment or in a file of its own \
             instead",
        ),
        (
            replaced("slot = \"headwater\"", "slot = \"headwater\"\npassword = \"pw\""),
            &[],
            "headwater.toml:5: postgres.password is a secret in a configuration file; keep it in \
             HEADWATER_POSTGRES__PASSWORD or use postgres.password_file",
        ),
        (
            format!("{COMPLETE}[kafka.properties]\nsasl.password = \"pw\"\n"),
            &[],
            "headwater.toml:21: kafka.properties.sasl.password is a secret in a configuration file; keep it in \
             HEADWATER_KAFKA__PROPERTIES__SASL_PASSWORD",
        ),
        (
            replaced("/shop\"", "/shop?sslmode=require\""),
            &[],
            "postgres.sslmode is weaker than verify-full: whoever sits on the way to the server can pass for it",
        ),
        (
            COMPLETE.to_owned(),
            &[("HEADWATER_POSTGRES_PASSWORD", "x")],
            "environment variable HEADWATER_POSTGRES_PASSWORD is not read; did you mean HEADWATER_POSTGRES__PASSWORD?",
        ),
    ] {
        assert_eq!(load_with(&text, variables, &[]).expect("loads").warnings, [expected]);
    }
}

#[test]
fn local_servers_need_no_certificate() {
    for (url, mode) in [
        ("postgres://hw@localhost/shop", SslMode::Prefer),
        ("postgres://hw@127.0.0.1:5499/shop", SslMode::Prefer),
        ("postgres://hw@[::1]/shop", SslMode::Prefer),
        ("postgres://hw@/shop?host=/run/pg", SslMode::Prefer),
        ("postgres://hw@localhost/shop?sslmode=verify-full", SslMode::VerifyFull),
        ("postgres://hw@10.0.0.1/shop", SslMode::VerifyFull),
    ] {
        let config = load_text(&replaced("postgres://headwater@db.internal:5432/shop", url));
        assert_eq!(config.settings.postgres.tls.mode, mode, "{url}");
        assert_eq!(config.warnings, Vec::<String>::new(), "{url}");
    }
}

#[test]
fn a_setting_is_not_written_twice() {
    let text = replaced("/shop\"", "/shop?sslmode=require\"\nsslmode = \"verify-ca\"");
    assert_eq!(
        problems(&text, &[], &[]),
        [
            "headwater.toml:3: postgres.sslmode: is written here and as parameter sslmode of postgres.url; keep one of \
         them"
        ]
    );
}

#[test]
fn secrets_are_not_printed() {
    let text = replaced("headwater@db", "headwater:canary@db");
    let variables = [
        ("HEADWATER_KAFKA__PROPERTIES__SASL_PASSWORD", "canary"),
        ("HEADWATER_SCHEMA_REGISTRY__USERNAME", "me"),
        ("HEADWATER_SCHEMA_REGISTRY__PASSWORD", "canary"),
    ];
    let config = load_with(&text, &variables, &[]).expect("loads");
    assert!(!format!("{config:?}").contains("canary"), "{config:?}");
    let error =
        load_with(&replaced("headwater@db.internal:5432", "headwater:canary@db:x"), &variables, &["a=b"]);
    assert!(!error.expect_err("a wrong port").to_string().contains("canary"));
}

#[test]
fn other_sinks_need_neither_kafka_nor_registry() {
    let text = "[postgres]\nurl = \"postgres://hw@localhost/shop\"\npublication = \"shop\"\nslot = \"hw\"\n\
                [topics]\nprefix = \"shop\"\n[sink]\ntype = \"stdout\"\n";
    assert!(matches!(load_text(text).settings.sink, SinkSettings::Stdout));
}

#[test]
fn records_for_all_tables_and_for_some() {
    use headwater_avro::{BinaryHandling, DecimalHandling, RecordSettings, TypeStyle};
    let config = load_text(COMPLETE);
    assert_eq!(config.settings.records.records_for("public", "t"), RecordSettings::default());

    let text = format!(
        "{COMPLETE}\n[records]\ntypes = \"avro\"\ndecimal_handling = \"double\"\n\n\
         [[table]]\ntables = [\"public.audit_*\", \"other.t\"]\ndecimal_handling = \"string\"\n\n\
         [[table]]\ntables = \"public.audit_2\"\nbinary_handling = \"hex\"\n"
    );
    let variables = [("HEADWATER_RECORDS__BINARY_HANDLING", "base64")];
    let config = load_with(&text, &variables, &["records.money_fraction_digits=4"]).expect("loads");
    let found = |schema, table| {
        let records = config.settings.records.records_for(schema, table);
        assert_eq!((records.types, records.money_fraction_digits), (TypeStyle::Avro, 4));
        (records.decimal_handling, records.binary_handling)
    };
    assert_eq!(found("public", "t"), (DecimalHandling::Double, BinaryHandling::Base64));
    assert_eq!(found("public", "audit_1"), (DecimalHandling::String, BinaryHandling::Base64));
    assert_eq!(found("public", "audit_2"), (DecimalHandling::String, BinaryHandling::Hex));
    assert_eq!(found("other", "t"), (DecimalHandling::String, BinaryHandling::Base64));
}

#[test]
fn records_written_wrongly() {
    let with = |lines: &str| problems(&format!("{COMPLETE}\n{lines}"), &[], &[]);
    assert_eq!(
        with("[records]\ndecimal_handling = \"exact\"\nmoney_fraction_digits = 41\n"),
        [
            "headwater.toml:22: records.decimal_handling: \"exact\" is not one of precise, double, string",
            "headwater.toml:23: records.money_fraction_digits: at most 40",
        ]
    );
    assert_eq!(
        with("[records]\nunavailable_value_placeholder = \"hex:0g\"\n"),
        [
            "headwater.toml:22: records.unavailable_value_placeholder: \"hex:0g\" has no hexadecimal digits, two for \
             each byte, after hex:",
        ]
    );
    assert_eq!(
        with("[[table]]\ndecimal_handling = \"string\"\n"),
        ["headwater.toml: table.tables: is missing; write tables = \"public.audit_*\" below [table]"]
    );
    assert_eq!(
        with("[[table]]\ntables = \"orders\"\n"),
        [
            "headwater.toml:22: table.tables: \"orders\" is not schema.table; write for example \"public.orders\""
        ]
    );
    assert_eq!(
        with("[table]\ntables = \"public.orders\"\n"),
        [
            "headwater.toml:21: table: is one table; write [[table]] with two brackets, since there may be several"
        ]
    );
}
