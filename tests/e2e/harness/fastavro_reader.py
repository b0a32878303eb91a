"""Reads Avro in Confluent's wire format with fastavro, as a Python consumer would, and says what it finds.

In: lines of two words, hexadecimal: a record's key and value, `-` where there is none.
Out: per line one line of JSON: {"key": ROW, "before": ROW, "after": ROW}, where ROW is null or {column: CELL} and CELL
is null or one tagged value, such as {"text": "2024-02-29"}; `harness/fastavro.rs` has the tags. What text a value
stands for is read from the schema alone: from Avro's logical types, which fastavro turns into Python's own values, and
from Connect's names.
"""

import datetime
import decimal
import io
import json
import struct
import sys
import urllib.request
import uuid

import fastavro
import fastavro.read

DAY = 86_400_000_000
# fastavro's own limit is that of Python's default context
decimal.getcontext().prec = 200


class Beyond(int):
    """A number of a logical type that Python's own type does not reach, such as the year 10000."""


def reaching(native):
    def read(data, *schemas):
        try:
            return native(data, *schemas)
        except (OverflowError, ValueError):
            return Beyond(data)

    return read


for name in ["int-date", "long-time-micros", "long-timestamp-micros", "long-local-timestamp-micros"]:
    fastavro.read.LOGICAL_READERS[name] = reaching(fastavro.read.LOGICAL_READERS[name])


def date_text(days):
    """Postgres' text of a date: days since 1970, years before 1 are BC."""
    # a date of the same place in another of the calendar's cycles of 400 years
    cycles, rest = divmod(days, 146_097)
    near = datetime.date(1970, 1, 1) + datetime.timedelta(days=rest)
    year = near.year + 400 * cycles
    era = " BC" if year <= 0 else ""
    return f"{1 - year if year <= 0 else year:04d}-{near:%m-%d}", era


def time_text(micros):
    seconds, micros = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return text + (f".{micros:06d}".rstrip("0") if micros else "")


def timestamp_text(micros, zone=""):
    if micros in (2**63 - 1, -(2**63)):
        return "infinity" if micros > 0 else "-infinity"
    days, rest = divmod(micros, DAY)
    date, era = date_text(days)
    return f"{date} {time_text(rest)}{zone}{era}"


def date_or_infinity(days, infinities):
    if days in infinities:
        return "infinity" if days > 0 else "-infinity"
    return "".join(date_text(days))


def micros_of(clock):
    return ((clock.hour * 60 + clock.minute) * 60 + clock.second) * 1_000_000 + clock.microsecond


def zoned_text(text):
    """ISO 8601 with the year as it is counted by astronomers, in UTC, to Postgres' text."""
    if text in ("infinity", "-infinity"):
        return text
    date, clock = text.removesuffix("Z").split("T")
    year, month, day = date.rsplit("-", 2)
    year = int(year)
    clock = clock.rstrip("0").rstrip(".") if "." in clock else clock
    clock += ":00" if len(clock) == 5 else ""
    return f"{1 - year if year <= 0 else year:04d}-{month}-{day} {clock}+00{' BC' if year <= 0 else ''}"


def geometry(value):
    """Its numbers in the order of Postgres' text."""
    if "center" in value:
        return geometry(value["center"]) + [value["radius"]]
    if "a" in value:
        return [value["a"], value["b"], value["c"]]
    wkb = value["wkb"]
    kind = struct.unpack_from("<I", wkb, 1)[0]
    skip = {1: 5, 2: 9, 3: 13}[kind]
    numbers = list(struct.unpack_from(f"<{(len(wkb) - skip) // 8}d", wkb, skip))
    if kind == 1:
        assert numbers == [value["x"], value["y"]], "a point's WKB is another point"
    shape = (value.get("extensions") or {}).get("type")
    if shape == "box":
        return [numbers[0], numbers[1], numbers[4], numbers[5]]
    return numbers[:-2] if shape == "polygon" else numbers


