"""
test/golden/data-files: files that other programs wrote, for the readers of src/data.

  many.jsonl.zst     5,000 rows {"id": i, "text": "row <i> ..."} compressed by zstd (pyarrow), one frame
  frames.jsonl.zst   two frames, as `cat a.zst b.zst` gives
  chat-<codec>.parquet   40 rows in row groups of 16: messages list<struct<role, content>>, id int64, score double, big int64 beyond 2^53;
                     codecs snappy, zstd, gzip, none
  chat.json          the same rows
  hf-csv.json        what datasets makes of a CSV (column types, empty cells); the CSV's text is beside it
"""

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from common import output_folder, save_json


def zstd_bytes(text: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.zst"
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(text.encode())
        return path.read_bytes()


CSV = 'text,label,score,flag,empty,mixed\n"a, ""quoted"" cell",1,0.5,True,,x\nline two,0,-2e3,False,,3\n"two\nlines",,1.25,True,,\n'

if __name__ == "__main__":
    folder = output_folder("data-files")
    rows = "".join(json.dumps({"id": i, "text": f"row {i} of many, é {'x' * (i % 50)}"}, ensure_ascii=False) + "\n" for i in range(5000))
    (folder / "many.jsonl.zst").write_bytes(zstd_bytes(rows))
    (folder / "frames.jsonl.zst").write_bytes(zstd_bytes('{"id": 1}\n{"id": 2}\n{"i') + zstd_bytes('d": 3}\n'))

    chat = [
        {
            "messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"réponse {i}"}][: 1 + i % 2],
            "id": i,
            "score": None if i % 7 == 0 else i / 4,
            "big": 2**60 + i,
        }
        for i in range(40)
    ]
    for codec in ("snappy", "zstd", "gzip", "none"):
        pq.write_table(pa.Table.from_pylist(chat), folder / f"chat-{codec}.parquet", row_group_size=16, compression=codec)
    save_json(folder / "chat.json", [{**row, "big": str(row["big"])} for row in chat])

    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "t.csv"
        path.write_text(CSV)
        loaded = load_dataset("csv", data_files=str(path), split="train", cache_dir=scratch)
        save_json(folder / "hf-csv.json", {"csv": CSV, "rows": list(loaded)})
