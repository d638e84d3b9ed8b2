"""
Instruction rows from real code: every documented function of a Python installation becomes
{"instruction": what its docstring's first paragraph says, "input": "", "output": the function}.

    python scripts/rows/python-functions.py OUT.jsonl [--limit N] [--root DIR ...]

Reads the standard library and site-packages of the interpreter that runs it (or --root). Rows are shuffled with a fixed
seed, 15 to 60 lines of code at most, one row per distinct docstring. For experiments on one's own machine: the code keeps its
licences, so the result is not part of this repository.
"""

import argparse
import ast
import json
import random
import sys
import sysconfig
from pathlib import Path


def rows_of(path: Path):
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        doc = ast.get_docstring(node)
        if not doc:
            continue
        first = " ".join(doc.split("\n\n")[0].split())
        body = node.body[1:]
        if not 30 <= len(first) <= 300 or not body:
            continue
        signature = lines[node.lineno - 1 : body[0].lineno - 1]
        end_of_doc = node.body[0].end_lineno
        code = lines[node.lineno - 1 : node.body[0].lineno - 1] + lines[end_of_doc : node.end_lineno]
        if not 3 <= len(code) <= 25 or not signature:
            continue
        indent = len(code[0]) - len(code[0].lstrip())
        text = "\n".join(line[indent:] for line in code).rstrip()
        yield {"instruction": f"Write a Python function `{node.name}`. {first}", "input": "", "output": text}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--limit", type=int, default=4000)
    parser.add_argument("--root", action="append", default=[])
    args = parser.parse_args()
    roots = args.root or [sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]]
    seen, rows = set(), []
    for path in sorted({p for root in roots for p in Path(root).rglob("*.py")}):
        for row in rows_of(path):
            if row["instruction"] not in seen:
                seen.add(row["instruction"])
                rows.append(row)
    random.Random(0).shuffle(rows)
    with open(args.out, "w", encoding="utf-8") as out:
        for row in rows[: args.limit]:
            out.write(json.dumps(row) + "\n")
    print(f"{min(len(rows), args.limit)} of {len(rows)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
