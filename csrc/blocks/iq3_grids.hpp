// The grids of IQ3, shared by all instruction sets. A group of four levels of 0 to 7 is written as a code, three bits a
// level with the first lowest, or as a point, byte i = 8 * i + level i: where terms of all levels of all four stand.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

constexpr size_t kIq3Codes = 4096;

// Point i is that of index i.
template <size_t N>
struct Iq3Grid {
  uint32_t points[N];
};
extern const Iq3Grid<256> kIq3XxsGrid;
extern const Iq3Grid<512> kIq3SGrid;

// What an encoder takes in place of each code: the code itself where it is in the grid, else the best of a list.
struct Iq3Choices {
  struct List {
    uint32_t levels;  // bit b: a point of the list has the byte b; 0 for a code in the grid
    uint16_t first, n;
  };
  List lists[kIq3Codes];
  int16_t index[kIq3Codes];  // in the grid, or -1
  const uint32_t* points;
};
const Iq3Choices& iq3_xxs_choices();
const Iq3Choices& iq3_s_choices();

}  // namespace fastconv