BY_CONNECT_NAME = {
    "Date": lambda v: {"text": date_or_infinity(v, (2146033979, -2147472691))},
    "Time": lambda v: {"text": time_text(v * 1000)},
    "MicroTime": lambda v: {"text": time_text(v)},
    "Timestamp": lambda v: {"text": timestamp_text(v if abs(v) > 2**62 else v * 1000)},
    "MicroTimestamp": lambda v: {"text": timestamp_text(v)},
    "ZonedTimestamp": lambda v: {"text": zoned_text(v)},
    "ZonedTime": lambda v: {"text": v.removesuffix("Z") + "+00"},
    "MicroDuration": lambda v: {"duration": v},
    "Bits": lambda v: {"bits": v.hex()},
    "VariableScaleDecimal": lambda v: {
        "number": format(decimal.Decimal(int.from_bytes(v["value"], "big", signed=True)).scaleb(-v["scale"]), "f")
    },
}


def plain(schema, value, names):
    """A value whose schema or Python type says it all."""
    if isinstance(value, Beyond):
        logical = schema["logicalType"]
        if logical == "date":
            return {"text": date_or_infinity(value, (2**31 - 1, -(2**31)))}
        if logical == "time-micros":
            return {"text": time_text(value)}
        return {"text": timestamp_text(value, "+00" if logical == "timestamp-micros" else "")}
    if isinstance(value, datetime.datetime):
        zone = "+00" if value.tzinfo else ""
        # strftime pads years differently from system to system
        return {"text": f"{value.year:04d}-{value:%m-%d} {time_text(micros_of(value.time()))}{zone}"}
    if isinstance(value, datetime.date):
        return {"text": value.isoformat()}
    if isinstance(value, datetime.time):
        return {"text": time_text(micros_of(value))}
    if isinstance(value, decimal.Decimal):
        return {"text": format(value, "f")}
    if isinstance(value, uuid.UUID):
        return {"text": str(value)}
    if isinstance(value, bool):
        return {"text": "t" if value else "f"}
    if isinstance(value, int):
        return {"text": str(value)}
    if isinstance(value, float):
        return {kind(schema): repr(value)}
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, bytes):
        return {"text": "\\x" + value.hex()}
    if isinstance(value, list):
        return {"array": [cell(schema["items"], item, names) for item in value]}
    return {"numbers": [repr(number) for number in geometry(value)]}


def kind(schema):
    return schema if isinstance(schema, str) else schema["type"]


def cell(schema, value, names):
    if isinstance(schema, list):
        if value is None:
            return None
        (schema,) = [branch for branch in schema if branch != "null"]
    if isinstance(schema, str):
        schema = names.get(schema.rsplit(".", 1)[-1], schema)
    elif not isinstance(schema["type"], str):
        return cell(schema["type"], value, names)
    connect = schema.get("connect.name", "") if isinstance(schema, dict) else ""
    render = BY_CONNECT_NAME.get(connect.rsplit(".", 1)[-1])
    return render(value) if render and not isinstance(value, Beyond) else plain(schema, value, names)


def collect(schema, names):
    if isinstance(schema, list):
        for branch in schema:
            collect(branch, names)
    elif isinstance(schema, dict):
        if "fields" in schema:
            names[schema["name"].rsplit(".", 1)[-1]] = schema
        for inner in ("type", "items", "fields"):
            collect(schema.get(inner), names)


def row(schema, value, names):
    if value is None:
        return None
    return {field["name"]: cell(field["type"], value[field["name"]], names) for field in schema["fields"]}


SCHEMAS = {}


def schema_of(registry, number):
    if number not in SCHEMAS:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"{registry}/schemas/ids/{number}", timeout=10) as answer:
            schema = json.loads(json.load(answer)["schema"])
        names = {}
        collect(schema, names)
        SCHEMAS[number] = fastavro.parse_schema(schema), schema, names
    return SCHEMAS[number]


def datum(registry, word):
    framed = bytes.fromhex(word)
    assert framed[0] == 0, "not in the registry's wire format"
    parsed, schema, names = schema_of(registry, int.from_bytes(framed[1:5], "big"))
    stream = io.BytesIO(framed[5:])
    value = fastavro.schemaless_reader(stream, parsed)
    assert not stream.read(), "bytes after the datum"
    return schema, value, names


def read(registry, key, value):
    found = {"key": None, "before": None, "after": None}
    if key != "-":
        schema, content, names = datum(registry, key)
        found["key"] = row(schema, content, names)
    if value != "-":
        _, content, names = datum(registry, value)
        for image in ("before", "after"):
            found[image] = row(names["Value"], content[image], names)
    return found


for line in sys.stdin:
    print(json.dumps(read(sys.argv[1], *line.split())), flush=True)
