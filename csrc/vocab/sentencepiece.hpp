// The pieces of a SentencePiece model. Knows the file's few fields that a vocabulary needs, not how text is cut.
//
// Source of fields and rules: sentencepiece 0.2, sentencepiece_model.proto and model_interface.cc (InitializePieces).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fastconv {

// As sentencepiece_model.proto numbers them, and GGUF after it.
enum class PieceType : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePiece {
  std::string_view text;
  float score = 0;
  PieceType type = PieceType::kNormal;
};

// The pieces in order of their ids; their texts lie in `model`. Throws std::invalid_argument for bytes that are no
// model, and for one that SentencePiece would not load.
std::vector<SentencePiece> sentencepieces(std::string_view model);

}  // namespace fastconv
