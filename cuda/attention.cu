// Causal attention and its gradients (formulas in attention.cuh): the choice between the tensor-core kernels and the
// kernels of this file, which take every type, head size and alignment and multiply in f32.
//
// Here 256 threads, a 16 x 16 grid (ty, tx), own a tile of rows and walk over tiles of columns. Thread (ty, tx)
// computes the scores of rows ty + 16 i and columns tx + 16 j, so that a row belongs to one half of a warp; of the
// results it keeps rows ty + 16 i, columns 4 (tx + 16 j) .. + 3. Tiles hold 32 rows of up to 128 values or 16 of up to
// 256.
#include "cuda/attention.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

constexpr int kSide = 16, kThreads = kSide * kSide;
constexpr std::int64_t kLargestDim = 256;

template <int kDim_>
struct PlainTile {
  static constexpr int kDim = kDim_, kRows = 4096 / kDim, kPer = kRows / kSide, kQuads = kDim / (4 * kSide);
};

// A tile of kRows rows of `stride` floats, zero behind the end of the data. The stride is 4 times an odd number:
// 16-byte reads of eight rows lie in different banks.
struct SharedRows {
  float* data;
  int stride;
  __device__ float4& quad(int row, int column) const {
    return *reinterpret_cast<float4*>(data + row * stride + column);
  }
};

__host__ __device__ constexpr int stride_of(int dim) {
  return 4 * ((dim + 3) / 4 | 1);
}

template <class Tile, class T>
__device__ void load(const SharedRows& to, const HeadRows<const T>& from, int first, int end, int dim) {
  for (int i = int(threadIdx.x); i < Tile::kRows * to.stride; i += kThreads) {
    const int r = i / to.stride, c = i % to.stride;
    to.data[i] = first + r < end && c < dim ? to_float(from.row(first + r)[c]) : 0.0f;
  }
}

__device__ inline float dot(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

template <class Tile>
using PlainScores = float[Tile::kPer][Tile::kPer];

// s = x y^T
template <class Tile>
__device__ void scores(PlainScores<Tile>& s, const SharedRows& x, const SharedRows& y) {
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kPer; ++j) s[i][j] = 0;
#pragma unroll 2
  for (int c = 0; c < x.stride; c += 4) {
    float4 of_x[Tile::kPer], of_y[Tile::kPer];
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i) of_x[i] = x.quad(ty + kSide * i, c), of_y[i] = y.quad(tx + kSide * i, c);
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j) s[i][j] = dot(of_x[i], of_y[j], s[i][j]);
  }
}

// A result of the tile's rows, in registers.
template <class Tile>
struct PlainResult {
  float4 of[Tile::kPer][Tile::kQuads];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) of[i][j] = {0, 0, 0, 0};
  }

  __device__ void scale(int i, float factor) {
#pragma unroll
    for (int j = 0; j < Tile::kQuads; ++j)
      of[i][j].x *= factor, of[i][j].y *= factor, of[i][j].z *= factor, of[i][j].w *= factor;
  }

  // += p y, the scores p passed through `exchange` (kRows, kRows + 1), in which a half warp touches its own rows alone.
  __device__ void add_product(const PlainScores<Tile>& p, const SharedRows& y, float* exchange) {
    constexpr int kStride = Tile::kRows + 1;
    const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j) exchange[(ty + kSide * i) * kStride + tx + kSide * j] = p[i][j];
    __syncwarp();
#pragma unroll 2
    for (int k = 0; k < Tile::kRows; ++k)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) {
        const int column = 4 * (tx + kSide * j);
        if (column >= y.stride) continue;
        const float4 value = y.quad(k, column);
#pragma unroll
        for (int i = 0; i < Tile::kPer; ++i) {
          const float factor = exchange[(ty + kSide * i) * kStride + k];
          of[i][j].x = fmaf(factor, value.x, of[i][j].x), of[i][j].y = fmaf(factor, value.y, of[i][j].y);
          of[i][j].z = fmaf(factor, value.z, of[i][j].z), of[i][j].w = fmaf(factor, value.w, of[i][j].w);
        }
      }
  }

  template <class T>
  __device__ void store(const HeadRows<T>& to, int first, int end, int dim) const {
    const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) {
        const int row = first + ty + kSide * i, column = 4 * (tx + kSide * j);
        const float value[4] = {of[i][j].x, of[i][j].y, of[i][j].z, of[i][j].w};
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (row < end && column + e < dim) to.row(row)[column + e] = from_float<T>(value[e]);
      }
  }
};

