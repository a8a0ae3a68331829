// A tokenizer's pieces as Python keeps them.
#include <pybind11/pybind11.h>

#include <string_view>
#include <vector>

#include "bindings/register.hpp"
#include "vocab/sentencepiece.hpp"

namespace py = pybind11;

namespace fastconv {

void register_vocab(py::module_& m) {
  m.def(
      "sentencepieces",
      [](const py::bytes& model) {
        const std::vector<SentencePiece> pieces = sentencepieces(std::string_view(model));
        py::list tokens(pieces.size()), scores(pieces.size()), types(pieces.size());
        for (size_t i = 0; i < pieces.size(); ++i) {
          tokens[i] = py::bytes(pieces[i].text.data(), pieces[i].text.size());
          scores[i] = py::float_(pieces[i].score);
          types[i] = py::int_(static_cast<int>(pieces[i].type));
        }
        return py::make_tuple(tokens, scores, types);
      },
      py::arg("model"));
}

}  // namespace fastconv
