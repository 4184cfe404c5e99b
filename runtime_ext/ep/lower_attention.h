// An attention as the graph states it, spelled out or by name: what is compared, masked and mixed.
#pragma once

#include <string>
#include <vector>

#include "ep/lower_internal.h"
#include "ep/trace.h"
#include "ep/weave.h"

namespace onnxprune::ep {

struct StatedAttention {
  Woven q, k, v;        // [..., queries, features], [..., features, keys] and [..., keys, features]
  bool joined = false;  // the result is [batch, queries, heads x features]; otherwise as the products have it
  double scale = 1;     // of the scores
  int mask = -1;        // a value, constant or not; spec says what it means
  AttentionSpec spec;   // what concerns masks
  // Keys or values as another result, of which `added` comes last: [batch, heads, tokens, features].
  struct Cache {
    int past = -1, present = -1;  // values
    Woven added;
  };
  Cache k_cache, v_cache;
  std::vector<float> bias[3];  // added to the features of q, k and v first, or empty
};

// Operators that are an attention by themselves.
bool is_attention(const GraphNode& node);
// Of which one has the weights of queries, keys and values inside.
bool is_packed_attention(const GraphNode& node);
// The attention that makes `value`. False when there is none.
bool read_spelled_attention(const LowerContext& context, Tracer* tracer, Weaver* weaver, int value, StatedAttention* out);
// Node `index`. Throws Unsupported.
bool read_named_attention(const LowerContext& context, Tracer* tracer, Weaver* weaver, int index, StatedAttention* out);
bool lower_packed_attention(const LowerContext& context, int index, Unit* unit);

}  // namespace onnxprune::ep
