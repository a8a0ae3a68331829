// The grids of IQ2 and IQ1 as bytes, shared by all instruction sets: plain data, no code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

// Point i: eight levels of 0, 1, 2, one a byte, the first in the lowest.
template <size_t N>
struct Grid {
  uint64_t points[N];
};
extern const Grid<256> kIq2XxsGrid;
extern const Grid<512> kIq2XsGrid;
extern const Grid<1024> kIq2SGrid;
extern const Grid<2048> kIq1Grid;

// Of eight signs in a byte: 0xFF in byte k where bit k is set.
struct SignBytes {
  uint64_t of[256];
};
extern const SignBytes kSignBytes;

// Of seven signs as stored: with the eighth that makes the number of set bits even.
struct EvenSigns {
  uint8_t of[128];
};
extern const EvenSigns kEvenSigns;

}  // namespace fastconv
