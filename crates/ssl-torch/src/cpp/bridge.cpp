// C entry points for what tch does not bind. Each returns 0, or 1 with a message that the caller frees.
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/cpu/Utils.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>

#include <cstdlib>

namespace {

at::DeviceType device_type(int cuda) { return cuda != 0 ? at::kCUDA : at::kCPU; }

}  // namespace

extern "C" {

void ssl_free(char* text) { std::free(text); }

int ssl_autocast_state(int cuda, int* enabled, int* dtype, char** error) {
  return guarded(error, [&] {
    const auto device = device_type(cuda);
    *enabled = at::autocast::is_autocast_enabled(device) ? 1 : 0;
    *dtype = static_cast<int>(at::autocast::get_autocast_dtype(device));
  });
}

int ssl_autocast_enter(int cuda, int enabled, int dtype, char** error) {
  return guarded(error, [&] {
    const auto device = device_type(cuda);
    at::autocast::set_autocast_enabled(device, enabled != 0);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
    at::autocast::increment_nesting();
  });
}

int ssl_autocast_leave(int cuda, int enabled, int dtype, char** error) {
  return guarded(error, [&] {
    const auto device = device_type(cuda);
    // The cache holds casts of weights that the next optimizer step makes stale.
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(device, enabled != 0);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(dtype));
  });
}

int ssl_cpu_capability(const char* name, int* present, char** error) {
  return guarded(error, [&] {
    const auto all = at::cpu::get_cpu_capabilities();
    const auto found = all.find(name);
    *present = found != all.end() && found->second.isBool() && found->second.toBool() ? 1 : 0;
  });
}

int ssl_generator_state(int cuda, int index, at::Tensor** state, char** error) {
  return guarded(error, [&] {
    const at::Device device(device_type(cuda), cuda != 0 ? index : -1);
    auto generator = at::globalContext().defaultGenerator(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

int ssl_set_generator_state(int cuda, int index, const at::Tensor* state, char** error) {
  return guarded(error, [&] {
    const at::Device device(device_type(cuda), cuda != 0 ? index : -1);
    auto generator = at::globalContext().defaultGenerator(device);
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

int ssl_set_grad(at::Tensor* param, const at::Tensor* grad, char** error) {
  return guarded(error, [&] {
    TORCH_CHECK(param->sizes() == grad->sizes(), "a gradient of shape ", grad->sizes(),
                " does not fit a parameter of shape ", param->sizes());
    param->mutable_grad() = *grad;
  });
}

int ssl_fused_adamw(at::Tensor* param, at::Tensor* grad, at::Tensor* mean, at::Tensor* square, at::Tensor* steps,
                    double lr, double beta1, double beta2, double weight_decay, double eps, char** error) {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    at::_fused_adamw_({*param}, {*grad}, {*mean}, {*square}, {}, {*steps}, lr, beta1, beta2, weight_decay, eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

int ssl_fused_sgd(at::Tensor* param, at::Tensor* grad, at::Tensor* buffer, double lr, double momentum,
                  double weight_decay, int nesterov, int first, char** error) {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    at::_fused_sgd_({*param}, {*grad}, {*buffer}, weight_decay, momentum, lr, /*dampening=*/0.0, nesterov != 0,
                    /*maximize=*/false, /*is_first_step=*/first != 0);
  });
}

int ssl_cuda_peak_bytes(int index, long long* bytes, char** error) {
  return guarded(error, [&] {
    const auto stats = at::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(index));
    *bytes = stats.allocated_bytes[0].peak;
  });
}

int ssl_cuda_bf16(int index, int* fast, char** error) {
  return guarded(error, [&] {
    const c10::DeviceGuard guard(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)));
    // libtorch's name for a compute capability of 8.0 or more; the device's properties need CUDA's own headers.
    *fast = at::detail::getCUDAHooks().supportsBFloat16ConvolutionWithCuDNNv8() ? 1 : 0;
  });
}

int ssl_flush_denormal(int on, char** error) {
  return guarded(error, [&] { TORCH_CHECK(at::globalContext().setFlushDenormal(on != 0), "unsupported CPU"); });
}

}  // extern "C"
