// The engine as Python sees it: the structs of engine/job.hpp, rows and Run. Names of types become Types here, and
// native errors become Python's.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "engine/chunk_ledger.hpp"
#include "engine/input_files.hpp"
#include "engine/job.hpp"
#include "engine/memory_plan.hpp"
#include "engine/rows.hpp"
#include "engine/run.hpp"
#include "engine/validate.hpp"
#include "io/allocator.hpp"
#include "io/rename.hpp"
#include "io/storage.hpp"

namespace py = pybind11;

namespace fastconv {
namespace {

NonFinite policy_by_name(const std::string& name) {
  if (name == "error") return NonFinite::error;
  if (name == "keep") return NonFinite::keep;
  if (name == "clamp") return NonFinite::clamp;
  throw std::invalid_argument("nonfinite is error, keep or clamp, not " + name);
}

std::shared_ptr<Storage> storage_of(const py::object& object) {
  if (py::isinstance<py::int_>(object)) return Storage::map_file(object.cast<int>());
  if (!py::isinstance<py::array>(object)) throw py::type_error("storage is neither a descriptor nor an array");
  const auto array = py::reinterpret_borrow<py::array>(object);
  const void* data = contiguous_data(array);
  return Storage::in_memory(data, array.nbytes(), keep_alive(array));
}

Source make_source(int64_t n_rows, int64_t n_cols, std::vector<Piece> pieces, const std::optional<py::buffer>& rows) {
  Source source{n_rows, n_cols, std::move(pieces), {}};
  if (rows) {
    const py::buffer_info info = rows->request();
    if (info.ndim != 1) throw std::invalid_argument("rows is not one-dimensional");
    if (!info.item_type_is_equivalent_to<int64_t>() || (info.size > 1 && info.strides[0] != sizeof(int64_t)))
      throw std::invalid_argument("rows is not contiguous int64");
    const auto* first = static_cast<const int64_t*>(info.ptr);
    source.rows.assign(first, first + info.size);
  }
  validate(source);
  return source;
}

void register_structs(py::module_& m) {
  py::class_<Piece>(m, "Piece")
      .def(py::init([](const py::object& storage, const std::string& type, int64_t offset, int64_t row_stride,
                       int64_t col_stride, int64_t row, int64_t n_rows, int64_t col, int64_t n_cols) {
             Piece piece{
                 storage_of(storage), require_type(type), offset, row_stride, col_stride, row, n_rows, col, n_cols};
             validate(piece);
             return piece;
           }),
           py::arg("storage"), py::arg("type"), py::arg("offset"), py::arg("row_stride"), py::arg("col_stride"),
           py::arg("row"), py::arg("n_rows"), py::arg("col"), py::arg("n_cols"));
  py::class_<Source>(m, "Source")
      .def(py::init(&make_source), py::arg("n_rows"), py::arg("n_cols"), py::arg("pieces"),
           py::arg("rows") = py::none());
  py::class_<Delta>(m, "Delta")
      .def(py::init([](Source b, Source a, float scale, std::optional<Source> magnitude) {
             Delta delta{std::move(b), std::move(a), scale, {}};
             if (magnitude) delta.magnitude.push_back(std::move(*magnitude));
             return delta;
           }),
           py::arg("b"), py::arg("a"), py::arg("scale"), py::arg("magnitude") = py::none());
  py::class_<Output>(m, "Output")
      .def(py::init([](int file, const std::string& type, int64_t offset) {
             return Output{file, require_type(type), offset};
           }),
           py::arg("file"), py::arg("type"), py::arg("offset"));
  py::class_<Importance>(m, "Importance")
      .def(py::init([](Source sums, std::vector<float> counts) {
             return Importance{std::move(sums), std::move(counts)};
           }),
           py::arg("sums"), py::arg("counts"));
  py::class_<Job>(m, "Job").def(py::init([](std::string name, Source source, std::vector<Delta> deltas,
                                            std::vector<Output> outputs, std::optional<Importance> importance) {
                                  Job job{std::move(name), std::move(source), std::move(deltas), std::move(outputs)};
                                  if (importance) job.importance.push_back(std::move(*importance));
                                  return job;
                                }),
                                py::arg("name"), py::arg("source"), py::arg("deltas"), py::arg("outputs"),
                                py::arg("importance") = py::none());
  py::class_<FinishedChunk>(m, "FinishedChunk")
      .def(py::init(
               [](int64_t chunk, uint64_t checksum, double delta_squares, double base_squares, int64_t rounded_blocks) {
                 return FinishedChunk{chunk, checksum, delta_squares, base_squares, rounded_blocks};
               }),
           py::arg("chunk"), py::arg("checksum"), py::arg("delta_squares"), py::arg("base_squares"),
           py::arg("rounded_blocks"))
      .def_readonly("chunk", &FinishedChunk::chunk)
      .def_readonly("checksum", &FinishedChunk::checksum)
      .def_readonly("delta_squares", &FinishedChunk::delta_squares)
      .def_readonly("base_squares", &FinishedChunk::base_squares)
      .def_readonly("rounded_blocks", &FinishedChunk::rounded_blocks);
  py::class_<DeltaStats>(m, "DeltaStats")
      .def_readonly("delta_norm", &DeltaStats::delta_norm)
      .def_readonly("base_norm", &DeltaStats::base_norm);
}

void register_errors(py::module_& m) {
  static const py::handle non_finite = py::exception<NonFiniteValue>(m, "NonFiniteValue").release();
  static const py::handle input_changed = py::exception<InputChanged>(m, "InputChanged").release();
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      std::rethrow_exception(std::move(error));
    } catch (const NonFiniteValue& e) {
      const auto args = py::make_tuple(e.job, e.row, e.col, e.value, std::string(type_info(e.type).name));
      PyErr_SetObject(non_finite.ptr(), args.ptr());
    } catch (const InputChanged& e) {
      PyErr_SetObject(input_changed.ptr(), py::make_tuple(e.device, e.inode, e.is_unreadable).ptr());
    } catch (const std::system_error& e) {
      errno = e.code().value();
      PyErr_SetFromErrno(PyExc_OSError);
    }
  });
}

}  // namespace

