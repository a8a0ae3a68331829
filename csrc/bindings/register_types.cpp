// The type table as Python sees it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/register.hpp"
#include "blocks/type_table.hpp"

namespace py = pybind11;

namespace fastconv {

void register_types(py::module_& m) {
  py::class_<TypeInfo>(m, "TypeInfo")
      .def_property_readonly("name", [](const TypeInfo& t) { return std::string(t.name); })
      .def_readonly("ggml_type", &TypeInfo::ggml_type)
      .def_readonly("block_size", &TypeInfo::block_size)
      .def_readonly("block_bytes", &TypeInfo::block_bytes)
      .def_readonly("max_abs", &TypeInfo::max_abs)
      .def_readonly("decodes", &TypeInfo::decodes)
      .def_readonly("needs_importance", &TypeInfo::needs_importance)
      .def_property_readonly(
          "today", [](const TypeInfo& t) { return std::string(type_info(todays_type(type_from_name(t.name))).name); })
      .def_property_readonly("encodes", [](const TypeInfo& t) { return t.max_abs > 0; })
      .def("__repr__", [](const TypeInfo& t) { return "TypeInfo('" + std::string(t.name) + "')"; });
  m.def("types", [] {
    std::vector<TypeInfo> rows;
    for (size_t i = 0; i < kTypeCount; ++i) rows.push_back(type_info(static_cast<Type>(i)));
    return rows;
  });
}

}  // namespace fastconv
