"""Results as one Parquet table for other programs: one row a measurement, all columns plain."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sa_bench.results.files import read_results
from sa_bench.results.rows import code_of
from sa_bench.results.schema import SCHEMA, ResultRow

if TYPE_CHECKING:
    import pandas as pd

FROM_RESULT = (
    "task",
    "method",
    "scale",
    "base_seed",
    "seed",
    "standing",
    "status",
    "error",
    "cell",
    "concept",
    "origin",
)
FROM_MEASUREMENT = (
    "name",
    "role",
    "value",
    "low",
    "high",
    "interval",
    "n",
    "n_unit",
    "unit",
    "better",
    "base",
    "reason",
)
FROM_COST = ("cpu_s", "wall_s", "peak_mib", "device_peak_mib", "device")  # cost of forgetting
AS_JSON = ("fields", "overrides", "flags", "fingerprint", "extra")


def write_parquet(rows: Sequence[ResultRow]) -> bytes:
    """Write every measurement of result rows into a compressed Parquet file.

    Columns: those of a result (task, method, scale, base_seed, seed, standing, status, error, cell,
    concept, origin, and code: the sha256 of a plug-in method's code), those of a measurement (name,
    role, value, low, high, interval, n, n_unit, unit, better, base, reason), the cost of forgetting
    (cpu_s, wall_s, peak_mib, device_peak_mib, device), and fields, overrides, flags, fingerprint
    and extra as JSON texts. A result without measurements, such as a failed one, is one row. The
    metadata `sa_bench_schema` hold the results' schema.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = []
    for row in rows:
        result_columns = {k: row.get(k) for k in FROM_RESULT}
        result_columns |= {k: row["cost"].get("forget", {}).get(k) for k in FROM_COST}
        result_columns |= {"origin": row.get("origin", ""), "code": code_of(row)}
        for m in row["measurements"] or [{}]:
            texts = {k: json.dumps(m.get(k, row.get(k)), sort_keys=True) for k in AS_JSON}
            records.append(result_columns | {k: m.get(k) for k in FROM_MEASUREMENT} | texts)
    columns = [*FROM_RESULT, "code", *FROM_COST, *FROM_MEASUREMENT, *AS_JSON]
    frame = pd.DataFrame(records, columns=columns)
    for name in ("value", "low", "high", "base", *FROM_COST[:-1]):
        frame[name] = pd.to_numeric(frame[name])
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"sa_bench_schema": str(SCHEMA).encode()}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def load_results(*folders: str | Path) -> pd.DataFrame:
    """Load all measurements below `folders` as a table, one row a measurement.

    Columns: task, method, scale, base_seed, seed, control, status; the measurement's name, role,
    value, low, high, interval, n, n_unit, unit, better, base, reason; `fields`, `fingerprint`,
    `extra` as dicts; `folder`; `origin`, the bundle that a row comes from ("" for a run folder);
    `code`, the sha256 of a plug-in method's code ("" for a method of sa_bench).
    `attrs["sa_bench_schema"]` holds the results' schema.
    """
    import pandas as pd

    keys = ("task", "method", "scale", "base_seed", "seed", "control", "status", "fields", "folder")
    columns = (
        "name",
        "role",
        "value",
        "low",
        "high",
        "interval",
        "n",
        "n_unit",
        "unit",
        "better",
        "base",
        "reason",
        "fingerprint",
        "extra",
    )
    rows = [
        {k: result.get(k) for k in keys}
        | {"origin": result.get("origin", ""), "code": code_of(result)}
        | {k: m.get(k) for k in columns}
        for result in read_results([Path(f) for f in folders])
        for m in result["measurements"] or [{}]
    ]
    frame = pd.DataFrame(rows, columns=[*keys, "origin", "code", *columns])
    frame.attrs["sa_bench_schema"] = SCHEMA
    return frame