// Over the 16 threads of a row.
template <class Op>
__device__ float row_reduce(float value, Op op) {
#pragma unroll
  for (int offset = kSide / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// Scores of the tile's row i to exp(s - max over all tiles so far); `sum` and `o` are brought to that max.
template <class Tile>
__device__ void softmax_row(PlainScores<Tile>& s, int i, float& max, float& sum, PlainResult<Tile>& o) {
  float largest = max;
#pragma unroll
  for (int j = 0; j < Tile::kPer; ++j) largest = fmaxf(largest, s[i][j]);
  largest = row_reduce(largest, Max());
  const float decay = expf(max - largest);
  max = largest;
  float added = 0;
#pragma unroll
  for (int j = 0; j < Tile::kPer; ++j) added += s[i][j] = expf(s[i][j] - largest);
  sum = sum * decay + row_reduce(added, Sum());
  o.scale(i, decay);
}

// Floor: 4 Tq Tk D / 2 FLOP a head in f32.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads, 2) void plain_forward_kernel(const __grid_constant__ AttentionForward<T> a) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kRows - 1) / Tile::kRows - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads), query = at.tile * Tile::kRows;
  const SharedRows q{shared_floats, stride}, k{q.data + Tile::kRows * stride, stride},
      v{k.data + Tile::kRows * stride, stride};
  float* exchange = v.data + Tile::kRows * stride;

  PlainResult<Tile> o;
  o.clear();
  float max[Tile::kPer], sum[Tile::kPer];
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) max[i] = -kInfinity, sum[i] = 0;
  load<Tile>(q, head_rows(a.q, at.batch, at.head), query, queries, dim);
  for (int key = 0; key < min(keys, query + Tile::kRows + offset); key += Tile::kRows) {
    __syncthreads();
    load<Tile>(k, head_rows(a.k, at.batch, key_head), key, keys, dim);
    load<Tile>(v, head_rows(a.v, at.batch, key_head), key, keys, dim);
    __syncthreads();
    PlainScores<Tile> s;
    scores<Tile>(s, q, k);
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j)
        s[i][j] = key + tx + kSide * j <= query + ty + kSide * i + offset ? s[i][j] * a.scale : -kInfinity;
      softmax_row<Tile>(s, i, max[i], sum[i], o);
    }
    o.add_product(s, v, exchange);
  }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) {
    const int row = query + ty + kSide * i;
    o.scale(i, 1 / sum[i]);
    if (a.lse && tx == 0 && row < queries) a.lse[at.batch_head * queries + row] = max[i] + logf(sum[i]);
  }
  o.store(head_rows(a.o, at.batch, at.head), query, queries, dim);
}

// One warp a query: rowsum(do o). Floor: o and do once.
template <class T>
__global__ void delta_kernel(float* delta, const __grid_constant__ AttentionBackward<T> a) {
  const std::int64_t i = (blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x) / 32;
  if (i >= a.q.batch * a.q.heads * a.q.tokens) return;
  const std::int64_t t = i % a.q.tokens, head = i / a.q.tokens;
  const T* o = head_rows(a.o, head / a.q.heads, head % a.q.heads).row(t);
  const T* d_o = head_rows(a.d_o, head / a.q.heads, head % a.q.heads).row(t);
  float sum = 0;
  for (int c = int(threadIdx.x) % 32; c < int(a.q.dim); c += 32) sum += to_float(d_o[c]) * to_float(o[c]);
  sum = warp_reduce(sum, Sum());
  if (threadIdx.x % 32 == 0) delta[i] = sum;
}

// s = q k^T and d = do v^T of one tile, or their transposes, become p and ds. Value i, j belongs to query(i, j) and
// key(i, j); lse and delta are those of the head.
template <class Tile, class Query, class Key>
__device__ void plain_score_gradients(PlainScores<Tile>& s, PlainScores<Tile>& d, float scale, const float* lse,
                                      const float* delta, int queries, int offset, const Query& query, const Key& key) {
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kPer; ++j) {
      const int t = query(i, j);
      const bool seen = t < queries && key(i, j) <= t + offset;
      s[i][j] = seen ? expf(s[i][j] * scale - lse[t]) : 0.0f;
      d[i][j] = seen ? s[i][j] * (d[i][j] - delta[t]) : 0.0f;
    }
}

