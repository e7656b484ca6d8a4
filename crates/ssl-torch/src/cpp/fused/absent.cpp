// What stands in for the fused layers where the compiler or the processor cannot have them.
#include "../guarded.h"

#include <ATen/core/Tensor.h>

#include <stdexcept>

namespace {

int absent(char** error) {
  return guarded(error, [] { throw std::runtime_error("fused layers: expected a build for x86-64 with AVX512-BF16"); });
}

}  // namespace

extern "C" {

int ssl_fused_available(int* available, char**) {
  *available = 0;
  return 0;
}

int ssl_fused_norm(const at::Tensor*, const at::Tensor*, const at::Tensor*, double, at::Tensor**, at::Tensor**,
                   char** error) {
  return absent(error);
}

int ssl_fused_mlp(const at::Tensor*, const at::Tensor*, const at::Tensor*, const at::Tensor*, const at::Tensor*,
                  const at::Tensor*, int, int, at::Tensor**, char** error) {
  return absent(error);
}

int ssl_fused_attention(const at::Tensor*, const at::Tensor*, const at::Tensor*, const at::Tensor*, const at::Tensor*,
                        const at::Tensor*, long long, int, int, at::Tensor**, char** error) {
  return absent(error);
}

}  // extern "C"
