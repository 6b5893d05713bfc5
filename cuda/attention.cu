// Causal attention and its gradients (formulas in attention.cuh): the choice between kernels.
#include "cuda/attention_gradients.cuh"

namespace cbq::cuda {
namespace {

constexpr std::int64_t kLargestDim = 256;

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

// wgmma takes what mma takes, at the head sizes whose rows are whole panels of 64 columns.
bool takes_wgmma(Context& ctx, std::int64_t dim) {
  return cuda_context(ctx).is_hopper && (dim == 64 || dim == 128);
}

template <class T>
Heads<T> wanted_heads(const View& v) {
  return v ? heads<T>(v) : Heads<T>{};
}

// On tensor cores.
void backward_of_bf16(Context& ctx, const AttentionBackward<bf16>& args) {
  const Storage storage(ctx.allocator, statistics_count(args) * std::int64_t(sizeof(Statistics)));
  auto* statistics = static_cast<Statistics*>(storage.data());
  attention_statistics(ctx, statistics, args);
  if (!takes_wgmma(ctx, args.q.dim) || args.q.tokens == 0) return attention_backward_mma(ctx, args, statistics);
  if (args.dk.data || args.dv.data) attention_keys_wgmma(ctx, args, statistics);
  if (args.dq.data) attention_queries_wgmma(ctx, args, statistics);
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
      if (takes_mma(args.scale, args.q.dim, args.o, args.q, args.k, args.v))
        return takes_wgmma(ctx, args.q.dim) ? attention_forward_wgmma(ctx, args) : attention_forward_mma(ctx, args);
    attention_forward_plain(ctx, args);
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
        return backward_of_bf16(ctx, args);
    attention_backward_plain(ctx, args);
  });
}

}  // namespace cbq::cuda
