// Causal attention without the T x T matrix of scores (the tiling of FlashAttention, Dao et al. 2022, over query rows):
//   p = softmax(scale q k^T + mask),  o = p v,  lse = log sum_j exp(scale q k_j);  query i sees keys 0 .. Tk - Tq + i
//   p = exp(scale q k^T - lse) again in backward, delta = rowsum(do o), ds = p (do v^T - delta):
//   dv = p^T do,  dq = scale ds k,  dk = scale ds^T q
// A tile of kTileRows queries of one head at a time. Its scores (kTileRows, keys seen) stay in the second cache level.
// Products inside a tile run on one thread each; the threads take different tiles.
#include <cmath>

#include "core/tensor.h"
#include "cpu/backend.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

constexpr std::int64_t kTileRows = 64;
// Backward cuts the queries of one key head into slices until there are this many pieces for the threads to take.
constexpr std::int64_t kBackwardPieces = 32;

// Queries begin .. begin + rows - 1; the last of them sees keys 0 .. keys - 1, the first rows - 1 fewer.
struct Tile {
  std::int64_t begin, rows, keys;
  // Keys that row i of the tile sees.
  std::int64_t seen(std::int64_t i) const { return keys - rows + 1 + i; }
};

Tile tile_at(std::int64_t index, std::int64_t query_count, std::int64_t key_count) {
  const std::int64_t begin = index * kTileRows, row_count = std::min(kTileRows, query_count - begin);
  return {begin, row_count, key_count - query_count + begin + row_count};
}

std::int64_t tile_count(std::int64_t query_count) {
  return std::max<std::int64_t>(1, (query_count + kTileRows - 1) / kTileRows);
}

template <class T>
Operand<T> operand(Heads<const T> x, std::int64_t b, std::int64_t t, std::int64_t h, Trans trans = Trans::no) {
  return {x.at(b, t, h), x.token_stride, trans};
}

// Scores of one row to unnormalised probabilities exp(score - max), zero for the keys not seen. Returns their lse;
// `sum` receives what the row must be divided by.
template <class T>
double softmax_row(T* score, std::int64_t seen, std::int64_t keys, double& sum) {
  const T largest = max_over(seen, score);
#pragma omp simd
  for (std::int64_t j = 0; j < seen; ++j) score[j] = cpu::exp(score[j] - largest);
  std::fill(score + seen, score + keys, T(0));
  sum = sum_over(seen, [&](std::int64_t j) { return double(score[j]); });
  return double(largest) + std::log(sum);
}

template <class T>
void forward(Context& ctx, Heads<T> o, T* lse, Heads<const T> q, Heads<const T> k, Heads<const T> v, T scale) {
  const std::int64_t tiles = tile_count(q.tokens), group = q.heads / k.heads;
  const Tensor scratch(ctx, {max_threads(), kTileRows * k.tokens}, sizeof(T) == 4 ? DType::f32 : DType::f64);
  const Rows<T> score_of_thread = rows<T>(scratch);

  parallel_gemm_tasks(q.batch * q.heads * tiles, q.batch * q.heads * q.tokens * k.tokens,
                      [&](std::int64_t i, int thread) {
                        // The last tiles see the most keys and go first, so that no thread is left with a long one at
                        // the end.
                        const std::int64_t head = i % (q.batch * q.heads), b = head / q.heads, h = head % q.heads;
                        const Tile tile = tile_at(tiles - 1 - i / (q.batch * q.heads), q.tokens, k.tokens);
                        T* score = score_of_thread.row(thread);

                        gemm(tile.rows, tile.keys, q.dim, scale, operand(q, b, tile.begin, h),
                             operand(k, b, 0, h / group, Trans::yes), T(0), score, tile.keys);
                        double sum[kTileRows];
                        for (std::int64_t r = 0; r < tile.rows; ++r) {
                          const double row_lse = softmax_row(score + r * tile.keys, tile.seen(r), tile.keys, sum[r]);
                          if (lse) lse[head * q.tokens + tile.begin + r] = T(row_lse);
                        }
                        gemm(tile.rows, q.dim, tile.keys, T(1), {score, tile.keys}, operand(v, b, 0, h / group), T(0),
                             o.at(b, tile.begin, h), o.token_stride);

                        for (std::int64_t r = 0; r < tile.rows; ++r) {
                          T* out = o.at(b, tile.begin + r, h);
                          const T inverse = T(1 / sum[r]);
#pragma omp simd
                          for (std::int64_t c = 0; c < o.dim; ++c) out[c] *= inverse;
                        }
                      });
}

