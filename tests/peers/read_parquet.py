"""Another implementation reads a Parquet file, driven by a test. `read_parquet.py FILE` prints one JSON object.

It holds the schema (name, type, nullable), the rows of each row group, how the columns are compressed, and the rows
themselves. Times are in microseconds since 1970, decimals are their exact text.
"""

import datetime
import decimal
import json
import sys

import pyarrow.parquet as pq

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    return value


def main(path: str) -> dict:
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
    return {
        "schema": [[field.name, str(field.type), field.nullable] for field in file.schema_arrow],
        "groups": [group.num_rows for group in groups],
        "compression": sorted({group.column(n).compression for group in groups for n in range(group.num_columns)}),
        "rows": [{name: plain(value) for name, value in row.items()} for row in file.read().to_pylist()],
    }


print(json.dumps(main(sys.argv[1])))
