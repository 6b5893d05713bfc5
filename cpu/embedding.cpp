// Embedding: y_r = table[ids_r]; dtable[v] = sum of dy_r over the rows r with ids_r = v.
#include <vector>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

void check_ids(const std::int32_t* ids, std::int64_t count, std::int64_t vocabulary) {
  for (std::int64_t r = 0; r < count; ++r)
    require(ids[r] >= 0 && ids[r] < vocabulary, "embedding: token ", r, " has id ", ids[r], ", the vocabulary has ",
            vocabulary, " entries");
}

}  // namespace

void embedding_forward(Context&, View y, View table, View ids) {
  dispatch_float(y.dtype, "embedding_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(table);
    const std::int32_t* id = elements<const std::int32_t>(ids);
    check_ids(id, to.rows, from.rows);
    parallel_for(to.rows, to.rows * to.cols, [&](std::int64_t r) { std::copy_n(from.row(id[r]), to.cols, to.row(r)); });
  });
}

void embedding_backward(Context&, View dtable, View dy, View ids) {
  dispatch_float(dy.dtype, "embedding_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dtable);
    const Rows<const T> from = rows<const T>(dy);
    const std::int32_t* id = elements<const std::int32_t>(ids);
    check_ids(id, from.rows, to.rows);

    // Rows of dy in order of their id: those of id v are order[start[v]] .. order[start[v + 1] - 1].
    std::vector<std::int64_t> start(std::size_t(to.rows + 1)), order(std::size_t(from.rows));
    for (std::int64_t r = 0; r < from.rows; ++r) ++start[std::size_t(id[r] + 1)];
    for (std::size_t v = 1; v < start.size(); ++v) start[v] += start[v - 1];
    std::vector<std::int64_t> next(start.begin(), start.end() - 1);
    for (std::int64_t r = 0; r < from.rows; ++r) order[std::size_t(next[std::size_t(id[r])]++)] = r;

    parallel_for(to.rows, to.rows * to.cols, [&](std::int64_t v) {
      const std::int64_t *first = order.data() + start[std::size_t(v)],
                         *last = order.data() + start[std::size_t(v + 1)];
      for (std::int64_t begin = 0; begin < to.cols; begin += kSumColumns) {
        const std::int64_t width = std::min(kSumColumns, to.cols - begin);
        double sum[kSumColumns] = {};
        for (const std::int64_t* r = first; r != last; ++r)
          for (std::int64_t c = 0; c < width; ++c) sum[c] += from(*r, begin + c);
        for (std::int64_t c = 0; c < width; ++c) to(v, begin + c) = T(sum[c]);
      }
    });
  });
}

}  // namespace cbq::cpu
