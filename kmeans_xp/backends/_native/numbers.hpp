// Numbers of rows: the types that they may have, and what their bits stand for.
//
// All here is internal to each file: the linker would keep one copy of others, perhaps that for another processor.
#pragma once
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "passes.hpp"

namespace kmeans {
namespace {

// A number of float16.
struct Half {
    uint16_t bits;

#if defined(__F16C__)
    explicit operator double() const { return double(_cvtsh_ss(bits)); }
#else
    // Without tiny numbers of float64, which may be taken for 0.
    explicit operator double() const {
        const uint64_t magnitude = bits & 0x7fff, rebias = uint64_t(1023 - 15) << 52;
        const uint64_t wide = (magnitude << 42) + rebias + (magnitude < 0x7c00 ? 0 : rebias);  // or not finite
        double normal;
        std::memcpy(&normal, &wide, 8);
        const double number = magnitude < 0x400 ? double(int32_t(magnitude)) * 0x1p-24 : normal;
        return bits & 0x8000 ? -number : number;
    }
#endif
};

template <class T>
inline T number_at(const char* place) {
    T value;
    std::memcpy(&value, place, sizeof(T));  // which need not be aligned
    return value;
}

// Call function(T()) for the type T of a dtype.
template <class Function>
inline auto with_type(Dtype dtype, Function function) {
    switch (dtype) {
        case Dtype::float32: return function(float());
        case Dtype::float64: return function(double());
        case Dtype::float16: return function(Half());
        case Dtype::int8: return function(int8_t());
        case Dtype::uint8: return function(uint8_t());
        case Dtype::int16: return function(int16_t());
        default: return function(uint16_t());
    }
}

}  // namespace
}  // namespace kmeans