template <class T>
struct BackwardArgs {
  Heads<T> dq, dk, dv;  // data is null for what is not wanted
  Heads<const T> d_o, q, k, v, o;
  const T* lse;
  T scale;
};

// p and ds of one tile into `p` and `ds`, both (tile.rows, tile.keys).
template <class T>
void score_gradients(const BackwardArgs<T>& a, const Tile& tile, std::int64_t b, std::int64_t h, T* p, T* ds) {
  const std::int64_t key_head = h / (a.q.heads / a.k.heads);
  gemm(tile.rows, tile.keys, a.q.dim, a.scale, operand(a.q, b, tile.begin, h), operand(a.k, b, 0, key_head, Trans::yes),
       T(0), p, tile.keys);
  gemm(tile.rows, tile.keys, a.q.dim, T(1), operand(a.d_o, b, tile.begin, h), operand(a.v, b, 0, key_head, Trans::yes),
       T(0), ds, tile.keys);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const T *grad = a.d_o.at(b, tile.begin + r, h), *out = a.o.at(b, tile.begin + r, h);
    const T delta = T(sum_over(a.q.dim, [&](std::int64_t c) { return double(grad[c]) * double(out[c]); }));
    const T row_lse = a.lse[(b * a.q.heads + h) * a.q.tokens + tile.begin + r];
    T *p_row = p + r * tile.keys, *ds_row = ds + r * tile.keys;
    const std::int64_t seen = tile.seen(r);
#pragma omp simd
    for (std::int64_t j = 0; j < seen; ++j) {
      p_row[j] = cpu::exp(p_row[j] - row_lse);
      ds_row[j] = p_row[j] * (ds_row[j] - delta);
    }
    std::fill(p_row + seen, p_row + tile.keys, T(0));
    std::fill(ds_row + seen, ds_row + tile.keys, T(0));
  }
}

// Where one slice of the queries leaves what it adds to dk or dv of one key head: (Tk, D), null if not wanted.
template <class T>
struct Share {
  T* data;
  std::int64_t stride;  // elements from one key to the next
};

// dq of every `step`-th tile from `first` on downwards, for all query heads of a key head, and their share of dk and
// dv.
template <class T>
void backward_slice(const BackwardArgs<T>& a, std::int64_t b, std::int64_t key_head, std::int64_t first,
                    std::int64_t step, Share<T> dk, Share<T> dv, T* p, T* ds) {
  const std::int64_t group = a.q.heads / a.k.heads, dim = a.q.dim;
  T beta = 0;  // the first tile sees the most keys: it writes, the others add
  for (std::int64_t index = first; index >= 0; index -= step) {
    const Tile tile = tile_at(index, a.q.tokens, a.k.tokens);
    for (std::int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
      score_gradients(a, tile, b, h, p, ds);
      if (a.dq.data)
        gemm(tile.rows, dim, tile.keys, a.scale, {ds, tile.keys}, operand(a.k, b, 0, key_head), T(0),
             a.dq.at(b, tile.begin, h), a.dq.token_stride);
      if (dv.data)
        gemm(tile.keys, dim, tile.rows, T(1), {p, tile.keys, Trans::yes}, operand(a.d_o, b, tile.begin, h), beta,
             dv.data, dv.stride);
      if (dk.data)
        gemm(tile.keys, dim, tile.rows, a.scale, {ds, tile.keys, Trans::yes}, operand(a.q, b, tile.begin, h), beta,
             dk.data, dk.stride);
      beta = 1;
    }
  }
}

