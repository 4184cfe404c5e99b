// Plans made while a session decides what to claim: groups that are cut anew after a measurement take
// over what stays the same in them.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels/kernels.h"

namespace onnxprune::ep {

class PlanStore {
 public:
  using Weights = std::shared_ptr<const kernels::Weights>;

  // The plan made for these weights, layouts and epilogue; null if there is none yet.
  std::shared_ptr<kernels::Plan> find(const Weights& weights, const kernels::PlaneLayout& in, const kernels::PlaneLayout& out,
                                      const kernels::Epilogue& epilogue) const {
    const auto known = plans_.find(weights);
    if (known == plans_.end()) return nullptr;
    for (const auto& [kept_epilogue, plan] : known->second)
      if (kept_epilogue == epilogue && plan->in_layout() == in && plan->out_layout() == out) return plan;
    return nullptr;
  }
  void keep(const Weights& weights, const kernels::Epilogue& epilogue, std::shared_ptr<kernels::Plan> plan) {
    plans_[weights].emplace_back(epilogue, std::move(plan));
  }

 private:
  std::map<Weights, std::vector<std::pair<kernels::Epilogue, std::shared_ptr<kernels::Plan>>>> plans_;
};

}  // namespace onnxprune::ep
