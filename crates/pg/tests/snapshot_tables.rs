//! On a real server, as `server`: what is to be copied of published tables, and that its statements copy that.

mod fake;
mod real;

use headwater_pg::snapshot_tables::{KeyColumn, SnapshotTable, snapshot_tables};
use headwater_pg::{Client, ConnectSettings, CopySession, connect};
use real::{Row, copy, copy_table, database, stream, texts};

struct Server {
    settings: ConnectSettings,
    client: Client,
    session: CopySession,
}

impl Server {
    async fn new(name: &str, sql: &str) -> Server {
        let settings = database(name).await;
        let client = connect(&settings).await.expect("connected");
        client.batch_execute(sql).await.expect(sql);
        let session = CopySession::connect(&settings).await.expect("connected");
        Server { settings, client, session }
    }

    fn is_at_least(&self, version: u32) -> bool {
        self.client.server_version() >= version * 10_000
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect(sql);
    }

    async fn tables(&self, publications: &[&str]) -> Vec<SnapshotTable> {
        let names: Vec<_> = publications.iter().map(|name| (*name).to_owned()).collect();
        snapshot_tables(&self.client, &names).await.expect("answered")
    }

    async fn table(&self, publication: &str, name: &str) -> SnapshotTable {
        let tables = self.tables(&[publication]).await;
        tables.into_iter().find(|table| table.table.name == name).expect("a published table")
    }

    /// All rows, chunk after chunk, in the order of the key.
    async fn chunks(&mut self, table: &SnapshotTable, limit: u64, filter: Option<&str>) -> Vec<Row> {
        let (mut rows, mut after): (Vec<Row>, Option<Vec<String>>) = (Vec::new(), None);
        loop {
            let sql = table.copy_chunk(after.as_deref(), limit, filter);
            let chunk = copy(&mut self.session, &sql, table.table.columns.len()).await;
            let Some(last) = chunk.last() else { return rows };
            assert!(chunk.len() as u64 <= limit);
            after = Some(key_of(table, last));
            rows.extend(chunk);
        }
    }

    /// The nodes of a copy's plan.
    async fn plan(&mut self, copy: &str) -> String {
        let inner =
            copy.strip_prefix("COPY (").and_then(|sql| sql.strip_suffix(") TO STDOUT")).expect("a copy");
        let rows = self.session.query(&format!("EXPLAIN {inner}")).await.expect("explained");
        rows.into_iter().flatten().flatten().collect::<Vec<_>>().join("\n")
    }
}

fn key_of(table: &SnapshotTable, row: &Row) -> Vec<String> {
    let value = |column: &KeyColumn| row[column.index].clone().expect("no key is NULL");
    table.key.iter().map(|column| String::from_utf8(value(column)).expect("text")).collect()
}

fn leaf_names(table: &SnapshotTable) -> Vec<&str> {
    table.leaves.iter().map(|leaf| leaf.name.as_str()).collect()
}

fn names(tables: &[SnapshotTable]) -> Vec<&str> {
    tables.iter().map(|table| table.table.name.as_str()).collect()
}

const PARTITIONS: &str = "
    CREATE TABLE root (id int, region text, v text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE north PARTITION OF root FOR VALUES IN ('n');
    CREATE TABLE south (v text, gone int, region text NOT NULL, id int NOT NULL);
    ALTER TABLE south DROP COLUMN gone;
    ALTER TABLE root ATTACH PARTITION south FOR VALUES IN ('s');
    CREATE TABLE east PARTITION OF root FOR VALUES IN ('e') PARTITION BY RANGE (id);
    CREATE TABLE east_1 PARTITION OF east FOR VALUES FROM (0) TO (100);
    CREATE TABLE east_2 PARTITION OF east FOR VALUES FROM (100) TO (200);
    CREATE UNLOGGED TABLE quiet PARTITION OF root FOR VALUES IN ('q');
    INSERT INTO root SELECT n, (ARRAY['n', 's', 'e', 'q'])[n % 4 + 1], 'v' || n FROM generate_series(1, 199) n;
    CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (extra int) INHERITS (parent);
    ALTER TABLE child ADD PRIMARY KEY (id);
    INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 2)";

