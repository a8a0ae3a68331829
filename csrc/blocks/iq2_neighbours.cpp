// Source: iq2xs_init_impl in ggml-quants.c of llama.cpp b11434.
#include "blocks/iq2_neighbours.hpp"

#include "blocks/iq2_grids.hpp"

namespace fastconv {
namespace {

constexpr size_t kPlaces = 6561;   // 3^8
constexpr int kMaxDistance = 32;   // eight times (2 - 0)^2
constexpr size_t kReadAhead = 16;  // past the last neighbour

struct Masks {
  uint8_t above_0, above_1;

  // The square of the distance in levels. |a - b| of an element is the number of masks that differ, 0 to 2, and the
  // square of that is the number, and 2 more where both do.
  int distance(Masks other) const {
    const unsigned one = above_0 ^ other.above_0, two = above_1 ^ other.above_1;
    return __builtin_popcount(one | two << 8) + 2 * __builtin_popcount(one & two);
  }
};

}  // namespace

GridNeighbours::GridNeighbours(const uint64_t* points, size_t n_points, int n_shells) : places_(kPlaces) {
  uint16_t power = 1;
  code_of_mask[0] = place_of_mask[0] = 0;
  for (size_t k = 0; k < 8; ++k, power = static_cast<uint16_t>(3 * power)) {
    for (size_t low = 0; low < size_t{1} << k; ++low) {
      code_of_mask[low | size_t{1} << k] = static_cast<uint16_t>(code_of_mask[low] | 1u << 2 * k);
      place_of_mask[low | size_t{1} << k] = static_cast<uint16_t>(place_of_mask[low] + power);
    }
  }
  for (unsigned half = 0; half < 256; ++half)
    place_of_half[half] =
        static_cast<uint8_t>((half & 3) + 3 * (half >> 2 & 3) + 9 * (half >> 4 & 3) + 27 * (half >> 6));

  std::vector<Masks> masks(n_points);
  std::vector<uint16_t> codes(n_points);
  constexpr Place kOffGrid{0, 1};
  for (Place& place : places_) place = kOffGrid;
  for (size_t i = 0; i < n_points; ++i) {
    unsigned above_0 = 0, above_1 = 0;
    for (int k = 0; k < 8; ++k) {
      const unsigned level = points[i] >> 8 * k & 3;
      above_0 |= (level >= 1 ? 1u : 0u) << k;
      above_1 |= (level >= 2 ? 1u : 0u) << k;
    }
    masks[i] = {static_cast<uint8_t>(above_0), static_cast<uint8_t>(above_1)};
    codes[i] = static_cast<uint16_t>(code_of_mask[above_0] + code_of_mask[above_1]);
    places_[place_of_mask[above_0] + place_of_mask[above_1]] = {static_cast<uint32_t>(i), 0};
  }

  std::vector<uint16_t> shells[kMaxDistance + 1];
  for (unsigned above_0 = 0; above_0 < 256; ++above_0) {
    for (unsigned above_1 = above_0;; above_1 = (above_1 - 1) & above_0) {  // every subset
      Place& place = places_[place_of_mask[above_0] + place_of_mask[above_1]];
      if (place.count != 0) {
        const Masks here{static_cast<uint8_t>(above_0), static_cast<uint8_t>(above_1)};
        for (auto& shell : shells) shell.clear();
        for (size_t i = 0; i < n_points; ++i) shells[here.distance(masks[i])].push_back(codes[i]);
        place.first = static_cast<uint32_t>(codes_.size());
        int left = n_shells;
        for (const auto& shell : shells) {
          if (shell.empty()) continue;
          codes_.insert(codes_.end(), shell.begin(), shell.end());
          if (--left == 0) break;
        }
        place.count = static_cast<uint32_t>(codes_.size()) - place.first;
      }
      if (above_1 == 0) break;
    }
  }
  codes_.insert(codes_.end(), kReadAhead, codes[0]);
  codes_.shrink_to_fit();
}

const GridNeighbours& iq2_xxs_neighbours() {
  static const GridNeighbours neighbours(kIq2XxsGrid.points, 256, 2);
  return neighbours;
}
const GridNeighbours& iq2_xs_neighbours() {
  static const GridNeighbours neighbours(kIq2XsGrid.points, 512, 2);
  return neighbours;
}
const GridNeighbours& iq2_s_neighbours() {
  static const GridNeighbours neighbours(kIq2SGrid.points, 1024, 1);
  return neighbours;
}
const GridNeighbours& iq1_neighbours() {
  static const GridNeighbours neighbours(kIq1Grid.points, 2048, 3);
  return neighbours;
}

}  // namespace fastconv