void register_engine(py::module_& m) {
  register_structs(m);
  register_errors(m);
  m.def(
      "read_rows",
      [](const Source& source, int64_t start, int64_t stop) {
        check_rows(source, start, stop);
        py::array_t<float> rows({stop - start, source.n_cols});
        float* const data = rows.mutable_data();
        const py::gil_scoped_release released;
        read_rows(source, start, stop, data, kernels());
        return rows;
      },
      py::arg("source"), py::arg("start"), py::arg("stop"));
  m.def(
      "is_zero",
      [](const Source& source, int64_t start, int64_t stop) {
        check_rows(source, start, stop);
        const py::gil_scoped_release released;
        return is_zero(source, start, stop, kernels());
      },
      py::arg("source"), py::arg("start"), py::arg("stop"));
  m.def("reserve", &reserve, py::arg("descriptor"), py::arg("size"), py::call_guard<py::gil_scoped_release>());
  m.def(
      "rename_new",
      [](const py::bytes& from, const py::bytes& to) {
        rename_new(PyBytes_AsString(from.ptr()), PyBytes_AsString(to.ptr()));
      },
      py::arg("old"), py::arg("new"));
  m.def(
      "exchange_names",
      [](const py::bytes& one, const py::bytes& other) {
        exchange_names(PyBytes_AsString(one.ptr()), PyBytes_AsString(other.ptr()));
      },
      py::arg("one"), py::arg("other"));
  m.def("share_one_arena", &share_one_arena);
  m.def("return_free_memory", &return_free_memory);
  m.def(
      "least_memory",
      [](const std::vector<Job>& jobs, size_t n_files) { return least_memory(jobs, n_files, kernels()); },
      py::arg("jobs"), py::arg("n_files"));
  py::class_<Run>(m, "Run")
      .def(py::init([](std::vector<Job> jobs, const std::vector<int>& files, int threads, const std::string& nonfinite,
                       int64_t tile_bytes, const std::string& isa, bool direct, int64_t max_memory,
                       const std::optional<std::vector<FinishedChunk>>& finished) {
             RunOptions options;
             options.n_threads = threads;
             options.nonfinite = policy_by_name(nonfinite);
             options.tile_bytes = tile_bytes;
             options.max_memory = max_memory;
             options.direct = direct;
             options.kernels = isa.empty() ? &kernels() : &kernels(isa);
             options.keeps_ledger = finished.has_value();
             if (finished) options.finished = *finished;
             return std::make_unique<Run>(std::move(jobs), files, options);
           }),
           py::arg("jobs"), py::arg("files"), py::arg("threads"), py::arg("nonfinite") = "error",
           py::arg("tile_bytes") = 0, py::arg("isa") = "", py::arg("direct") = true, py::arg("max_memory") = 0,
           py::arg("finished") = py::none())
      .def("wait", &Run::wait, py::arg("seconds"), py::call_guard<py::gil_scoped_release>())
      .def("cancel", &Run::cancel, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("bytes_done", &Run::bytes_done)
      .def_property_readonly("n_chunks", &Run::n_chunks)
      .def_property_readonly("n_chunks_found", &Run::n_chunks_found)
      .def("take_finished", &Run::take_finished)
      .def("rounded_blocks", &Run::rounded_blocks)
      .def("delta_stats", &Run::delta_stats);
}

}  // namespace fastconv
