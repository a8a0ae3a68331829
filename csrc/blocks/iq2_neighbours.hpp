// For eight levels that are no point of a grid: the points around them, in the order in which ggml tries them. Shared
// by all instruction sets, made at first use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastconv {

// A level l of 0, 1, 2 is two bits of masks, l >= 1 and l >= 2, bit k for element k. Eight of them together are
//   the code, two bits a level, the first lowest:   code_of_mask[l >= 1] + code_of_mask[l >= 2]
//   the number in base 3, the first lowest:         place_of_mask[l >= 1] + place_of_mask[l >= 2]
//                                                   = place_of_half[code & 255] + 81 * place_of_half[code >> 8]
class GridNeighbours {
 public:
  struct Place {
    uint32_t first;  // of its neighbours in codes(); of a point of the grid, which has none: its index
    uint32_t count;  // 0: on the grid
  };

  // The points of the `n_shells` least distances.
  GridNeighbours(const uint64_t* points, size_t n_points, int n_shells);

  // By number in base 3.
  const Place* places() const { return places_.data(); }
  // Of all neighbours; sixteen may be read from any that there is.
  const uint16_t* codes() const { return codes_.data(); }

  uint16_t code_of_mask[256];
  uint16_t place_of_mask[256];
  uint8_t place_of_half[256];

 private:
  std::vector<Place> places_;
  std::vector<uint16_t> codes_;
};

const GridNeighbours& iq2_xxs_neighbours();
const GridNeighbours& iq2_xs_neighbours();
const GridNeighbours& iq2_s_neighbours();
const GridNeighbours& iq1_neighbours();

}  // namespace fastconv
