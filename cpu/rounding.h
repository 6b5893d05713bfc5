// A weight on its integer grid, with the rounding of each element learned (docs/method.md, "Rounding").
//
//   w_hat = s (q - z),  q = clip(u + z, 0, 2^bits - 1),  d = the learned offset: 0, dense, or a1 a2
//   straight_through: u = round(w/s0 + d), ties to even
//   sigmoid:          u = floor(w/s0) + h,  h = clip(1.2 sigmoid(V0 + d) - 0.1, 0, 1)   (AdaRound 2004.10568, eq. 23)
//   sigmoid_hard:     u = floor(w/s0) + (h >= 0.5)
//
// s0 is s itself, or a start_scale that stays. V0 = h^-1(f) of the fraction f = w/s0 - floor(w/s0) at the current s0,
// so that d = 0 starts at the full-precision weight and hardens to round-to-nearest. Neither a logarithm nor V0 itself
// is needed: with p = (f + 0.1) / 1.2 = sigmoid(V0)
//   sigmoid(V0 + d) = p / n,  n = p + (1 - p) e^-d
//   h  = clip(f + 1.2 p (1 - p) (1 - e^-d) / n, 0, 1)        exactly f at d = 0
//   h' = 1.2 p (1 - p) e^-d / n^2                            where the clip of h is idle, its ends included; else 0
#pragma once

#include <array>

#include "core/kernel_args.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

// Columns worked on at once: their intermediate values stay in the first cache level.
constexpr std::int64_t kPiece = 256;

enum class DecidedOn { scale, start_scale };

template <class T>
struct Quantiser {
  explicit Quantiser(const WeightQuantiser& q)
      : w(rows<const T>(q.w)),
        scale(rows<const T>(q.grid.scale)),
        start(q.start_scale ? rows<const T>(q.start_scale) : scale),
        zero(rows<const T>(q.grid.zero)),
        dense(rows<const T>(q.offset.dense)),
        a1(rows<const T>(q.offset.a1)),
        a2(rows<const T>(q.offset.a2)),
        rounder(q.rounder),
        decided_on(q.start_scale ? DecidedOn::start_scale : DecidedOn::scale),
        last(T((1 << q.grid.bits) - 1)),
        group(w.cols / scale.cols) {}

  Rows<const T> w, scale, start, zero, dense, a1, a2;  // no data where the View is empty; start: s0
  Rounder rounder;
  DecidedOn decided_on;
  T last;              // largest code
  std::int64_t group;  // columns that share a scale
};

// Columns [begin, begin + count) of row r, all of group g.
template <class T>
struct Piece {
  std::int64_t r, g, begin, count;
  T s, s0, z;
  std::array<T, kPiece> ratio, offset, u, h, slope;  // w/s0, d, u, h, du/dd
};

// Fills s, s0, z and the arrays of a piece whose place is set. For float and double, compiled once in rounding.cpp:
// forward, codes and backward run the same instructions and agree bit for bit.
template <class T>
void round_piece(Piece<T>& piece, const Quantiser<T>& q);

// visit(piece) for all pieces of row r, rounded; group_done(r, g) after the last one of each group.
template <class T, class Visit, class GroupDone>
void for_pieces_of_row(const Quantiser<T>& q, std::int64_t r, const Visit& visit, const GroupDone& group_done) {
  Piece<T> piece;
  for (std::int64_t g = 0; g < q.scale.cols; ++g) {
    for (std::int64_t begin = 0; begin < q.group; begin += kPiece) {
      piece.r = r, piece.g = g, piece.begin = g * q.group + begin, piece.count = std::min(kPiece, q.group - begin);
      round_piece(piece, q);
      visit(static_cast<const Piece<T>&>(piece));
    }
    group_done(r, g);
  }
}

// visit(piece) for all pieces of all rows, threads over rows.
template <class T, class Visit>
void for_all_pieces(const Quantiser<T>& q, const Visit& visit) {
  parallel_for(q.w.rows, q.w.rows * q.w.cols,
               [&](std::int64_t r) { for_pieces_of_row(q, r, visit, [](std::int64_t, std::int64_t) {}); });
}

}  // namespace cbq::cpu
