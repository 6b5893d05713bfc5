// Rows of a matrix, each held by one block or one warp: what norms, softmaxes and losses over columns share.
//
// A kernel that reduces a row and then writes one reads each element once when the row stays in registers in between:
// kPacks packs of kPack elements a thread, at most 16 registers an input. Which widths get how many threads is chosen
// from the number of columns at launch (dispatch_row). A row too long for that is read again at each walk; the second
// time it comes from the L2 cache, as long as the rows in flight fit there.
#pragma once

#include "cuda/sum.cuh"

namespace cbq::cuda {

// kThreads threads hold a row of up to kColumns; with kPacks = 0 any row, not held. A warp a row where kThreads is 32.
template <int N, int T, int P>
struct RowShape {
  static constexpr int kPack = N, kThreads = T, kPacks = P;
  static constexpr int kRowsPerBlock = T == 32 ? 4 : 1, kBlockThreads = T * kRowsPerBlock;
  // 1024 threads a multiprocessor, 64 registers each: other rows are under way while this one is reduced. Rows without
  // packs need an address an element, and very long ones unroll their loops: both are rare and may take 128.
  static constexpr int kBlocksPerSm = (N == 1 || P == 0 ? 512 : 1024) / kBlockThreads;
  static constexpr bool kHeld = P > 0;
  static constexpr int kElements = kHeld ? N * P : 1;  // that one thread holds
  static constexpr std::int64_t kColumns = std::int64_t(N) * T * P;

  // The grid of take_row: kRowsPerBlock rows a block, 2^30 blocks along x.
  static LaunchShape rows(std::int64_t count) {
    const std::int64_t blocks = (count + kRowsPerBlock - 1) / kRowsPerBlock, most = 1 << 30;
    return {dim3(unsigned(blocks < most ? blocks : most), unsigned((blocks + most - 1) / most)),
            dim3(kThreads, kRowsPerBlock)};
  }
};

// A vector of `cols` elements as a matrix of one row.
template <class T>
Rows<const T> as_row(const T* data, std::int64_t cols) {
  return {data, 1, cols, cols};
}

// fn(S()) with the RowShape S for rows of `cols` elements of T; `rows` are all matrices that are read in packs.
template <class T, class Fn, class... M>
void dispatch_row(std::int64_t cols, const Fn& fn, const M&... rows) {
  constexpr int N = kPackOf<T>;
  if ((packs_if_any<N>(rows) && ...)) {
    if (cols <= RowShape<N, 32, 4>::kColumns) return fn(RowShape<N, 32, 4>());
    if (cols <= RowShape<N, 128, 4>::kColumns) return fn(RowShape<N, 128, 4>());
    if (cols <= RowShape<N, 256, 4>::kColumns) return fn(RowShape<N, 256, 4>());
    if (cols <= RowShape<N, 512, 4>::kColumns) return fn(RowShape<N, 512, 4>());
    if (cols <= RowShape<N, 1024, 4>::kColumns) return fn(RowShape<N, 1024, 4>());
    return fn(RowShape<N, 512, 0>());
  }
  if (cols <= RowShape<1, 32, 16>::kColumns) return fn(RowShape<1, 32, 16>());
  if (cols <= RowShape<1, 512, 16>::kColumns) return fn(RowShape<1, 512, 16>());
  return fn(RowShape<1, 512, 0>());
}

// The same for kernels that hold one row: registers suffice for 24 packs of two blocks a multiprocessor, so that one
// row is loaded while another is reduced.
template <class T, class Fn, class... M>
void dispatch_one_row(std::int64_t cols, const Fn& fn, const M&... rows) {
  constexpr int N = kPackOf<T>;
  using Long = RowShape<N, 512, 6>;
  if (cols > RowShape<N, 512, 4>::kColumns && cols <= Long::kColumns && (packs_if_any<N>(rows) && ...))
    return fn(Long());
  dispatch_row<T>(cols, fn, rows...);
}

// fn(r) for the row r of this thread in a grid S::rows(count). All threads of a row make the same calls, so fn may
// reduce. No loop: what it would keep costs the registers that a row needs.
template <class S, class Fn>
__device__ void take_row(std::int64_t count, const Fn& fn) {
  const std::int64_t block = std::int64_t(blockIdx.y) * gridDim.x + blockIdx.x,
                     r = block * S::kRowsPerBlock + threadIdx.y;
  if (r < count) fn(r);
}

// fn(i, c) for each pack of this thread: its number i among those held, 0 if none is, and its first column c.
template <class S, class Fn>
__device__ void walk(std::int64_t cols, const Fn& fn) {
  if constexpr (S::kHeld) {
#pragma unroll
    for (int i = 0; i < S::kPacks; ++i) {
      const int c = (i * S::kThreads + int(threadIdx.x)) * S::kPack;
      if (c < cols) fn(i, c);
    }
  } else {
#pragma unroll 2
    for (std::int64_t c = std::int64_t(threadIdx.x) * S::kPack; c < cols; c += S::kThreads * S::kPack) fn(0, c);
  }
}

// The same pack, but unknown to the compiler, which would otherwise keep its f32 values from one use to the next: twice
// the registers of a bf16 pack.
template <class T, int N>
__device__ Pack<T, N> unknown(Pack<T, N> pack) {
  if constexpr (sizeof(T) < 4 && sizeof(pack) == 16) {
    uint4& words = reinterpret_cast<uint4&>(pack);
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
  }
  return pack;
}

// One row whose packs `make(i, c)` gives: loaded, or computed and rounded to T. raw(i, c) and at(i, c), its floats,
// take the arguments of walk. A row that is not held is made again at each walk.
template <class S, class T, class Make>
class RowOf {
 public:
  using RowPack = Pack<T, S::kPack>;

