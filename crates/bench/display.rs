//! A decoded Avro value as one readable line: unions are unwrapped, nulls left out, decimals written as numbers.

use std::collections::HashMap;

use anyhow::Result;
use apache_avro::Schema;
use apache_avro::types::Value;
use schema_registry_converter::async_impl::avro::AvroDecoder;

/// Named schemas met so far: `after` refers to the record that `before` defines.
type Named<'s> = HashMap<String, &'s Schema>;

/// A key, or the payload of an outbox record.
pub async fn plain(decoder: &AvroDecoder, bytes: Option<&[u8]>) -> Result<String> {
    let Some(decoded) = decoder.decode_with_schema(bytes).await? else { return Ok("null".to_owned()) };
    let mut line = String::new();
    render(&decoded.value, &decoded.schema.parsed, &mut Named::new(), &mut line);
    Ok(line)
}

/// What an envelope says: its operation and the rows before and after.
pub struct Envelope {
    pub op: String,
    pub before: String,
    pub after: String,
}

/// Decodes a change; none for a tombstone.
pub async fn envelope(decoder: &AvroDecoder, bytes: Option<&[u8]>) -> Result<Option<Envelope>> {
    if bytes.is_none() {
        return Ok(None);
    }
    let Some(decoded) = decoder.decode_with_schema(bytes).await? else { return Ok(None) };
    let mut envelope = Envelope { op: String::new(), before: String::new(), after: String::new() };
    let (Value::Record(fields), Schema::Record(schema)) = (&decoded.value, &decoded.schema.parsed) else {
        anyhow::bail!("the value is not an envelope")
    };
    let mut named = Named::new();
    for ((name, value), field) in fields.iter().zip(&schema.fields) {
        let place = match name.as_str() {
            "op" => &mut envelope.op,
            "before" => &mut envelope.before,
            "after" => &mut envelope.after,
            _ => continue,
        };
        // `before` is null more often than not, and defines the record that `after` is of
        define(&field.schema, &mut named);
        render(value, &field.schema, &mut named, place);
    }
    Ok(Some(envelope))
}

fn define<'s>(schema: &'s Schema, named: &mut Named<'s>) {
    match schema {
        Schema::Union(union) => union.variants().iter().for_each(|variant| define(variant, named)),
        Schema::Record(record) => {
            named.insert(record.name.to_string(), schema);
        }
        _ => {}
    }
}

fn render<'s>(value: &Value, schema: &'s Schema, named: &mut Named<'s>, line: &mut String) {
    match (value, schema) {
        (value, Schema::Ref { name }) => match named.get(&name.to_string()) {
            Some(&schema) => render(value, schema, named, line),
            None => line.push_str(&format!("{value:?}")),
        },
        (Value::Union(index, value), Schema::Union(union)) => match union.variants().get(*index as usize) {
            Some(variant) => render(value, variant, named, line),
            None => line.push('?'),
        },
        (Value::Record(fields), Schema::Record(record)) => {
            define(schema, named);
            let mut separator = "{";
            for ((name, value), field) in fields.iter().zip(&record.fields) {
                if is_null(value) {
                    continue;
                }
                line.push_str(&format!("{separator}{name}="));
                render(value, &field.schema, named, line);
                separator = " ";
            }
            line.push_str(if separator == "{" { "{}" } else { "}" });
        }
        (Value::Decimal(decimal), Schema::Decimal(schema)) => match Vec::try_from(decimal) {
            Ok(bytes) => line.push_str(&decimal_text(&bytes, schema.scale)),
            Err(_) => line.push('?'),
        },
        (Value::Null, _) => line.push_str("null"),
        (Value::String(text), _) => line.push_str(text),
        (Value::Long(number), _) => line.push_str(&number.to_string()),
        (Value::Int(number), _) => line.push_str(&number.to_string()),
        (other, _) => line.push_str(&format!("{other:?}")),
    }
}

fn is_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Union(_, inner) => is_null(inner),
        _ => false,
    }
}

/// Two's complement, most significant byte first, as Avro's specification has it; up to 16 bytes.
fn decimal_text(bytes: &[u8], scale: usize) -> String {
    if bytes.len() > 16 {
        return format!("a number of {} bytes", bytes.len());
    }
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let number = bytes
        .iter()
        .fold(if negative { -1_i128 } else { 0 }, |number, byte| (number << 8) | i128::from(*byte));
    let digits = format!("{:0>width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if negative { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::decimal_text;

    #[test]
    fn decimals_are_written_as_postgres_writes_them() {
        for (bytes, scale, expected) in [
            (&[0x00][..], 2, "0.00"),
            (&[0x05], 2, "0.05"),
            (&[0xfb], 2, "-0.05"),
            (&[0x04, 0xd2], 2, "12.34"),
            (&[0xfb, 0x2e], 2, "-12.34"),
            (&[0x2a], 0, "42"),
        ] {
            assert_eq!(decimal_text(bytes, scale), expected);
        }
    }
}
