// The factor of GPTQ: u upper triangular with inverse(h) = u^T u, in double between f32 input and output.
//
// h reversed in rows and columns, a, has a lower Cholesky factor L, a = L L^T. Reversed again L is upper: h = r r^T,
// inverse(h) = r^-T r^-1, so that u = r^-1, which is L^-1 reversed. The inverse of h itself, which would lose digits,
// is never formed.
//
// L^-1 comes from one sweep over the block columns k of a, in place. Before step k, block (i, j) with i >= j holds
// X_ij = -sum_{j <= m < k} L_im (L^-1)_mj for j < k (the forward substitution of L^-1), and the Schur complement for
// j >= k. The step is
//
//   1. a_kk <- inverse of its Cholesky factor
//   2. p_i = a_ik a_kk^T for i > k (these are L_ik),  a_kj <- a_kk a_kj for j < k (these are (L^-1)_kj)
//   3. a_ij <- (j = k ? 0 : a_ij) - p_i q_j for i > k, j <= i, where q_j = a_kj for j <= k and p_j^T for j > k
//
// so that the step at row r updates (n^2 - r^2) / 2 elements by a product of depth 64, and the last steps, which
// factor the least, still have whole rows of tiles to invert: 2 n^3 / 3 flops, 0.5 s for n = 22016 at 15 TFLOP/s.
// Memory: n^2 doubles, 3.9 GB there.
#include "cuda/double_tile.cuh"

