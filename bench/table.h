// The console output of benchmarks, and what their main functions share.
#pragma once

namespace cbq::bench {

// Runs what is registered and prints one line a benchmark: its time and the counters GB/s, of_copy, TFLOP/s, of_gemm.
// Takes the flags of Google Benchmark. The exit code: 2 for a flag it does not know, 1 if a benchmark failed.
int run_benchmarks(int argc, char** argv);

}  // namespace cbq::bench