// A block owns keys and walks over the queries that see them, of all query heads of its key head, in order.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads,
                             2) void plain_key_gradients_kernel(const __grid_constant__ AttentionBackward<T> a,
                                                                const float* delta) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  const BlockPosition at = block_position(a.k.batch, a.k.heads);  // the first keys are seen by the most queries
  const int group = int(a.q.heads / a.k.heads), first_key = at.tile * Tile::kRows;
  const int first = max(0, first_key - offset) / Tile::kRows * Tile::kRows;
  const SharedRows k{shared_floats, stride}, v{k.data + Tile::kRows * stride, stride},
      q{v.data + Tile::kRows * stride, stride}, d_o{q.data + Tile::kRows * stride, stride};
  float* exchange = d_o.data + Tile::kRows * stride;

  PlainResult<Tile> dk, dv;
  dk.clear();
  dv.clear();
  load<Tile>(k, head_rows(a.k, at.batch, at.head), first_key, keys, dim);
  load<Tile>(v, head_rows(a.v, at.batch, at.head), first_key, keys, dim);
  for (int head = at.head * group; head < (at.head + 1) * group; ++head)
    for (int query = first; query < queries; query += Tile::kRows) {
      __syncthreads();
      load<Tile>(q, head_rows(a.q, at.batch, head), query, queries, dim);
      load<Tile>(d_o, head_rows(a.d_o, at.batch, head), query, queries, dim);
      __syncthreads();
      PlainScores<Tile> s, d;
      scores<Tile>(s, k, q);
      scores<Tile>(d, v, d_o);
      const std::int64_t statistics = (at.batch * a.q.heads + head) * queries;
      plain_score_gradients<Tile>(
          s, d, a.scale, a.lse + statistics, delta + statistics, queries, offset,
          [&](int, int j) { return query + tx + kSide * j; }, [&](int i, int) { return first_key + ty + kSide * i; });
      if (a.dv.data) dv.add_product(s, d_o, exchange);
      if (a.dk.data) dk.add_product(d, q, exchange);
    }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) dk.scale(i, a.scale);
  if (a.dv.data) dv.store(head_rows(a.dv, at.batch, at.head), first_key, keys, dim);
  if (a.dk.data) dk.store(head_rows(a.dk, at.batch, at.head), first_key, keys, dim);
}

// A block owns queries and walks over the keys they see.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads,
                             2) void plain_query_gradients_kernel(const __grid_constant__ AttentionBackward<T> a,
                                                                  const float* delta) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kRows - 1) / Tile::kRows - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads), query = at.tile * Tile::kRows;
  const SharedRows q{shared_floats, stride}, d_o{q.data + Tile::kRows * stride, stride},
      k{d_o.data + Tile::kRows * stride, stride}, v{k.data + Tile::kRows * stride, stride};
  float* exchange = v.data + Tile::kRows * stride;

  PlainResult<Tile> dq;
  dq.clear();
  load<Tile>(q, head_rows(a.q, at.batch, at.head), query, queries, dim);
  load<Tile>(d_o, head_rows(a.d_o, at.batch, at.head), query, queries, dim);
  const std::int64_t statistics = at.batch_head * queries;
  for (int key = 0; key < min(keys, query + Tile::kRows + offset); key += Tile::kRows) {
    __syncthreads();
    load<Tile>(k, head_rows(a.k, at.batch, key_head), key, keys, dim);
    load<Tile>(v, head_rows(a.v, at.batch, key_head), key, keys, dim);
    __syncthreads();
    PlainScores<Tile> s, d;
    scores<Tile>(s, q, k);
    scores<Tile>(d, d_o, v);
    plain_score_gradients<Tile>(
        s, d, a.scale, a.lse + statistics, delta + statistics, queries, offset,
        [&](int i, int) { return query + ty + kSide * i; }, [&](int, int j) { return key + tx + kSide * j; });
    dq.add_product(d, k, exchange);
  }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) dq.scale(i, a.scale);
  dq.store(head_rows(a.dq, at.batch, at.head), query, queries, dim);
}

// Launches a kernel of this file: one block a tile of `tokens` and a head; `tiles` tiles in shared memory.
template <class Tile, class Kernel, class... Args>
void launch_plain(const char* name, Context& ctx, Kernel kernel, int shared_tiles, std::int64_t tokens,
                  std::int64_t batch, std::int64_t heads, std::int64_t dim, const Args&... args) {
  const int floats = shared_tiles * Tile::kRows * stride_of(int(dim)) + Tile::kRows * (Tile::kRows + 1);
  const int bytes = floats * int(sizeof(float));
  const unsigned blocks = block_count(name, (tokens + Tile::kRows - 1) / Tile::kRows, batch, heads);
  if (blocks == 0) return;
  launch(name, ctx, {blocks, kThreads, std::size_t(bytes)}, kernel, args...);
}

