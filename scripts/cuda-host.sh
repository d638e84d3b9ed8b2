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
rows() { # rows MODE ARGUMENTS...: op rows without a test framework; one kernel runs at a time in a process
  local mode=$1
  shift
  LATHE_CUDA_MODULE=$absolute/$mode/lathe_cuda_host.so node -r ts-node/register/transpile-only scripts/gpu/op-rows.ts cuda "$@" --quiet
}
timed() { # timed NAME COMMAND...
  local begun=$SECONDS name=$1 status
  shift
  "$@"
  status=$?
  echo "-- $name: $((SECONDS - begun)) s"
  return $status
}
# Each mode is a lane; with both, they share two cores: one compiles while the other runs.
race() {
  timed "race: planted bugs" "$out/race/shim_test" &&
    timed "race: products" "$out/race/gemm_paths" &&
    timed "race: rows, first half" rows race --part 0/2 &&
    timed "race: rows, second half" rows race --part 1/2 &&
    LATHE_CUDA_MODULE=$absolute/race/lathe_cuda_host.so timed "race: runtime" npx jest test/ops/cuda-runtime.test.ts test/native/cuda-device.test.ts -t "CUDA runtime|CUDA_VISIBLE_DEVICES"
}
address() {
  export ASAN_OPTIONS=detect_leaks=0 # fibers and shared blocks are kept, on purpose
  timed "address: build" build address &&
    timed "address: planted bugs" "$out/address/shim_test" &&
    timed "address: products" "$out/address/gemm_paths" || return 1
  export LATHE_CUBLASLT=$absolute/address/cublaslt_mock.so LATHE_SHIM_SEED=${LATHE_SHIM_SEED:-7}
  timed "address: products, with a stand-in for cuBLASLt" "$out/address/gemm_paths" || return 1
  local sanitizer
  sanitizer=$(g++ -print-file-name=libasan.so)
  LD_PRELOAD=$sanitizer timed "address: rows, with a stand-in for cuBLASLt" rows address || return 1
  if LD_PRELOAD=$sanitizer LATHE_CUBLASLT_MOCK=wrong rows address --family matmul --part 0/3 >/dev/null 2>&1; then
    echo "a wrong stand-in for cuBLASLt went unnoticed"
    return 1
  fi
}
mkdir -p "$out"
lanes=()
for mode in "${modes[@]}"; do
  case $mode in
    race)
      timed "race: build" build race
      if [ ${#modes[@]} -gt 1 ]; then jobs=1; fi
      race >"$out/race-lane.log" 2>&1 &
      lanes+=("race $!")
      ;;
    address)
      address >"$out/address-lane.log" 2>&1 &
      lanes+=("address $!")
      ;;
    *) echo "unknown mode '$mode'" >&2; exit 2 ;;
  esac
done
failed=0
for lane in "${lanes[@]}"; do
  read -r mode process <<<"$lane"
  wait "$process" || { failed=1; echo "-- $mode FAILED"; }
  cat "$out/$mode-lane.log"
done
exit $failed