#[tokio::test]
#[ignore = "needs a server"]
async fn partitions_and_inheritance() {
    let mut server = Server::new("partitions", PARTITIONS).await;
    server
        .run(
            "CREATE PUBLICATION root FOR TABLE root WITH (publish_via_partition_root = true);
             CREATE PUBLICATION leaves FOR TABLE root, parent;
             CREATE PUBLICATION east FOR TABLE east WITH (publish_via_partition_root = true)",
        )
        .await;
    let tables = server.tables(&["root"]).await;
    let [root] = tables.as_slice() else { panic!("{tables:?}") };
    assert_eq!((root.relkind, leaf_names(root)), ('p', vec!["east_1", "east_2", "north", "south"]));
    assert_eq!(root.silent_leaves.iter().map(|leaf| leaf.name.as_str()).collect::<Vec<_>>(), ["quiet"]);
    assert_eq!(
        root.key.iter().map(|column| (column.name.as_str(), column.index)).collect::<Vec<_>>(),
        [("region", 1), ("id", 0)]
    );
    let wanted: Vec<Row> = {
        let mut rows: Vec<Row> = (1..=199)
            .filter(|n| n % 4 != 3)
            .map(|n| texts(&[&n.to_string(), ["n", "s", "e", "q"][n % 4], &format!("v{n}")]))
            .collect();
        rows.sort();
        rows
    };
    assert_eq!(copy_table(&mut server.session, root).await, wanted);
    let chunks = server.chunks(root, 7, None).await;
    let keys: Vec<_> = chunks.iter().map(|row| (row[1].clone(), row[0].clone())).collect();
    let mut sorted = chunks.clone();
    sorted.sort();
    assert_eq!(sorted, wanted);
    let number = |text: &Option<Vec<u8>>| {
        String::from_utf8(text.clone().expect("a number")).expect("text").parse::<i32>()
    };
    assert!(keys.is_sorted_by_key(|(region, id)| (region.clone(), number(id).expect("a number"))));
    let some = [["s", "1"], ["q", "3"], ["e", "2"], ["n", "1"]].map(|key| key.map(str::to_owned).to_vec());
    let mut rows = copy(&mut server.session, &root.copy_keys(&some, None), 3).await;
    rows.sort();
    assert_eq!(rows, [texts(&["1", "s", "v1"]), texts(&["2", "e", "v2"])]);

    // Each publication tells another story of the same rows; the stream takes the uppermost.
    for (publications, wanted) in [
        (&["leaves"][..], &["child", "east_1", "east_2", "north", "parent", "quiet", "south"][..]),
        (&["leaves", "root"], &["child", "parent", "root"]),
        (&["leaves", "east"], &["child", "east", "north", "parent", "quiet", "south"]),
        (&["east", "root"], &["root"]),
    ] {
        let tables = server.tables(publications).await;
        // Some versions list unlogged partitions.
        let found: Vec<_> = names(&tables).into_iter().filter(|name| *name != "quiet").collect();
        let wanted: Vec<_> = wanted.iter().copied().filter(|name| *name != "quiet").collect();
        assert_eq!(found, wanted, "{publications:?}");
    }
    let tables = server.tables(&["leaves"]).await;
    let of = |name: &str| tables.iter().find(|table| table.table.name == name).expect("a table");
    assert_eq!(
        copy_table(&mut server.session, of("parent")).await,
        [texts(&["1"])],
        "children are their own"
    );
    assert_eq!(copy_table(&mut server.session, of("child")).await, [texts(&["2", "2"])]);
    let chunk = of("parent").copy_chunk(None, 10, None);
    assert_eq!(copy(&mut server.session, &chunk, 1).await, [texts(&["1"])]);
    assert_eq!(copy_table(&mut server.session, of("south")).await[0], texts(&["v1", "s", "1"]));
}

