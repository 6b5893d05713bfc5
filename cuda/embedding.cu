// Embedding: y_r = table[ids_r]; dtable[v] = sum of dy_r over the rows r with ids_r = v, in the order of r.
//
// An id outside of the table cannot be reported without waiting for the device. Its row of y becomes NaN, which the
// loss shows, and its row of dy goes nowhere.
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "cuda/value.cuh"

namespace cbq::cuda {
namespace {

// Floor: one read of the rows named, one write of y. One pack a thread; ids come from the first cache level.
template <int N, class T>
__global__ void gather_rows_kernel(Rows<T> y, Rows<const T> table, const std::int32_t* ids) {
  const std::int64_t per_row = y.cols / N, count = y.rows * per_row;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / per_row, c = (i - r * per_row) * N, id = ids[r];
    Pack<T, N> value;
    if (id >= 0 && id < table.rows) {
      value = load_pack<N>(table.data + id * table.stride + c);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) value.v[k] = from_float<T>(nanf(""));
    }
    store_pack(y.data + r * y.stride + c, value);
  }
}

__global__ void count_up_kernel(std::int32_t* y, std::int64_t count) {
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x)
    y[i] = std::int32_t(i);
}

// start[v] = how many of the sorted ids are below v, for v in [0, vocabulary]. All searches run side by side.
__global__ void starts_kernel(std::int32_t* start, std::int64_t vocabulary, const std::int32_t* sorted,
                              std::int64_t count) {
  for (std::int64_t v = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; v <= vocabulary;
       v += std::int64_t(gridDim.x) * blockDim.x) {
    std::int64_t below = 0, above = count;  // sorted[below - 1] < v <= sorted[above]
    while (below < above) {
      const std::int64_t middle = below + (above - below) / 2;
      if (sorted[middle] < v)
        below = middle + 1;
      else
        above = middle;
    }
    start[v] = std::int32_t(below);
  }
}

// Floor: one read of dy, one write of dtable, most of whose rows no id names. A thread adds up one pack of columns.
template <int N, class T>
__global__ void sum_of_ids_kernel(Rows<T> dtable, Rows<const T> dy, const std::int32_t* start,
                                  const std::int32_t* order) {
  const std::int64_t per_row = dtable.cols / N, count = dtable.rows * per_row;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t v = i / per_row, c = (i - v * per_row) * N;
    float sum[N] = {};
#pragma unroll 4
    for (std::int32_t p = start[v], end = start[v + 1]; p < end; ++p) {
      const Pack<T, N> term = load_pack<N>(dy.data + order[p] * dy.stride + c);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += to_float(term.v[k]);
    }
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(sum[k]);
    store_pack(dtable.data + v * dtable.stride + c, out);
  }
}

// The rows of dy in order of their id, rows of one id in their own order: `sorted` gets the ids, `order` the row of
// each.
void sort_by_id(Context& ctx, std::int32_t* sorted, std::int32_t* order, const std::int32_t* ids, std::int64_t count) {
  if (count == 0) return;
  const Storage unsorted(ctx.allocator, count * std::int64_t(sizeof(std::int32_t)));
  std::int32_t* rows = static_cast<std::int32_t*>(unsorted.data());
  launch("embedding_backward", ctx, shape_for(count), count_up_kernel, rows, count);
  const auto sort = [&](void* scratch, std::size_t& bytes) {
    CUDA_CHECK(cub::DeviceRadixSort::SortPairs(scratch, bytes, ids, sorted, rows, order, unsigned(count), 0, 32,
                                               cuda_context(ctx).stream.get()));
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  const Storage scratch(ctx.allocator, std::int64_t(bytes));
  sort(scratch.data(), bytes);
  launched("embedding_backward", ctx);
}

}  // namespace

void embedding_forward(Context& ctx, View y, View table, View ids) {
  if (y.count() == 0) return;
  dispatch_value(y.dtype, "embedding_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(table);
    const std::int32_t* id = elements<const std::int32_t>(ids);
    constexpr int N = kPackOf<T>;
    if (packs<N>(to) && packs<N>(from))
      launch("embedding_forward", ctx, shape_for(y.count() / N), gather_rows_kernel<N, T>, to, from, id);
    else
      launch("embedding_forward", ctx, shape_for(y.count()), gather_rows_kernel<1, T>, to, from, id);
  });
}

void embedding_backward(Context& ctx, View dtable, View dy, View ids) {
  if (dtable.count() == 0) return;
  const std::int64_t vocabulary = dtable.rows(), count = dy.rows();
  require(count <= std::numeric_limits<std::int32_t>::max(), "embedding_backward: at most 2^31 - 1 rows, got ", count);
  constexpr std::int64_t kBytes = sizeof(std::int32_t);
  const Storage sorted_ids(ctx.allocator, count * kBytes), row_order(ctx.allocator, count * kBytes),
      starts(ctx.allocator, (vocabulary + 1) * kBytes);
  std::int32_t *sorted = static_cast<std::int32_t*>(sorted_ids.data()),
               *order = static_cast<std::int32_t*>(row_order.data()),
               *start = static_cast<std::int32_t*>(starts.data());
  sort_by_id(ctx, sorted, order, elements<const std::int32_t>(ids), count);
  launch("embedding_backward", ctx, shape_for(vocabulary + 1), starts_kernel, start, vocabulary, sorted, count);
  dispatch_value(dy.dtype, "embedding_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dtable);
    const Rows<const T> from = rows<const T>(dy);
    constexpr int N = kPackOf<T>;
    if (packs<N>(to) && packs<N>(from))
      launch("embedding_backward", ctx, shape_for(dtable.count() / N), sum_of_ids_kernel<N, T>, to, from, start, order);
    else
      launch("embedding_backward", ctx, shape_for(dtable.count()), sum_of_ids_kernel<1, T>, to, from, start, order);
  });
}

}  // namespace cbq::cuda