// grad(b, :, key head) = sum over slices of shares (slices, Tk, D), in order; a slice holds only the keys it saw.
template <class T>
void add_shares(Heads<T> grad, const T* shares, std::int64_t slices, const std::vector<std::int64_t>& keys_of_slice) {
  if (!grad.data) return;
  const std::int64_t share = grad.tokens * grad.dim;
  parallel_for(grad.batch * grad.heads * grad.tokens, grad.batch * grad.heads * share, [&](std::int64_t i) {
    const std::int64_t t = i % grad.tokens, head = i / grad.tokens;
    T* out = grad.at(head / grad.heads, t, head % grad.heads);
    const T* in = shares + head * slices * share + t * grad.dim;
    for (std::int64_t c = 0; c < grad.dim; ++c) {
      double sum = 0;
      for (std::int64_t s = 0; s < slices; ++s)
        if (t < keys_of_slice[std::size_t(s)]) sum += double(in[s * share + c]);
      out[c] = T(sum);
    }
  });
}

template <class T>
void backward(Context& ctx, const BackwardArgs<T>& a) {
  const DType dtype = sizeof(T) == 4 ? DType::f32 : DType::f64;
  const std::int64_t key_heads = a.k.batch * a.k.heads, tiles = tile_count(a.q.tokens), share = a.k.tokens * a.k.dim;
  // The slices depend on the shapes alone, never on the number of threads: so does the order of all sums.
  const std::int64_t slices =
      std::clamp<std::int64_t>(kBackwardPieces / std::max<std::int64_t>(1, key_heads), 1, tiles);
  std::vector<std::int64_t> keys_of_slice;
  for (std::int64_t s = 0; s < slices; ++s)
    keys_of_slice.push_back(tile_at(tiles - 1 - s, a.q.tokens, a.k.tokens).keys);

  const Tensor scratch(ctx, {max_threads(), 2, kTileRows * a.k.tokens}, dtype);
  const Tensor dk_shares(ctx, {a.dk.data && slices > 1 ? key_heads * slices * share : 0}, dtype);
  const Tensor dv_shares(ctx, {a.dv.data && slices > 1 ? key_heads * slices * share : 0}, dtype);
  T *p_and_ds = elements<T>(scratch), *dk = elements<T>(dk_shares), *dv = elements<T>(dv_shares);

  const std::int64_t work = a.q.batch * a.q.heads * a.q.tokens * a.k.tokens;
  parallel_gemm_tasks(key_heads * slices, work, [&](std::int64_t i, int thread) {
    const std::int64_t head = i / slices, slice = i % slices, b = head / a.k.heads, h = head % a.k.heads;
    T* p = p_and_ds + thread * 2 * kTileRows * a.k.tokens;
    const auto share_of = [&](Heads<T> grad, T* shares) -> Share<T> {
      if (!grad.data || slices == 1) return {grad.data ? grad.at(b, 0, h) : nullptr, grad.token_stride};
      return {shares + i * share, a.k.dim};
    };
    backward_slice(a, b, h, tiles - 1 - slice, slices, share_of(a.dk, dk), share_of(a.dv, dv), p,
                   p + kTileRows * a.k.tokens);
  });
  if (slices > 1) {
    add_shares(a.dk, dk, slices, keys_of_slice);
    add_shares(a.dv, dv, slices, keys_of_slice);
  }
}

template <class T>
Heads<T> wanted_heads(const View& v) {
  return v ? heads<T>(v) : Heads<T>{};
}

}  // namespace

void attention_forward(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  dispatch_float(q.dtype, "attention_forward", [&]<class T>() {
    forward(ctx, heads<T>(o), elements<T>(lse), heads<const T>(q), heads<const T>(k), heads<const T>(v), T(scale));
  });
}

void attention_backward(Context& ctx, View dq, View dk, View dv, View d_o, View q, View k, View v, View o, View lse,
                        double scale) {
  dispatch_float(q.dtype, "attention_backward", [&]<class T>() {
    backward<T>(ctx,
                {wanted_heads<T>(dq), wanted_heads<T>(dk), wanted_heads<T>(dv), heads<const T>(d_o), heads<const T>(q),
                 heads<const T>(k), heads<const T>(v), heads<const T>(o), elements<const T>(lse), T(scale)});
  });
}

}  // namespace cbq::cpu
