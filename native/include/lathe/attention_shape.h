// What the attributes of the attention ops say, for every backend: heads, their sharing, scale, mask.
//
// A template, because each backend's shape has fields of its own beside these: heads, kv_heads, head_dim, window, scale,
// softcap, causal.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "lathe/kernel.h"

namespace lathe {

template <class Shape>
Status read_attention_shape(NodeView& node, bool has_causal, Shape* s) {
  double scale = 0, softcap = 0;
  int64_t causal = 0;
  LATHE_TRY(node.attributes.integer("heads", &s->heads));
  LATHE_TRY(node.attributes.integer("kv_heads", &s->kv_heads));
  LATHE_TRY(node.attributes.integer("head_dim", &s->head_dim));
  LATHE_TRY(node.attributes.number("scale", &scale));
  if (has_causal) LATHE_TRY(node.attributes.integer("causal", &causal));
  LATHE_TRY(node.attributes.integer("window", &s->window));
  LATHE_TRY(node.attributes.number("softcap", &softcap));
  if (s->heads < 1 || s->kv_heads < 1 || s->heads % s->kv_heads != 0)
    return node.fail("expected heads to be a positive multiple of kv_heads, received " + std::to_string(s->heads) + " and " +
                     std::to_string(s->kv_heads));
  if (s->head_dim < 1 || s->head_dim > 256) return node.fail("expected head_dim in 1..256, received " + std::to_string(s->head_dim));
  if (!(scale > 0) || !std::isfinite(scale)) return node.fail("expected a positive finite scale");
  if (s->window < 0 || !(softcap >= 0)) return node.fail("expected window >= 0 and softcap >= 0 (0: none)");
  s->scale = static_cast<float>(scale);
  s->softcap = static_cast<float>(softcap);
  s->causal = causal != 0;
  return ok_status();
}

}  // namespace lathe
