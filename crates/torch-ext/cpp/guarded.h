// What C++ throws, as text that C and Rust can take.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs `body`; null, or what it has thrown, to be freed by te_free.
template <typename F>
char* guarded(F&& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}
