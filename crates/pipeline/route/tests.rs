//! Routes as tables have them, and what is wrong with several.

use headwater_avro::{RecordOverrides, TopicTemplate};

use super::*;
use crate::records::TableRule;
use crate::recovery::tests::settings;

/// What a case configures, beginning with nothing.
fn with(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = settings();
    change(&mut settings);
    settings
}

fn route(expression: &str, topic: &str, shared: SharedTopic) -> TopicRoute {
    TopicRoute {
        topic: Rewriting::new(expression, topic).expect("it is one"),
        shared,
        key_field: "table".to_owned(),
        key_value: None,
        schema_names: SchemaNames::Topic,
    }
}

fn template(settings: &mut Settings, tables: &str, topic: &str, shared: SharedTopic) {
    settings.records.tables.push(TableRule {
        tables: vec![tables.to_owned()],
        overrides: RecordOverrides {
            topic: Some(TopicTemplate::parse(topic).expect("it is one")),
            shared_topic: Some(shared),
            ..RecordOverrides::default()
        },
    });
}

/// Topic, whether it is shared, what schemas are named after, and the fields of the key: `name=value`.
fn shown(settings: &Settings, table: &str) -> Result<String, String> {
    let route = settings.route("public", table).map_err(|halt| halt.what)?;
    let RecordNaming { schema_topic, key_fields } = route.naming;
    let fields: Vec<_> = key_fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let shared = if route.is_shared { "shared" } else { "alone" };
    Ok(format!("{} {shared} {} [{}]", route.topic, schema_topic.as_deref().unwrap_or("-"), fields.join(" ")))
}

#[test]
fn tables_have_their_routes() {
    use SharedTopic::{Refuse, TableInKey, UniqueKeys};
    let own = "__dbz__physicalTableIdentifier=shop.public";
    let named_after_table = |route: TopicRoute| TopicRoute { schema_names: SchemaNames::Table, ..route };
    for (settings, table, expected) in [
        (with(|_| {}), "item", "shop.public.item alone - []".to_owned()),
        (with(|_| {}), "odd name", "shop.public.odd_name alone - []".to_owned()),
        // A template.
        (
            with(|s| template(s, "public.i*", "app.{table}", Refuse)),
            "item",
            "app.item alone app.item []".to_owned(),
        ),
        (
            with(|s| template(s, "public.i*", "app.{table}", Refuse)),
            "part",
            "shop.public.part alone - []".to_owned(),
        ),
        (with(|s| template(s, "*", "all", TableInKey)), "item", format!("all shared all [{own}.item]")),
        (with(|s| template(s, "*", "all", UniqueKeys)), "item", "all shared all []".to_owned()),
        // A regular expression: the key has the topic before it.
        (
            with(|s| s.topics.routes.push(route(r"shop\.public\.item_\d+", "shop.items", TableInKey))),
            "item_7",
            "shop.items shared shop.items [table=shop.public.item_7]".to_owned(),
        ),
        (
            with(|s| s.topics.routes.push(route(r"shop\.public\.item_\d+", "shop.items", TableInKey))),
            "item_x",
            "shop.public.item_x alone - []".to_owned(),
        ),
        (
            with(|s| {
                let key_value = Some(Rewriting::new(r".*_(\d+)", "$1").expect("it is one"));
                let to_items = route(r"(.*)_\d+", "$1", TableInKey);
                s.topics.routes.push(TopicRoute { key_value, ..to_items });
            }),
            "item_7",
            "shop.public.item shared shop.public.item [table=7]".to_owned(),
        ),
        // One after the other, each of what the one before made.
        (
            with(|s| {
                s.topics.routes.push(route(r"(.*)_\d+", "$1s", TableInKey));
                s.topics.routes.push(named_after_table(route(r"shop\.(.*)", "app.$1", Refuse)));
                s.topics.routes.push(named_after_table(route("shop.*", "never", Refuse)));
            }),
            "item_7",
            "app.public.items shared shop.public.items [table=shop.public.item_7]".to_owned(),
        ),
        (
            with(|s| s.topics.routes.push(named_after_table(route(r"shop\.(.*)", "app.$1", Refuse)))),
            "item",
            "app.public.item alone - []".to_owned(),
        ),
    ] {
        assert_eq!(shown(&settings, table), Ok(expected), "{table}");
    }
}

#[test]
fn names_that_can_not_be_topics_are_refused() {
    use SharedTopic::Refuse;
    for (settings, table, words) in [
        (with(|s| s.topics.routes.push(route(".*", "", Refuse))), "item", "is empty"),
        (with(|s| s.topics.routes.push(route(".*", "..", Refuse))), "item", "Kafka refuses"),
        (with(|s| template(s, "*", "a{table}", Refuse)), &"t".repeat(249)[..], "has 250 characters"),
        (with(|s| template(s, "*", "c", Refuse)), "item", "would be c, which is the checkpoint's"),
        (
            with(|s| {
                s.transactions.metadata = true;
                template(s, "*", "shop.t", Refuse);
            }),
            "item",
            "which is that of transactions",
        ),
        (
            with(|s| {
                s.messages.include = vec!["*".to_owned()];
                template(s, "*", "shop.m", Refuse);
            }),
            "item",
            "which is that of logical messages",
        ),
    ] {
        let why = shown(&settings, table).expect_err(words);
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn conflicts_are_found_before_any_row() {
    use SharedTopic::{Refuse, TableInKey, UniqueKeys};
    let tables = |names: &[&str]| -> Vec<(String, String)> {
        names.iter().map(|&name| ("public".to_owned(), name.to_owned())).collect()
    };
    let two = |first, second| {
        with(|s| {
            template(s, "public.a", "all", first);
            template(s, "public.b", "all", second);
        })
    };
    for (settings, names, problem, warning) in [
        (with(|_| {}), &["a", "b"][..], None, None),
        (with(|_| {}), &["odd name", "odd_name"], Some("both map to the topic shop.public.odd_name"), None),
        (two(Refuse, Refuse), &["a", "b"], Some("public.a and public.b both map to the topic all"), None),
        (two(TableInKey, Refuse), &["a", "b"], Some("both map"), None),
        (two(TableInKey, UniqueKeys), &["a", "b"], None, None),
        (two(Refuse, Refuse), &["a"], None, None),
        (with(|_| {}), &["a.b", "a_b"], None, Some("differ in \".\" and \"_\" only")),
        (with(|s| s.topics.routes.push(route("shop.public.[ab]", "x.$0", Refuse))), &["a", "c"], None, None),
        (
            with(|s| s.topics.routes.push(route("shop.public.[bd]", "x.$0", Refuse))),
            &["a", "c"],
            None,
            Some("\"shop.public.[bd]\" matches the topic of no published table"),
        ),
        // One that is left out has no topic.
        (
            with(|s| {
                s.topics.tables.exclude = vec!["public.b".to_owned()];
                template(s, "*", "all", Refuse);
            }),
            &["a", "b"],
            None,
            None,
        ),
    ] {
        let routes = Routes::of(&settings, tables(names));
        let found = routes.problems.first().map(|halt| halt.what.clone()).unwrap_or_default();
        assert!(
            found.contains(problem.unwrap_or_default()) && found.is_empty() == problem.is_none(),
            "{found}"
        );
        let found = routes.warnings.concat();
        assert!(
            found.contains(warning.unwrap_or_default()) && found.is_empty() == warning.is_none(),
            "{found}"
        );
    }
}
