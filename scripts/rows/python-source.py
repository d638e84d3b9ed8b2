"""
Rows for pretraining on code: the Python files below some folders, one file a row, as compressed JSON lines.

    python3 scripts/rows/python-source.py OUTPUT FOLDER...

OUTPUT gets train-00.jsonl.gz .. train-15.jsonl.gz and test.jsonl.gz (one file in 200, at most 100). A row is {"content", "path"}.
Left out: files that are not UTF-8, repeat another's text, are shorter than 200 or longer than 100,000 characters, or have a line
above 1,000 characters (the filters of CodeParrot). Order and split follow a hash of the text.
"""

import gzip
import hashlib
import json
import sys
from pathlib import Path

SHARDS = 16


def main(output: Path, folders: list[Path]) -> None:
    rows = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            try:
                text = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if 200 <= len(text) <= 100_000 and max(map(len, text.split("\n"))) <= 1000:
                rows[hashlib.sha256(text.encode()).hexdigest()] = {"content": text, "path": str(path.relative_to(folder))}
    ordered = [rows[key] for key in sorted(rows)]
    test = ordered[::200][:100]
    train = [row for i, row in enumerate(ordered) if i % 200 or i // 200 >= 100]
    output.mkdir(parents=True, exist_ok=True)
    files = {f"train-{s:02}.jsonl.gz": train[s::SHARDS] for s in range(SHARDS)} | {"test.jsonl.gz": test}
    for name, part in files.items():
        with gzip.open(output / name, "wt", encoding="utf-8", compresslevel=6) as out:
            for row in part:
                out.write(json.dumps(row) + "\n")
    characters = sum(len(row["content"]) for row in train)
    print(f"{len(train)} train rows with {characters / 1e6:.1f} million characters, {len(test)} test rows in {output}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])
