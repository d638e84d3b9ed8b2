/*
 * The table of this instruction set: included last by each tiles_<isa>.cpp.
 */
#pragma once

#include "backward.h"
#include "decode.h"
#include "forward.h"

namespace lathe::cpu::attention {
namespace {

template <class T>
constexpr Tiles kTable{kVariant, forward_item<T>, backward_item<T>, finish_rows<T>, decode_item<T>};

}  // namespace
}  // namespace lathe::cpu::attention
