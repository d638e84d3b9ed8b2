#!/bin/sh
# Writes test/golden/data-files/*-stream.jsonl.zst: the same 7,000 rows as three programs and habits compress them. Needs zstd and pzstd.
#   threads-stream   zstd -T2: one frame of several jobs, with a checksum
#   pzstd-stream     pzstd -p 2: many frames, each behind a skippable one
#   joined-stream    two files one after the other, cut in the middle of a row
set -e
cd "$(dirname "$0")/../../test/golden/data-files"
rows=$(mktemp)
awk 'BEGIN { for (i = 0; i < 7000; i++) { text = ""; for (k = 0; k < 25; k++) text = text sprintf(" %d", (i * 37 + k * k * 31) % 211); printf "{\"i\": %d, \"text\": \"%s é\"}\n", i, substr(text, 2) } }' > "$rows"
zstd -q -f -T2 -3 --check "$rows" -o threads-stream.jsonl.zst
pzstd -q -f -p 2 -1 "$rows" -o pzstd-stream.jsonl.zst
head -c 400001 "$rows" | zstd -q -9 > joined-stream.jsonl.zst
tail -c +400002 "$rows" | zstd -q -1 >> joined-stream.jsonl.zst
chmod 644 *-stream.jsonl.zst
rm "$rows"
