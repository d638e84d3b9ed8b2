#!/usr/bin/env bash
# Runs every CUDA kernel on the CPU, without nvcc and without a GPU (native/tests/cuda-on-host; docs/cuda.md).
#
#   scripts/cuda-host.sh [race] [address]     default: both
#     race      every access recorded, warps and lanes in shuffled orders: the shim's own planted bugs, products of every kind,
#               all op rows, the runtime around them
#     address   planted bugs and all op rows under the address sanitizer, in another order, with a stand-in for cuBLASLt; once more
#               with one that is wrong, which must fail
# LATHE_SHIM_SEED sets the order; LATHE_CUDA_HOST_BUILD where to build; LATHE_BUILD_JOBS how many compilers.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${LATHE_CUDA_HOST_BUILD:-build/cuda-host}
jobs=${LATHE_BUILD_JOBS:-2}
modes=("$@")
[ ${#modes[@]} -gt 0 ] || modes=(race address)

build() { # build MODE
  cmake -S native/tests/cuda-on-host -B "$out/$1" -DLATHE_SHIM="$1" >/dev/null
  cmake --build "$out/$1" --parallel "$jobs" >"$out/$1.log" 2>&1 || { tail -n 40 "$out/$1.log"; return 1; }
}
absolute=$out
case $absolute in /*) ;; *) absolute=$PWD/$absolute ;; esac
rows() { # rows MODE ARGUMENTS...: op rows without a test framework
  local mode=$1
  shift
  LATHE_CUDA_MODULE=$absolute/$mode/lathe_cuda_host.so node -r ts-node/register/transpile-only scripts/gpu/op-rows.ts cuda "$@" --quiet
}
all_rows() { # all_rows MODE: two processes, because one kernel runs at a time in a process
  local first status=0
  rows "$1" --part 0/2 &
  first=$!
  rows "$1" --part 1/2 || status=1
  wait $first || status=1
  return $status
}
timed() { # timed NAME COMMAND...
  local begun=$SECONDS name=$1
  shift
  "$@"
  echo "-- $name: $((SECONDS - begun)) s"
}
mkdir -p "$out"
for mode in "${modes[@]}"; do
  case $mode in
    race)
      timed "build race" build race
      "$out/race/shim_test"
      "$out/race/gemm_paths"
      timed "rows, races recorded" all_rows race
      LATHE_CUDA_MODULE=$absolute/race/lathe_cuda_host.so timed "runtime" npx jest test/ops/cuda-runtime.test.ts test/native/cuda-device.test.ts -t "CUDA runtime|CUDA_VISIBLE_DEVICES"
      ;;
    address)
      export ASAN_OPTIONS=detect_leaks=0 # fibers and shared blocks are kept, on purpose
      timed "build address" build address
      "$out/address/shim_test"
      "$out/address/gemm_paths"
      export LATHE_CUBLASLT=$absolute/address/cublaslt_mock.so LATHE_SHIM_SEED=${LATHE_SHIM_SEED:-7}
      "$out/address/gemm_paths"
      sanitizer=$(g++ -print-file-name=libasan.so)
      LD_PRELOAD=$sanitizer timed "rows, addresses checked, with a stand-in for cuBLASLt" all_rows address
      if LD_PRELOAD=$sanitizer LATHE_CUBLASLT_MOCK=wrong rows address --family matmul --part 0/3 >/dev/null 2>&1; then
        echo "a wrong stand-in for cuBLASLt went unnoticed"
        exit 1
      fi
      ;;
    *) echo "unknown mode '$mode'" >&2; exit 2 ;;
  esac
done
