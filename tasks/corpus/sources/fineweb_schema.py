"""The FineWeb schema: the columns that every source of raw documents is brought to.

Column meanings follow the FineWeb data card. `language_score` is the classifier's confidence in the
label in `language`, whichever language that is, so a sure German document scores high too. `id`
is meant to be unique but repeats in the wild: join documents by file and row.

Called by the demo corpus, the sources that read local and hub files, and the filter.
"""

from __future__ import annotations

import pyarrow as pa

FINEWEB_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("id", pa.string()),
        ("dump", pa.string()),
        ("url", pa.string()),
        ("date", pa.string()),
        ("file_path", pa.string()),
        ("language", pa.string()),
        ("language_score", pa.float64()),
        ("token_count", pa.int64()),
    ]
)
