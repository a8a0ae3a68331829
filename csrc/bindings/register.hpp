#pragma once

#include <pybind11/pybind11.h>

namespace fastconv {

void register_types(pybind11::module_& m);
void register_kernels(pybind11::module_& m);
void register_engine(pybind11::module_& m);
void register_comparison(pybind11::module_& m);

}  // namespace fastconv
