// The only file that knows NumPy: how arrays come in and go out.
// Policy: an argument is taken as it is or refused, never cast and never copied in silence: a cast would round, a copy
// would double the memory. Bind such arguments with py::arg(...).noconvert(), which makes a mismatch a TypeError.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "blocks/type_table.hpp"

namespace fastconv {

// C-contiguous, of exactly that element type.
template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

template <class T>
void require_2d(const Array<T>& array, const char* name) {
  if (array.ndim() != 2)
    throw pybind11::value_error(std::string(name) + ": found " + std::to_string(array.ndim()) +
                                " dimensions, expected 2");
}

inline Type require_type(std::string_view name) {
  const Type type = type_from_name(name);
  if (type == Type::count) throw pybind11::value_error("type '" + std::string(name) + "' is unknown");
  return type;
}

// The memory of an array of any type, as it is.
inline const void* contiguous_data(const pybind11::array& array) {
  if (!(array.flags() & pybind11::array::c_style)) throw pybind11::value_error("the array is not C-contiguous");
  return array.data();
}

// Keeps the object alive; may be dropped by a thread that does not hold the GIL.
inline std::shared_ptr<void> keep_alive(pybind11::object object) {
  return std::shared_ptr<void>(object.release().ptr(), [](void* pointer) {
    const pybind11::gil_scoped_acquire gil;
    pybind11::handle(static_cast<PyObject*>(pointer)).dec_ref();
  });
}

}  // namespace fastconv
