// An autograd node that keeps the input of a segment and runs the segment again when its gradient is asked for.
#include "guarded.h"

#include <ATen/core/ivalue.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
// Takes its input over. Returns a new tensor, or null with a message that the caller frees.
using Run = at::Tensor* (*)(const void* closure, at::Tensor* x, char** message);
using Release = void (*)(void* closure);

// Rust's closure, which the last reference releases.
class Segment : public torch::CustomClassHolder {
 public:
  Segment(void* closure, Run run, Release release) : closure_(closure), run_(run), release_(release) {}
  ~Segment() override { release_(closure_); }

  at::Tensor run(const at::Tensor& x) const {
    char* message = nullptr;
    const std::unique_ptr<at::Tensor> y(run_(closure_, new at::Tensor(x), &message));
    if (y == nullptr) {
      const std::string text = message == nullptr ? "recomputation failed" : message;
      std::free(message);
      throw std::runtime_error(text);
    }
    return *y;
  }

 private:
  void* closure_;
  Run run_;
  Release release_;
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  // `y` is passed by pointer: libtorch takes references for inputs that want a gradient.
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor* y,
                            const c10::intrusive_ptr<Segment>& segment) {
    context->save_for_backward({x});
    context->saved_data["segment"] = c10::IValue::make_capsule(segment);
    // The node becomes the origin of what is returned: that must not be a parameter itself.
    return y->detach();
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    // The inner pass adds to the leaves whatever was asked for, and is not recorded.
    if (at::GradMode::is_enabled() || !torch::autograd::Engine::get_default_engine().is_checkpoint_valid()) {
      throw std::runtime_error("recomputation: expected a plain backward pass, got one that is recorded or has inputs");
    }
    const auto x = context->get_saved_variables().at(0).detach().set_requires_grad(true);
    const auto segment = c10::static_intrusive_pointer_cast<Segment>(context->saved_data["segment"].toCapsule());
    at::Tensor y;
    {
      at::AutoGradMode recorded(true);
      y = segment->run(x);
    }
    if (y.requires_grad()) {
      torch::autograd::backward({y}, {gradients.at(0)});
    }
    return {x.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

extern "C" {

int ssl_is_recorded(const at::Tensor* x, int* recorded, char** error) {
  return guarded(error, [&] { *recorded = at::GradMode::is_enabled() && x->requires_grad() ? 1 : 0; });
}

int ssl_checkpoint(const at::Tensor* x, const at::Tensor* y, void* closure, Run run, Release release,
                   at::Tensor** joined, char** error) {
  return guarded(error, [&] {
    const auto segment = c10::make_intrusive<Segment>(closure, run, release);
    *joined = new at::Tensor(Checkpoint::apply(*x, y, segment));
  });
}

}  // extern "C"