// Calls fn.template operator()<Tile>() with the tile for heads of `dim` columns.
template <class Fn>
void dispatch_plain(std::int64_t dim, const Fn& fn) {
  if (dim <= 128) return fn.template operator()<PlainTile<128>>();
  return fn.template operator()<PlainTile<256>>();
}

template <class T>
void plain_forward(Context& ctx, const AttentionForward<T>& args) {
  dispatch_plain(args.q.dim, [&]<class Tile>() {
    launch_plain<Tile>("attention_forward", ctx, plain_forward_kernel<Tile, T>, 3, args.q.tokens, args.q.batch,
                       args.q.heads, args.q.dim, args);
  });
}

template <class T>
void plain_backward(Context& ctx, const AttentionBackward<T>& args) {
  const std::int64_t count = args.q.batch * args.q.heads * args.q.tokens;
  const Storage storage(ctx.allocator, count * std::int64_t(sizeof(float)));
  auto* delta = static_cast<float*>(storage.data());
  if (count > 0)
    launch("attention_backward, delta", ctx, {block_count("attention_backward", (count + 7) / 8, 1, 1), 256},
           delta_kernel<T>, delta, args);
  dispatch_plain(args.q.dim, [&]<class Tile>() {
    const float* of_query = delta;
    if (args.dk.data || args.dv.data)
      launch_plain<Tile>("attention_backward, dk and dv", ctx, plain_key_gradients_kernel<Tile, T>, 4, args.k.tokens,
                         args.k.batch, args.k.heads, args.k.dim, args, of_query);
    if (args.dq.data)
      launch_plain<Tile>("attention_backward, dq", ctx, plain_query_gradients_kernel<Tile, T>, 4, args.q.tokens,
                         args.q.batch, args.q.heads, args.q.dim, args, of_query);
  });
}

// Whether rows begin at multiples of 16 bytes.
template <class T>
bool is_aligned(const Heads<T>& x) {
  const std::int64_t strides = x.batch_stride | x.token_stride | x.head_stride;
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && strides % 8 == 0;
}

// Tensor cores take bf16 heads of a multiple of 16 up to 128 whose rows can be copied 16 bytes at a time. Their softmax
// takes the maximum before it scales, for which the scale must be positive.
template <class... Operands>
bool takes_mma(float scale, std::int64_t dim, const Operands&... operands) {
  return scale > 0 && dim % 16 == 0 && dim <= 128 && (is_aligned(operands) && ...);
}

template <class T>
Heads<T> wanted_heads(const View& v) {
  return v ? heads<T>(v) : Heads<T>{};
}

void check_sizes(const char* kernel, const View& q, const View& k) {
  require(q.shape[3] >= 1 && q.shape[3] <= kLargestDim, kernel, ": head sizes are 1 .. ", kLargestDim, ", got ",
          q.shape[3]);
  require(k.shape[1] <= 1 << 30, kernel, ": at most 2^30 keys, got ", k.shape[1]);
}

}  // namespace

void attention_forward(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  check_sizes("attention_forward", q, k);
  if (q.count() == 0) return;
  dispatch_value(q.dtype, "attention_forward", [&]<class T>() {
    const AttentionForward<T> args{heads<T>(o),       elements<float>(lse), heads<const T>(q),
                                   heads<const T>(k), heads<const T>(v),    float(scale)};
    if constexpr (std::is_same_v<T, bf16>)
      if (takes_mma(args.scale, args.q.dim, args.o, args.q, args.k, args.v)) return attention_forward_mma(ctx, args);
    plain_forward(ctx, args);
  });
}

void attention_backward(Context& ctx, View dq, View dk, View dv, View d_o, View q, View k, View v, View o, View lse,
                        double scale) {
  check_sizes("attention_backward", q, k);
  if (k.count() == 0) return;
  dispatch_value(q.dtype, "attention_backward", [&]<class T>() {
    const AttentionBackward<T> args{wanted_heads<T>(dq),  wanted_heads<T>(dk), wanted_heads<T>(dv), heads<const T>(d_o),
                                    heads<const T>(q),    heads<const T>(k),   heads<const T>(v),   heads<const T>(o),
                                    elements<float>(lse), float(scale)};
    if constexpr (std::is_same_v<T, bf16>)
      if (takes_mma(args.scale, args.q.dim, args.dq, args.dk, args.dv, args.d_o, args.q, args.k, args.v, args.o))
        return attention_backward_mma(ctx, args);
    plain_backward(ctx, args);
  });
}

}  // namespace cbq::cuda
