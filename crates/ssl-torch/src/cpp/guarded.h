// How C++ errors leave an entry point.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs `body`; returns 0, or 1 with a message that the caller frees.
template <typename F>
int guarded(char** error, F body) {
  try {
    body();
    return 0;
  } catch (const c10::Error& e) {
    *error = strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    *error = strdup(e.what());
  }
  return 1;
}