  __device__ RowOf(const Make& make, std::int64_t cols) : make_(make) {
    if constexpr (S::kHeld) walk<S>(cols, [&](int i, auto c) { held_[i] = make(i, c); });
  }
  __device__ RowPack raw(int i, std::int64_t c) const {
    if constexpr (S::kHeld)
      return unknown(held_[i]);
    else
      return make_(i, c);
  }
  __device__ Pack<float, S::kPack> at(int i, std::int64_t c) const { return to_floats(raw(i, c)); }
  // Another pack in its place, until the row is dropped. Of rows that are held.
  __device__ void put(int i, const RowPack& pack) { held_[i] = pack; }

 private:
  Make make_;
  RowPack held_[S::kHeld ? S::kPacks : 1];
};

// make(i, c) gives packs of T.
template <class S, class T, class Make>
__device__ RowOf<S, T, Make> made_row(const Make& make, std::int64_t cols) {
  return {make, cols};
}

template <class S, class T>
struct LoadPack {
  const T* row;
  __device__ Pack<T, S::kPack> operator()(int, std::int64_t c) const { return load_pack<S::kPack>(row + c); }
};

// One row as an input.
template <class S, class T>
class RowIn : public RowOf<S, T, LoadPack<S, T>> {
 public:
  __device__ RowIn(const T* row, std::int64_t cols) : RowOf<S, T, LoadPack<S, T>>({row}, cols) {}
};

// Each of K values reduced over the threads of a row, with the barriers of one reduction: over each warp, then in every
// warp over the warps' results. The same result in every thread.
template <class S, int K, class V, class Op>
__device__ void row_reduce(V (&value)[K], Op op) {
  constexpr int kWarps = S::kThreads / 32;  // a power of two
#pragma unroll
  for (int k = 0; k < K; ++k) value[k] = warp_reduce(value[k], op);
  if constexpr (kWarps > 1) {
    __shared__ V of_warp[kWarps][K];
    __syncthreads();  // an earlier call may still be reading
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) of_warp[threadIdx.x / 32][k] = value[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      value[k] = of_warp[threadIdx.x % kWarps][k];
#pragma unroll
      for (int offset = kWarps / 2; offset > 0; offset /= 2)
        value[k] = op(value[k], __shfl_xor_sync(kFullWarp, value[k], offset));
    }
  }
}

template <class S, class V, class Op>
__device__ V row_reduce(V value, Op op) {
  V values[1] = {value};
  row_reduce<S>(values, op);
  return values[0];
}

}  // namespace cbq::cuda
