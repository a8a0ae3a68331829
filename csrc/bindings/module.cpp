// The table of contents of the extension: one register_* per group.
#include <pybind11/pybind11.h>

#include "bindings/register.hpp"

PYBIND11_MODULE(_native, m) {
  m.doc() = "The compiled core of fastconv: kernels and the streaming engine.";
  fastconv::register_types(m);
  fastconv::register_kernels(m);
  fastconv::register_engine(m);
  fastconv::register_comparison(m);
}
