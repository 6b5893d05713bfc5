// What OpenMP and OpenBLAS read from the environment when the program is loaded.
#pragma once

namespace cbq::cpu {

// Call first in main. Sets the variables below where the user has not, and then starts the program anew, once:
//   OMP_WAIT_POLICY=passive   A thread that spins at a barrier keeps the core that its partner needs to reach it:
//   beside
//                             one busy process a small run takes ten times as long. On idle cores waiting costs
//                             nothing.
//   OPENBLAS_CORETYPE         An OpenBLAS older than the CPU falls back to SSE3 kernels, at a third or less of the
//   speed;
//                             this names the widest kernels that the CPU can run.
void prepare_libraries(char** argv);

}  // namespace cbq::cpu
