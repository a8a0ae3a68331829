// Encode and decode of arrays in memory, and the kernels one by one for the tests.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <optional>
#include <string>

#include "bindings/arrays.hpp"
#include "bindings/register.hpp"
#include "core/split.hpp"
#include "isa/kernel_table.hpp"

namespace py = pybind11;

namespace fastconv {
namespace {

const KernelTable& table(const std::string& isa) { return isa.empty() ? kernels() : kernels(isa); }

void require_whole_blocks(int64_t found, int64_t unit, const char* what, std::string_view type) {
  if (found % unit != 0)
    throw py::value_error(std::string(type) + ": found " + std::to_string(found) + " " + what +
                          ", expected a multiple of " + std::to_string(unit));
}

// Encoding in steps that may run side by side: a block, or a whole row where importance is heeded.
struct Steps {
  Type type;
  int64_t elements;  // of one step
  std::function<void(const float* src, void* dst, int64_t n_steps)> encode;

  int64_t bytes() const { return row_bytes(type, elements); }
};

Steps encoding(const std::string& type_name, const std::string& isa, int64_t n_cols,
               const std::optional<Array<float>>& importance) {
  const Type type = require_type(type_name);
  const TypeKernels& kernels = table(isa).of(type);
  const int64_t block = type_info(type).block_size;
  require_whole_blocks(n_cols, block, "columns", type_name);
  if (importance && importance->size() != n_cols)
    throw py::value_error("importance: found " + std::to_string(importance->size()) + " values, expected " +
                          std::to_string(n_cols));
  if (importance && kernels.encode_weighted != nullptr)
    return {type, n_cols,
            [encode = kernels.encode_weighted, n_cols, weights = importance->data()](
                const float* src, void* dst, int64_t n_steps) { encode(src, dst, n_steps, n_cols, weights); }};
  if (kernels.encode == nullptr)
    throw py::value_error("type '" + type_name +
                          (kernels.encode_weighted != nullptr ? "' needs an importance" : "' cannot be encoded"));
  return {type, block, [encode = kernels.encode, block](const float* src, void* dst, int64_t n_steps) {
            encode(src, dst, n_steps * block);
          }};
}

Array<uint8_t> quantize(const Array<float>& x, const std::string& type_name, int threads, const std::string& isa,
                        const std::optional<Array<float>>& importance) {
  require_2d(x, "x");
  const int64_t n_rows = x.shape(0), n_cols = x.shape(1);
  const Steps steps = encoding(type_name, isa, n_cols, importance);
  Array<uint8_t> out({n_rows, row_bytes(steps.type, n_cols)});
  const float* from = x.data();
  uint8_t* to = out.mutable_data();
  py::gil_scoped_release release;
  if (out.size() == 0) return out;
  split(n_rows * n_cols / steps.elements, threads, [&](int64_t first, int64_t count) {
    steps.encode(from + first * steps.elements, to + first * steps.bytes(), count);
  });
  return out;
}

Array<float> dequantize(const Array<uint8_t>& blocks, const std::string& type_name, int threads,
                        const std::string& isa) {
  require_2d(blocks, "blocks");
  const Type type = require_type(type_name);
  const TypeInfo& info = type_info(type);
  const DecodeFn decode = table(isa).of(type).decode;
  if (decode == nullptr) throw py::value_error("type '" + type_name + "' cannot be decoded");
  const int64_t n_rows = blocks.shape(0), n_bytes = blocks.shape(1);
  require_whole_blocks(n_bytes, info.block_bytes, "bytes a row", type_name);
  const int64_t n_cols = n_bytes / info.block_bytes * info.block_size;
  Array<float> out({n_rows, n_cols});
  const uint8_t* from = blocks.data();
  float* to = out.mutable_data();
  py::gil_scoped_release release;
  if (is_planar(type)) {
    for (int64_t row = 0; row < n_rows; ++row) decode(from + row * n_bytes, to + row * n_cols, n_cols);
    return out;
  }
  split(n_rows * n_cols / info.block_size, threads, [&](int64_t first, int64_t count) {
    decode(from + first * info.block_bytes, to + first * info.block_size, count * info.block_size);
  });
  return out;
}

// Over a buffer that the caller made, `repeats` times: for tests of what is left unwritten, and for benchmarks.
void quantize_into(const Array<float>& x, const std::string& type_name, Array<uint8_t>& out, const std::string& isa,
                   int repeats, const std::optional<Array<float>>& importance) {
  const Steps steps = encoding(type_name, isa, importance ? importance->size() : x.size(), importance);
  if (steps.elements == 0 || x.size() % steps.elements != 0) throw py::value_error("x: no whole rows of importance");
  if (out.size() != row_bytes(steps.type, x.size())) throw py::value_error("out: wrong size");
  uint8_t* to = out.mutable_data();
  py::gil_scoped_release release;
  for (int i = 0; i < repeats; ++i) steps.encode(x.data(), to, x.size() / steps.elements);
}

void dequantize_into(const Array<uint8_t>& blocks, const std::string& type_name, Array<float>& out,
                     const std::string& isa, int repeats) {
  const Type type = require_type(type_name);
  const DecodeFn decode = table(isa).of(type).decode;
  if (decode == nullptr) throw py::value_error("type '" + type_name + "' cannot be decoded");
  require_whole_blocks(out.size(), type_info(type).block_size, "elements", type_name);
  if (blocks.size() != row_bytes(type, out.size())) throw py::value_error("out: wrong size");
  float* to = out.mutable_data();
  py::gil_scoped_release release;
  for (int i = 0; i < repeats; ++i) decode(blocks.data(), to, out.size());
}

float decode_max(const Array<uint8_t>& elements, const std::string& type_name, Array<float>& out,
                 const std::string& isa) {
  const Type type = require_type(type_name);
  const DecodeMaxFn decode = table(isa).of(type).decode_max;
  if (decode == nullptr) throw py::value_error("type '" + type_name + "' is not decoded so");
  if (elements.size() != row_bytes(type, out.size())) throw py::value_error("out: wrong size");
  return decode(elements.data(), out.mutable_data(), out.size());
}

float stored_max(const Array<uint8_t>& elements, const std::string& type_name, const std::string& isa) {
  const Type type = require_type(type_name);
  const StoredMaxFn largest = table(isa).of(type).stored_max;
  if (largest == nullptr) throw py::value_error("type '" + type_name + "' must be decoded to be compared");
  require_whole_blocks(elements.size(), type_info(type).block_bytes, "bytes", type_name);
  return largest(elements.data(), elements.size() / type_info(type).block_bytes);
}

// Over a buffer that the caller made.
py::tuple recode_into(const Array<uint8_t>& elements, const std::string& from, const std::string& to,
                      Array<uint8_t>& out, const std::string& isa) {
  const Type type = require_type(from), wanted = require_type(to);
  const RecodeFn recode = table(isa).recode(type, wanted);
  if (recode == nullptr) throw py::value_error("'" + from + "' is not recoded to '" + to + "'");
  require_whole_blocks(elements.size(), type_info(type).block_bytes, "bytes", from);
  const int64_t n = elements.size() / type_info(type).block_bytes * type_info(type).block_size;
  require_whole_blocks(n, type_info(wanted).block_size, "elements", to);
  if (out.size() != row_bytes(wanted, n)) throw py::value_error("out: wrong size");
  const Recoded recoded = recode(elements.data(), out.mutable_data(), n);
  return py::make_tuple(recoded.rounded_blocks, recoded.largest);
}

void lora_add(Array<float>& rows, const Array<float>& b, const Array<float>& a, float scale, const std::string& isa) {
  require_2d(rows, "rows");
  require_2d(b, "b");
  require_2d(a, "a");
  if (b.shape(0) != rows.shape(0) || a.shape(1) != rows.shape(1) || b.shape(1) != a.shape(0))
    throw py::value_error("lora_add: expected rows (m, n), b (m, rank), a (rank, n)");
  float* to = rows.mutable_data();
  py::gil_scoped_release release;
  table(isa).lora_add(to, rows.shape(1), rows.shape(0), rows.shape(1), b.data(), a.data(), a.shape(1), a.shape(0),
                      scale);
}

}  // namespace

void register_kernels(py::module_& m) {
  m.def("isas", [] {
    py::list names;
    for (const std::string_view name : runnable_isas()) names.append(std::string(name));
    return names;
  });
  m.def("isa", [] { return std::string(kernels().name); });
  m.def(
      "heeds_importance",
      [](const std::string& type) { return kernels().of(require_type(type)).encode_weighted != nullptr; },
      py::arg("type"));
  m.def("quantize", &quantize, py::arg("x").noconvert(), py::arg("type"), py::arg("threads") = 1, py::arg("isa") = "",
        py::arg("importance").noconvert() = py::none());
  m.def("dequantize", &dequantize, py::arg("blocks").noconvert(), py::arg("type"), py::arg("threads") = 1,
        py::arg("isa") = "");
  m.def("quantize_into", &quantize_into, py::arg("x").noconvert(), py::arg("type"), py::arg("out").noconvert(),
        py::arg("isa") = "", py::arg("repeats") = 1, py::arg("importance").noconvert() = py::none());
  m.def("dequantize_into", &dequantize_into, py::arg("blocks").noconvert(), py::arg("type"), py::arg("out").noconvert(),
        py::arg("isa") = "", py::arg("repeats") = 1);
  m.def("decode_max", &decode_max, py::arg("elements").noconvert(), py::arg("type"), py::arg("out").noconvert(),
        py::arg("isa") = "");
  m.def("stored_max", &stored_max, py::arg("elements").noconvert(), py::arg("type"), py::arg("isa") = "");
  m.def("recodes", [] {
    py::list pairs;
    for (const Recode& entry : kernels().recodes)
      pairs.append(py::make_tuple(std::string(type_info(entry.from).name), std::string(type_info(entry.to).name)));
    return pairs;
  });
  m.def("recode_into", &recode_into, py::arg("elements").noconvert(), py::arg("from_type"), py::arg("to_type"),
        py::arg("out").noconvert(), py::arg("isa") = "");
  m.def("lora_add", &lora_add, py::arg("rows").noconvert(), py::arg("b").noconvert(), py::arg("a").noconvert(),
        py::arg("scale"), py::arg("isa") = "");
  m.def(
      "max_abs", [](const Array<float>& x, const std::string& isa) { return table(isa).max_abs(x.data(), x.size()); },
      py::arg("x").noconvert(), py::arg("isa") = "");
  m.def(
      "sum_of_squares",
      [](const Array<float>& x, const std::string& isa) { return table(isa).sum_of_squares(x.data(), x.size()); },
      py::arg("x").noconvert(), py::arg("isa") = "");
  m.def(
      "square_norm",
      [](const Array<float>& x, const std::string& isa) { return table(isa).square_norm(x.data(), x.size()); },
      py::arg("x").noconvert(), py::arg("isa") = "");
}

}  // namespace fastconv
