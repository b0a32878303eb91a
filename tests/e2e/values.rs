//! One column per type of the type table, and rows at the edges of each: what arrives is what Postgres renders.
//! The basic changes carry them, so that they are compared on every version.

/// One column per type.
pub const TABLE: &str = r#"
create type mood as enum ('sad', 'ok', 'so "so", no');
create domain positive as int check (value > 0);
create table sample (
  id bigint primary key,
  c_bool bool, c_int2 int2, c_int4 int4, c_int8 int8, c_float4 float4, c_float8 float8,
  c_numeric numeric, c_numeric10_2 numeric(10,2), c_numeric5 numeric(5), c_numeric38_10 numeric(38,10),
  c_text text, c_varchar varchar(20), c_char1 char, c_char8 char(8), c_bytea bytea,
  c_date date, c_time time, c_time3 time(3), c_timestamp timestamp, c_timestamp3 timestamp(3), c_timestamp0 timestamp(0),
  c_timestamptz timestamptz, c_timestamptz3 timestamptz(3), c_uuid uuid, c_json json, c_jsonb jsonb, c_enum mood,
  c_domain positive,
  c_bool_array bool[], c_int4_array int4[], c_int8_array int8[], c_float8_array float8[], c_text_array text[],
  c_numeric_array numeric(10,2)[], c_date_array date[], c_timestamptz_array timestamptz[], c_uuid_array uuid[],
  c_enum_array mood[], c_jsonb_array jsonb[], c_bytea_array bytea[],
  c_inet inet, c_interval interval, c_range int4range, c_point point, c_search tsvector, c_bits varbit,
  c_oid oid, c_xml xml, c_timetz timetz, c_bit8 bit(8), c_line line, c_box box, c_path path, c_polygon polygon,
  c_circle circle, c_query tsquery, c_lsn pg_lsn, c_ranges daterange[], c_intervals interval[], c_points point[]
);
"#;

/// Plain, null, smallest, largest, special.
pub const ROWS: &[&str] = &[
    r#"insert into sample values (1, true, 1, 2, 3, 1.5, 2.5, 123.4500, 1.10, 12345, 1.5, 'text', 'varchar', 'c', 'char8', '\x00ff10',
      '2024-02-29', '12:34:56.123456', '12:34:56.789', '2024-02-29 12:34:56.123456', '2024-02-29 12:34:56.789',
      '2024-02-29 12:34:56', '2024-02-29 12:34:56.123456+02', '2024-02-29 12:34:56.789+00',
      'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, 2.50, null],  "b":"x", "a": 2}', '{"b": "x", "a": [1, 2.50, null]}', 'ok', 5,
      '{t,f,null}', '{1,null,3}', '{9223372036854775807}', '{1.5,NaN,-Infinity}', '{"a","b \"q\"",null,"","null","{x}","a,b","\\"}',
      '{1.10,null}', '{2024-02-29,1969-12-31}', '{"2024-02-29 12:34:56.123456+00"}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}',
      '{sad,"so \"so\", no"}', array['{"a": 1}'::jsonb], array['\x01'::bytea, null, '\x'],
      '192.168.0.1/24', '1 year 2 mons 3 days 04:05:06.789', '[1,10)', '(1.5,-2.5)', 'a fat cat', '101',
      4000000000, '<a b="c">d</a>', '12:34:56.5+00', '00001010', '{1,2,3}', '(0,0),(1,1.5)', '((0,0),(1,1),(2,0))',
      '((0,0),(1,1),(2,0))', '<(0,-1),5>', 'fat & cat', '16/B374D848', '{"[2024-01-01,)",empty,null}',
      '{1 day,-00:00:01,null}', '{"(1,2)",null}')"#,
    "insert into sample (id) values (2)",
    r#"insert into sample (id, c_bool, c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_numeric10_2, c_numeric5, c_numeric38_10,
      c_text, c_varchar, c_char1, c_char8, c_bytea, c_date, c_time, c_timestamp, c_timestamptz, c_uuid, c_json, c_text_array, c_int4_array)
      values (3, false, -32768, -2147483648, -9223372036854775808, '-Infinity', 'NaN', -0.000000000000000000001, -99999999.99, -99999,
      -9999999999999999999999999999.9999999999, '', '', '', '', '', '0001-01-01', '00:00:00', '0001-01-01 00:00:00',
      '0001-01-01 00:00:00+00', '00000000-0000-0000-0000-000000000000', 'null', '{}', '{}')"#,
    r#"insert into sample (id, c_int2, c_int4, c_int8, c_float4, c_float8, c_numeric, c_numeric10_2, c_numeric38_10, c_time, c_time3,
      c_date, c_timestamp, c_timestamp3, c_timestamptz) values (4, 32767, 2147483647, 9223372036854775807, 'Infinity', '-0', 1e30,
      99999999.99, 9999999999999999999999999999.9999999999, '24:00:00', '23:59:59.999', '9999-12-31',
      '9999-12-31 23:59:59.999999', '1969-12-31 23:59:59.999', '9999-12-31 23:59:59.999999+00')"#,
    r#"insert into sample (id, c_float4, c_float8, c_numeric, c_date, c_timestamp, c_timestamptz, c_text, c_bytea) values (5, 1.17549435e-38,
      2.2250738585072014e-308, 0.00, '4713-01-01 BC', '0044-03-15 12:00:00 BC', '0044-03-15 12:00:00+00 BC', E'line\nbreak\ttab \u00fc \U0001F980 \\ '' "',
      decode(repeat('5c', 300), 'hex'))"#,
    r#"insert into sample (id, c_date, c_timestamp, c_timestamp3, c_timestamptz, c_timestamptz3, c_date_array, c_timestamptz_array) values
      (6, 'infinity', 'infinity', 'infinity', 'infinity', 'infinity', '{infinity,-infinity}', '{infinity}')"#,
    r#"insert into sample (id, c_date, c_timestamp, c_timestamp3, c_timestamptz, c_timestamptz3, c_numeric) values
      (7, '-infinity', '-infinity', '-infinity', '-infinity', '-infinity', -1e100)"#,
    r#"insert into sample (id, c_float4, c_float8, c_numeric, c_date, c_timestamptz, c_int4_array) values (8, 3.4028235e38,
      1.7976931348623157e308, 1e-100, '12345-06-07', '21016-11-04 06:51:30.123456+00', '[5:6]={1,2}')"#,
    "update sample set c_text = 'changed', c_numeric10_2 = null, c_numeric = c_numeric * 10, c_jsonb = '{}' where id in (1, 3)",
    "delete from sample where id in (2, 6, 7)",
];
