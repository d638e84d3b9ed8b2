#!/bin/sh
# Compiler launcher: runs the command and keeps what it said beside its object (x.o.log), because ptxas reports registers,
# spills and shared memory only while it compiles. scripts/cuda-resources.js reads these files.
out=
take=
for word in "$@"; do
  [ -n "$take" ] && out=$word && take=
  [ "$word" = -o ] && take=1
done
[ -n "$out" ] || exec "$@"
"$@" >"$out.log" 2>&1
status=$?
[ $status -eq 0 ] || cat "$out.log" >&2
exit $status
