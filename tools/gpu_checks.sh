#!/bin/sh
# The checks that need a GPU; without one, says so in one line and exits 0.
#
#   tests      every test of the CUDA backend
#   memcheck   compute-sanitizer's search for accesses out of bounds, over all tests but those of model shapes; calls
#              that the driver refuses are not counted, since tests ask for what it must refuse
#   racecheck  its search for races in shared memory, over the ops at small shapes but products: it reports cuBLASLt's
#              own kernels
#   golden     perplexities of the models of CBQ_TEST_DATA on the GPU, in float32 and bfloat16
#   runs       whole runs on the GPU: every method, two runs with equal bytes, runs killed and resumed
#
# Usage: tools/gpu_checks.sh BUILD [CHECK ...]; without a CHECK, all of them.
set -eu
cd "$(dirname "$0")/.."
build=${1:?the build folder is missing}
shift
[ $# -gt 0 ] || set -- tests memcheck racecheck golden runs

found=$("$build/tests/test_cuda" --gtest_filter=Cuda.CountsItsMemory)
case $found in *skipped:*) echo "gpu-checks: $found" && exit 0 ;; esac

large='*4096*:*11008*:*32000*'          # model shapes
faults='CudaFaults*'                    # tests that break the device, or fill it

sanitize() {
  tool=$1 filter=$2
  shift 2
  command -v compute-sanitizer >/dev/null || { echo "gpu-checks: compute-sanitizer is not on the PATH" >&2; return 1; }
  compute-sanitizer --tool "$tool" --error-exitcode 1 "$@" "$build/tests/test_cuda" --gtest_brief=1 --gtest_filter="$filter"
}

for check in "$@"; do
  echo "gpu-checks: $check"
  case $check in
    tests) "$build/tests/test_cuda" --gtest_brief=1 ;;
    memcheck) sanitize memcheck "-$faults:$large:CudaFakeQuant.RowsOfEveryLength*" --report-api-errors no ;;
    racecheck)
      rounding='CudaRounding.Unwanted*:CudaRounding.Same*'
      sanitize racecheck "*Parity*:*CudaAttention*:CudaPacking*:$rounding-$large:*matmul*:*linear*"
      ;;
    golden) "$build/tests/test_perplexity" --gtest_filter='*gpu*' ;;
    runs)
      "$build/tests/test_run" --gtest_filter='*/gpu'
      "$build/tests/test_run_resume" --gtest_filter='*/gpu'
      ;;
    *) echo "gpu-checks: there is no check $check: tests, memcheck, racecheck, golden, runs" >&2 && exit 2 ;;
  esac
done