namespace cbq::cuda {
namespace {

// A square matrix of blocks x blocks tiles, with the rows and columns beyond n those of the identity.
struct Blocked {
  double* data;
  std::int64_t blocks;
  __device__ std::int64_t stride() const { return blocks * kTile; }
  __device__ double* tile(std::int64_t i, std::int64_t j) const { return data + (i * stride() + j) * kTile; }
};

// Floor: one read of half of h, one write of a.
__global__ void load_kernel(Blocked a, Rows<const float> h, std::int32_t* failed) {
  const std::int64_t n = h.rows, stride = a.stride(), first = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x;
  if (first == 0) *failed = 0;
  for (std::int64_t e = first; e < stride * stride; e += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t i = e / stride, j = e - i * stride;
    double value = i == j ? 1 : 0;
    if (i < n) value = j <= i ? double(h.data[(n - 1 - i) * h.stride + (n - 1 - j)]) : 0;
    a.data[e] = value;
  }
}

// Step 1: the same sweep within the block, element by element. `failed` gets the first pivot, from 1, that is not
// positive and finite. One block; its 64 steps are a chain that nothing else can hide, about 30 us.
constexpr int kPivotThreads = 256;
__global__ void __launch_bounds__(kPivotThreads) pivot_kernel(Blocked a, std::int64_t k, std::int32_t* failed) {
  __shared__ double s[kTile][kTile + 1], column[kTile];
  double* tile = a.tile(k, k);
  const int t = threadIdx.x;
  for (int e = t; e < kTile * kTile; e += kPivotThreads)
    s[e / kTile][e % kTile] = tile[e / kTile * a.stride() + e % kTile];
  __syncthreads();
  for (int m = 0; m < kTile; ++m) {
    const double pivot = s[m][m], root = sqrt(pivot);
    if (t == 0 && !(pivot > 0 && isfinite(pivot)) && *failed == 0) *failed = std::int32_t(k * kTile + m + 1);
    __syncthreads();  // all have read the pivot
    if (t < m) s[m][t] /= root;
    if (t == m) s[m][m] = 1 / root;
    if (t > m && t < kTile) column[t] = s[t][m] / root;
    __syncthreads();
    for (int e = t; e < kTile * kTile; e += kPivotThreads) {
      const int i = e / kTile, j = e % kTile;
      if (i > m && j <= i) s[i][j] = (j == m ? 0 : s[i][j]) - column[i] * (j <= m ? s[m][j] : column[j]);
    }
    __syncthreads();
  }
  for (int e = t; e < kTile * kTile; e += kPivotThreads)
    tile[e / kTile * a.stride() + e % kTile] = e % kTile <= e / kTile ? s[e / kTile][e % kTile] : 0;
}

// Step 2, one block a tile: block b < k of the grid takes tile (k, b), block b >= k tile (b + 1, k). p is kept
// transposed, (64, stride), because step 3 reads it along i.
__global__ void __launch_bounds__(kTileThreads) panel_kernel(Blocked a, double* p, std::int64_t k) {
  const std::int64_t stride = a.stride(), b = blockIdx.x, i = b + 1;
  const double* inverse = a.tile(k, k);
  const auto from_inverse = [&](int m, int row) { return inverse[row * stride + m]; };
  if (b < k) {
    double* tile = a.tile(k, b);
    const TileSum sum = tile_product(kTile, from_inverse, [&](int m, int col) { return tile[m * stride + col]; });
    sum.for_each([&](int row, int col, double value) { tile[row * stride + col] = value; });
  } else {
    const double* tile = a.tile(i, k);
    const TileSum sum = tile_product(kTile, from_inverse, [&](int m, int row) { return tile[row * stride + m]; });
    sum.for_each([&](int col, int row, double value) { p[col * stride + i * kTile + row] = value; });
  }
}

// Step 3, one block a tile (k + 1 + y, x). Floor: 16 bytes an element against 128 flops, which is about balanced.
__global__ void __launch_bounds__(kTileThreads) update_kernel(Blocked a, const double* p, std::int64_t k) {
  const std::int64_t stride = a.stride(), i = k + 1 + blockIdx.y, j = blockIdx.x;
  if (j > i) return;
  const double* p_i = p + i * kTile;
  const double* q_j = j <= k ? a.tile(k, j) : p + j * kTile;
  double* tile = a.tile(i, j);
  const TileSum sum = tile_product(
      kTile, [&](int m, int row) { return p_i[m * stride + row]; },
      [&](int m, int col) { return q_j[m * stride + col]; });
  sum.for_each([&](int row, int col, double value) {
    double& to = tile[row * stride + col];
    to = (j == k ? 0 : to) - value;
  });
}

// Floor: one read of half of a, one write of u.
__global__ void store_kernel(Rows<float> u, Blocked a) {
  const std::int64_t n = u.rows, count = n * n;
  for (std::int64_t e = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; e < count;
       e += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t i = e / n, j = e - i * n;
    u.data[i * u.stride + j] = j < i ? 0.f : float(a.data[(n - 1 - i) * a.stride() + (n - 1 - j)]);
  }
}

void sweep(Context& ctx, const Blocked& a, std::int32_t* failed) {
  const char* const name = "cholesky_of_inverse";
  const Storage panel(ctx.allocator, a.blocks * kTile * kTile * std::int64_t(sizeof(double)));
  double* p = static_cast<double*>(panel.data());
  const unsigned blocks = unsigned(a.blocks);
  for (unsigned k = 0; k < blocks; ++k) {
    launch(name, ctx, {1, kPivotThreads}, pivot_kernel, a, k, failed);
    if (blocks > 1) launch(name, ctx, {blocks - 1, kTileThreads}, panel_kernel, a, p, k);
    if (k + 1 < blocks) launch(name, ctx, {dim3(blocks, blocks - 1 - k), kTileThreads}, update_kernel, a, p, k);
  }
}

}  // namespace

// Waits once, to read which pivot failed.
void cholesky_of_inverse(Context& ctx, View u, View h) {
  require(u.dtype == DType::f32 && h.dtype == DType::f32, "cholesky_of_inverse: expected f32, got ", h.dtype, " and ",
          u.dtype);
  const Rows<const float> from = rows<const float>(h);
  const std::int64_t n = from.rows, blocks = (n + kTile - 1) / kTile;
  if (n == 0) return;
  require(blocks <= 65535, "cholesky_of_inverse: at most ", 65535 * kTile, " rows, got ", n);
  const Storage factor(ctx.allocator, blocks * kTile * blocks * kTile * std::int64_t(sizeof(double))),
      flag(ctx.allocator, sizeof(std::int32_t));
  const Blocked a{static_cast<double*>(factor.data()), blocks};
  std::int32_t* failed = static_cast<std::int32_t*>(flag.data());
  launch("cholesky_of_inverse", ctx, shape_for(blocks * kTile * blocks * kTile), load_kernel, a, from, failed);
  sweep(ctx, a, failed);
  std::int32_t pivot = 0;
  copy_to_host(ctx, &pivot, failed, sizeof(pivot));
  require(pivot == 0, "cholesky_of_inverse: expected a positive definite matrix, but pivot ", pivot, " (column ",
          n - pivot, ") is not positive; raise the damping of the diagonal");
  launch("cholesky_of_inverse", ctx, shape_for(n * n), store_kernel, rows<float>(u), a);
}

}  // namespace cbq::cuda
