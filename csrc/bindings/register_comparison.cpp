// The comparison of a file with its source as Python sees it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "bindings/register.hpp"
#include "engine/comparison.hpp"

namespace py = pybind11;

namespace fastconv {

void register_comparison(py::module_& m) {
  py::class_<ComparisonStats>(m, "ComparisonStats")
      .def_readonly("elements", &ComparisonStats::elements)
      .def_readonly("blocks", &ComparisonStats::blocks)
      .def_readonly("differing_blocks", &ComparisonStats::differing_blocks)
      .def_readonly("far_blocks", &ComparisonStats::far_blocks)
      .def_readonly("rounded_blocks", &ComparisonStats::rounded_blocks)
      .def_readonly("base_blocks", &ComparisonStats::base_blocks)
      .def_readonly("first_differing", &ComparisonStats::first_differing)
      .def_readonly("first_far", &ComparisonStats::first_far)
      .def_readonly("not_finite", &ComparisonStats::not_finite)
      .def_readonly("first_not_finite", &ComparisonStats::first_not_finite)
      .def_readonly("source_not_finite", &ComparisonStats::source_not_finite)
      .def_readonly("max_error", &ComparisonStats::max_error)
      .def_readonly("max_error_at", &ComparisonStats::max_error_at)
      .def_readonly("source", &ComparisonStats::source)
      .def_readonly("stored", &ComparisonStats::stored)
      .def_readonly("error", &ComparisonStats::error)
      .def_readonly("own_error", &ComparisonStats::own_error)
      .def_readonly("base_error", &ComparisonStats::base_error)
      .def_readonly("delta", &ComparisonStats::delta);
  py::class_<Comparison>(m, "Comparison")
      .def(py::init([](std::vector<std::pair<Job, std::optional<Source>>> tensors, int threads) {
             std::vector<Comparand> comparands;
             for (auto& [job, stored] : tensors) comparands.push_back({std::move(job), std::move(stored)});
             return std::make_unique<Comparison>(std::move(comparands), threads, kernels());
           }),
           py::arg("tensors"), py::arg("threads"))
      .def("wait", &Comparison::wait, py::arg("seconds"), py::call_guard<py::gil_scoped_release>())
      .def("cancel", &Comparison::cancel, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("bytes_done", &Comparison::bytes_done)
      .def("stats", &Comparison::stats);
}

}  // namespace fastconv
