"""Write marts to parquet where dbt does not, and mend what dbt-duckdb writes for a mart without rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reland_features.columns import Table
from reland_features.databases import connect_postgres

_BATCH_ROWS = 50_000


def export_marts(tables: Sequence[Table], marts_path: Path) -> None:
    """Stream PostgreSQL marts to parquet, in the order of their keys by bytes as DuckDB writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    connection = connect_postgres()
    schema_name = os.environ.get("RELAND_SCHEMA", "reland")
    try:
        for table in tables:
            schema = table.arrow_schema()
            texts = {column.name for column in table.columns if column.type == "string"}
            order = ", ".join(f'"{name}" collate "C"' if name in texts else f'"{name}"' for name in table.key)
            names = ", ".join(f'"{name}"' for name in table.names)
            with (
                pq.ParquetWriter(marts_path / f"{table.name}.parquet", schema) as writer,
                connection.cursor(name=f"export_{table.name}") as cursor,
            ):
                cursor.itersize = _BATCH_ROWS
                cursor.execute(f'select {names} from "{schema_name}"."{table.name}" order by {order}')
                while rows := cursor.fetchmany(_BATCH_ROWS):
                    columns = zip(*rows, strict=True)
                    arrays = [pa.array(values, t) for values, t in zip(columns, schema.types, strict=True)]
                    writer.write_batch(pa.record_batch(arrays, schema=schema))
    finally:
        connection.close()


def empty_if_null_row(path: Path, table: Table) -> None:
    """Undo what dbt-duckdb does to a mart without rows: it writes one row of nulls."""
    import pyarrow.parquet as pq

    if pq.read_metadata(path).num_rows == 1:
        content = pq.read_table(path)
        if content[table.key[0]].null_count == 1:
            pq.write_table(content.slice(0, 0), path)