#[tokio::test]
#[ignore = "needs a server"]
async fn what_the_stream_publishes_of_a_table_is_copied() {
    let mut server = Server::new(
        "published",
        "CREATE SCHEMA \"My schema\";
         CREATE TYPE \"My schema\".\"Mood\" AS ENUM ('sad', 'ok');
         CREATE TABLE \"My schema\".\"Tab\"\"le\" (\"a A\" int, b int, secret text, \"select\" text, m \"My schema\".\"Mood\",
           g int GENERATED ALWAYS AS (b * 2) STORED, PRIMARY KEY (\"a A\"))",
    )
    .await;
    let table = "\"My schema\".\"Tab\"\"le\"";
    let lists = server.is_at_least(15);
    server.run(&format!("CREATE PUBLICATION plain FOR TABLE {table}")).await;
    if lists {
        let of = |publication: &str, rest: &str| {
            format!("CREATE PUBLICATION {publication} FOR TABLE {table} {rest}")
        };
        server
            .run(&of(
                "listed",
                "(\"a A\", b, m) WHERE (\"a A\" % 2 = 1 OR b IS NULL) WITH (publish = 'insert')",
            ))
            .await;
        server.run(&of("filtered", "WHERE (b > 7 AND \"a A\" > 2) WITH (publish = 'insert')")).await;
    }
    if server.is_at_least(18) {
        let sql = format!(
            "CREATE PUBLICATION generated FOR TABLE {table} WITH (publish_generated_columns = stored)"
        );
        server.run(&sql).await;
    }
    let cases: &[&[&str]] = match (lists, server.is_at_least(18)) {
        (false, _) => &[&["plain"]],
        (true, false) => &[&["plain"], &["listed"], &["filtered"], &["plain", "filtered"]],
        (true, true) => &[&["plain"], &["listed"], &["filtered"], &["plain", "filtered"], &["generated"]],
    };
    for publications in cases {
        let slot = "headwater_pg_published";
        server.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
        server
            .run(&format!(
                "INSERT INTO {table} SELECT n, nullif(n, 6), 's', 't' || n, (ARRAY['sad', 'ok'])[n % 2 + 1]::\"My schema\".\"Mood\"
                   FROM generate_series(1, 10) n"
            ))
            .await;
        let tables = server.tables(publications).await;
        let [found] = tables.as_slice() else { panic!("{tables:?}") };
        let mark = headwater_pg::transaction_snapshot::begin_at_present(&mut server.session, &[])
            .await
            .expect("begun");
        let copied = copy_table(&mut server.session, found).await;
        let chunks = {
            let mut rows = server.chunks(found, 3, None).await;
            rows.sort();
            rows
        };
        assert_eq!(copied, chunks, "{publications:?}");
        server.session.query("COMMIT").await.expect("committed");
        // The stream of one publication; of two the filters are alternatives, and one has none.
        let streamed = stream(&server.settings, slot, publications[0], mark.high).await;
        assert_eq!(streamed, [(found.table.clone(), copied.clone())], "{publications:?}");
        let wanted = match publications {
            ["listed"] => 6,
            ["filtered"] => 3,
            _ => 10,
        };
        assert_eq!(copied.len(), wanted, "{publications:?}");
        server.run(&format!("SELECT pg_drop_replication_slot('{slot}'); DELETE FROM {table}")).await;
    }
    if lists {
        server.run(&format!("INSERT INTO {table} VALUES (1, 1), (3, 8), (4, NULL)")).await;
        let more = "CREATE PUBLICATION less FOR TABLE \"My schema\".\"Tab\"\"le\" WHERE (b < 2) WITH (publish = 'insert')";
        server.run(more).await;
        let tables = server.tables(&["less", "filtered"]).await;
        let rows = copy_table(&mut server.session, &tables[0]).await;
        let ids: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
        assert_eq!(ids, [Some(b"1".to_vec()), Some(b"3".to_vec())]);
        let sql = tables[0].copy_pages(&tables[0].leaves[0], Some(0..u32::MAX), Some("b > 1 -- only"));
        assert_eq!(copy(&mut server.session, &sql, tables[0].table.columns.len()).await.len(), 1);
    }
}

#[tokio::test]
#[ignore = "needs a server"]
async fn keys_of_all_kinds_are_walked_through() {
    let mut server = Server::new(
        "keys",
        "CREATE SCHEMA s; CREATE TYPE s.mood AS ENUM ('sad', 'ok', 'fine');
         CREATE DOMAIN s.inner_domain AS varchar(20); CREATE DOMAIN s.code AS s.inner_domain CHECK (length(value) < 9);
         CREATE PUBLICATION p FOR ALL TABLES",
    )
    .await;
    // Two columns, the second of which is the key; each row is another key.
    for (kind, value) in [
        ("bigint", "n - 100"),
        ("text", "e'\\\\ \\'\" ' || chr(n + 31) || 'é'"),
        ("text COLLATE \"C\"", "chr(n + 31)"),
        ("char(9)", "'x' || n"),
        ("varchar(5)", "'y' || n"),
        ("name", "'N' || n"),
        ("\"char\"", "chr(n % 90 + 33)"),
        ("numeric", "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE n / 7.0 END"),
        ("float8", "CASE n WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' ELSE n / 7.0::float8 END"),
        ("float4", "n / 7.0::float4"),
        ("timestamptz", "timestamptz '2024-01-01' + n * interval '1.000001 s'"),
        ("date", "CASE n WHEN 1 THEN '-infinity' ELSE date '0044-03-15 BC' + n END"),
        ("interval", "n * interval '1 month 3 days -01:00:00.5'"),
        ("uuid", "md5(n::text)::uuid"),
        ("bytea", "decode(md5(n::text), 'hex')"),
        ("inet", "inet '10.0.0.0' + n"),
        ("bool", "n = 1"),
        ("money", "(n * 1234.5)::numeric::money"),
        ("int[]", "ARRAY[n, NULL]"),
        ("jsonb", "to_jsonb(n)"),
        ("oid", "n"),
        ("bit varying", "n::bit(8)::varbit"),
        ("int4range", "int4range(n, n + 2)"),
        ("s.mood", "(ARRAY['sad', 'ok', 'fine'])[n % 3 + 1]::s.mood"),
        ("s.code", "'c' || n"),
    ] {
        server
            .run(&format!(
                "CREATE TABLE s.t (v int, k {kind} PRIMARY KEY, w text);
                 INSERT INTO s.t SELECT n, {value}, 'w' FROM generate_series(1, 120) n ON CONFLICT DO NOTHING"
            ))
            .await;
        let table = server.table("p", "t").await;
        let mut all = copy_table(&mut server.session, &table).await;
        let chunks = server.chunks(&table, 11, None).await;
        let of_server =
            copy(&mut server.session, "COPY (SELECT v, k, w FROM s.t ORDER BY k) TO STDOUT", 3).await;
        assert_eq!(chunks, of_server, "{kind}");
        assert!(all.len() > 1);
        let keys: Vec<_> = all.iter().map(|row| key_of(&table, row)).collect();
        let mut by_key = copy(&mut server.session, &table.copy_keys(&keys, None), 3).await;
        by_key.sort();
        all.sort();
        assert_eq!(by_key, all, "{kind}");
        server.run("DROP TABLE s.t").await;
    }
    let key = |name: &str, index, type_sql: &str| KeyColumn {
        name: name.to_owned(),
        index,
        type_sql: type_sql.to_owned(),
    };
    for (columns, wanted) in [
        (
            "a int, b s.code, c s.mood, d char(3), PRIMARY KEY (d, b, c) INCLUDE (a)",
            vec![key("d", 3, "bpchar"), key("b", 1, "character varying"), key("c", 2, "s.mood")],
        ),
        ("a int, b int NOT NULL, c int UNIQUE", vec![]),
    ] {
        server.run(&format!("CREATE TABLE t ({columns})")).await;
        assert_eq!(server.table("p", "t").await.key, wanted, "{columns}");
        server.run("DROP TABLE t").await;
    }
    server
        .run(
            "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int); CREATE UNIQUE INDEX u ON t (b, a);
             ALTER TABLE t REPLICA IDENTITY USING INDEX u",
        )
        .await;
    assert_eq!(server.table("p", "t").await.key, [key("b", 1, "integer"), key("a", 0, "integer")]);
    if server.is_at_least(15) {
        server.run("ALTER TABLE t ADD PRIMARY KEY (a); CREATE PUBLICATION partly FOR TABLE t (b, c) WITH (publish = 'insert')").await;
        assert_eq!(server.table("partly", "t").await.key, [], "no key is published whole");
    }
}

#[tokio::test]
#[ignore = "needs a server"]
async fn statements_use_the_index_or_the_pages() {
    let mut server = Server::new(
        "plans",
        "CREATE TABLE one (id bigint PRIMARY KEY, v text); INSERT INTO one SELECT n, 'v' || n FROM generate_series(1, 100000) n;
         CREATE TABLE two (a text, b int, v text, PRIMARY KEY (b, a)); INSERT INTO two SELECT 'a' || n % 10, n, 'v' FROM generate_series(1, 100000) n;
         CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (50000); CREATE TABLE high PARTITION OF root FOR VALUES FROM (50000) TO (200000);
         INSERT INTO root SELECT n, 'v' FROM generate_series(1, 100000) n;
         CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)",
    )
    .await;
    // Without statistics as well as with them.
    for analyzed in [false, true] {
        if analyzed {
            server.run("VACUUM ANALYZE").await;
        }
        for (name, after, keys) in [
            ("one", &["50000"][..], (1..20).map(|n| vec![(n * 100).to_string()]).collect::<Vec<_>>()),
            ("two", &["50000", "a0"], (1..20).map(|n| vec![n.to_string(), format!("a{}", n % 10)]).collect()),
            ("root", &["49990"], (1..20).map(|n| vec![(n * 4000).to_string()]).collect()),
        ] {
            let table = server.table("p", name).await;
            let after: Vec<_> = after.iter().map(|value| (*value).to_owned()).collect();
            let statements = [
                table.copy_chunk(None, 1000, None),
                table.copy_chunk(Some(&after), 1000, None),
                table.copy_keys(&keys, None),
            ];
            for sql in statements {
                let plan = server.plan(&sql).await;
                assert!(
                    !plan.contains("Seq Scan") && !plan.contains("Sort "),
                    "{analyzed} {sql:.300}\n{plan}"
                );
                assert!(plan.contains("Index") && !plan.contains("Parallel"), "{sql:.300}\n{plan}");
            }
            let rows =
                copy(&mut server.session, &table.copy_keys(&keys, None), table.table.columns.len()).await;
            assert_eq!(rows.len(), keys.len(), "{name}");
        }
        let table = server.table("p", "one").await;
        let plan = server.plan(&table.copy_pages(&table.leaves[0], Some(10..20), None)).await;
        assert!(plan.contains("Tid Range Scan"), "{plan}");
        let plan = server.plan(&table.copy_pages(&table.leaves[0], None, None)).await;
        assert!(plan.starts_with("Seq Scan"), "{plan}");
    }
    let table = server.table("p", "one").await;
    let leaf = &table.leaves[0];
    let mut rows = Vec::new();
    let step = leaf.pages / 7;
    for n in 0..7 {
        let end = if n == 6 { u32::MAX } else { (n + 1) * step };
        let sql = table.copy_pages(leaf, Some(n * step..end), None);
        rows.extend(copy(&mut server.session, &sql, 2).await);
    }
    assert_eq!(rows.len(), 100_000);
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), 100_000, "each row once");
}

