#include "vocab/sentencepiece.hpp"

#include <algorithm>
#include <bitset>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

namespace fastconv {
namespace {

// Four times the largest vocabulary there is; each piece takes a hundred bytes before anything is written.
constexpr size_t kMaxPieces = size_t{1} << 20;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

// Protocol buffers' wire format: https://protobuf.dev/programming-guides/encoding/
class Message {
 public:
  explicit Message(std::string_view bytes) : left_(bytes) {}

  // The next field; false at the end.
  bool next() {
    if (left_.empty()) return false;
    const uint64_t tag = varint();
    if (tag >> 3 == 0 || tag >> 32 != 0) refuse("a field without a number");
    tag_ = static_cast<uint32_t>(tag);
    switch (tag_ & 7) {
      case kVarint:
        number_ = varint();
        break;
      case kFixed64:
        value_ = take(8);
        break;
      case kBytes:
        value_ = take(varint());
        break;
      case kFixed32:
        value_ = take(4);
        break;
      default:
        refuse("a field of an unknown kind");
    }
    return true;
  }

  // A field of another kind than stated is one that the reader does not know.
  bool is_bytes(uint32_t field) const { return tag_ == (field << 3 | kBytes); }
  bool is_varint(uint32_t field) const { return tag_ == (field << 3 | kVarint); }
  bool is_float(uint32_t field) const { return tag_ == (field << 3 | kFixed32); }

  std::string_view bytes() const { return value_; }
  uint64_t number() const { return number_; }
  float real() const {
    uint32_t bits = 0;
    for (int i = 3; i >= 0; --i) bits = bits << 8 | static_cast<uint8_t>(value_[static_cast<size_t>(i)]);
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
  }

 private:
  enum : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  uint64_t varint() {
    uint64_t out = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      out |= static_cast<uint64_t>(byte & 0x7F) << std::min(shift, 63);
      if (byte < 0x80) return out;
    }
    refuse("an integer that does not end");
  }

  std::string_view take(uint64_t n) {
    if (n > left_.size()) refuse("a field that goes beyond the end");
    const std::string_view taken = left_.substr(0, n);
    left_.remove_prefix(n);
    return taken;
  }

  std::string_view left_;
  uint32_t tag_ = 0;
  uint64_t number_ = 0;
  std::string_view value_;
};

SentencePiece piece(std::string_view bytes) {
  SentencePiece out;
  for (Message message(bytes); message.next();) {
    if (message.is_bytes(1)) out.text = message.bytes();
    if (message.is_float(2)) out.score = message.real();
    // A number that is no type leaves the field as it was.
    if (message.is_varint(3) && message.number() >= 1 && message.number() <= 6)
      out.type = static_cast<PieceType>(message.number());
  }
  return out;
}

// "<0x41>" -> 0x41, -1 for any other text. Digits are in upper case.
int byte_of(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  return high == kDigits.npos || low == kDigits.npos ? -1 : static_cast<int>(high * 16 + low);
}

// Whether a piece is there twice. Open addressing: the standard library's set takes longer than all else here.
bool has_twins(const std::vector<SentencePiece>& pieces) {
  size_t n_slots = 1;
  while (n_slots < 2 * pieces.size()) n_slots *= 2;
  std::vector<const SentencePiece*> slots(n_slots);
  size_t n_steps = 0;  // one or two for each piece, unless a file was made to be slow
  for (const SentencePiece& p : pieces) {
    size_t slot = std::hash<std::string_view>()(p.text);
    for (const SentencePiece* q; (q = slots[slot & (n_slots - 1)]) != nullptr; ++slot) {
      if (q->text == p.text) return true;
      if (++n_steps > 64 * n_slots) refuse("pieces that were chosen to collide");
    }
    slots[slot & (n_slots - 1)] = &p;
  }
  return false;
}

void check(const std::vector<SentencePiece>& pieces, bool byte_fallback) {
  std::bitset<256> found;
  int n_unknown = 0;
  for (const SentencePiece& p : pieces) {
    if (p.text.empty()) refuse("an empty piece");
    n_unknown += p.type == PieceType::kUnknown;
    if (p.type != PieceType::kByte) continue;
    const int byte = byte_of(p.text);
    if (byte < 0 || !byte_fallback) refuse("a byte piece that stands for none");
    found.set(static_cast<size_t>(byte));
  }
  // What falls back to bytes leaves nothing unknown.
  if (n_unknown > 1 || (n_unknown == 0 && !byte_fallback))
    refuse(std::to_string(n_unknown) + " pieces for the unknown");
  if (byte_fallback && !found.all()) refuse("pieces of " + std::to_string(found.count()) + " bytes of 256");
  if (has_twins(pieces)) refuse("a piece twice");
}

}  // namespace

std::vector<SentencePiece> sentencepieces(std::string_view model) {
  std::vector<SentencePiece> pieces;
  pieces.reserve(std::min(model.size() / 16, kMaxPieces));
  bool byte_fallback = false;
  for (Message message(model); message.next();) {
    if (message.is_bytes(1)) {
      if (pieces.size() == kMaxPieces) refuse("more than " + std::to_string(kMaxPieces) + " pieces");
      pieces.push_back(piece(message.bytes()));
    }
    if (!message.is_bytes(2)) continue;
    for (Message trainer(message.bytes()); trainer.next();)
      if (trainer.is_varint(35)) byte_fallback = trainer.number() != 0;
  }
  check(pieces, byte_fallback);
  return pieces;
}

}  // namespace fastconv