#[tokio::test]
#[ignore = "needs a server"]
async fn sizes_rights_and_what_can_be_out_of_line() {
    let server = Server::new(
        "sizes",
        "DROP ROLE IF EXISTS headwater_pg_reader; CREATE ROLE headwater_pg_reader LOGIN;
         CREATE TABLE empty (id int PRIMARY KEY);
         CREATE TABLE fixed (id int PRIMARY KEY, v int); INSERT INTO fixed SELECT n, n FROM generate_series(1, 10000) n;
         CREATE TABLE texts (id int PRIMARY KEY, v text); INSERT INTO texts SELECT n, 'v' || n FROM generate_series(1, 10000) n;
         CREATE TABLE plain (id int PRIMARY KEY, v text);
         CREATE SCHEMA closed; CREATE TABLE closed.t (id int PRIMARY KEY); GRANT SELECT ON closed.t TO headwater_pg_reader;
         GRANT SELECT ON fixed TO headwater_pg_reader; GRANT SELECT (id, v) ON texts TO headwater_pg_reader;
         GRANT SELECT (id) ON plain TO headwater_pg_reader;
         CREATE PUBLICATION p FOR ALL TABLES",
    )
    .await;
    server.run("ALTER TABLE plain ALTER v SET STORAGE plain").await;
    let find = |tables: &[SnapshotTable], name: &str| {
        tables.iter().find(|table| table.table.name == name).expect("a table").clone()
    };
    let check_rows = |table: &SnapshotTable, exact: bool| {
        let leaf = &table.leaves[0];
        let range = if exact { 10_000..=10_000 } else { 5_000..=20_000 };
        assert!(range.contains(&leaf.estimated_rows), "{} of {leaf:?}", leaf.estimated_rows);
        assert!((40..80).contains(&leaf.pages), "{leaf:?}");
    };
    let before = server.tables(&["p"]).await;
    for name in ["fixed", "texts"] {
        check_rows(&find(&before, name), false);
    }
    let empty = &find(&before, "empty").leaves[0];
    assert_eq!((empty.pages, empty.estimated_rows), (0, 0));
    server.run("ANALYZE").await;
    server.run("VACUUM FULL fixed").await;
    let after = server.tables(&["p"]).await;
    for name in ["fixed", "texts"] {
        check_rows(&find(&after, name), true);
    }
    let filenode = |tables: &[SnapshotTable], name: &str| find(tables, name).leaves[0].filenode;
    assert_ne!(filenode(&before, "fixed"), filenode(&after, "fixed"), "written anew");
    assert_eq!(filenode(&before, "texts"), filenode(&after, "texts"));
    for (name, toastable) in [("fixed", false), ("texts", true), ("plain", false)] {
        assert_eq!(find(&after, name).toastable, toastable, "{name}");
    }

    let reader = ConnectSettings { user: "headwater_pg_reader".to_owned(), ..server.settings.clone() };
    let client = connect(&reader).await.expect("connected");
    let tables = snapshot_tables(&client, &["p".to_owned()]).await.expect("answered");
    let mut session = CopySession::connect(&reader).await.expect("connected");
    for (name, may_select, may_select_pages) in [
        ("fixed", true, true),
        ("texts", true, false),
        ("plain", false, false),
        ("empty", false, false),
        ("t", false, true),
    ] {
        let table = find(&tables, name);
        assert_eq!((table.may_select, table.may_select_pages), (may_select, may_select_pages), "{name}");
        for (pages, may) in [(None, may_select), (Some(0..1), may_select && may_select_pages)] {
            session.copy_out(&table.copy_pages(&table.leaves[0], pages.clone(), None)).await.expect("sent");
            let refused = loop {
                match session.next_rows().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(error) => break error.sqlstate().map(str::to_owned),
                }
            };
            assert_eq!(refused.as_deref(), (!may).then_some("42501"), "{name} {pages:?}");
        }
    }
    drop((session, client));
    server.run("DROP OWNED BY headwater_pg_reader; DROP ROLE headwater_pg_reader").await;
}
