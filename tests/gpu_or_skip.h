// For tests that run on the CPU and, where there is one, on a GPU as well.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "cuda/open.h"

namespace cbq::test {

// Why no GPU can be used; empty where one can.
inline const std::string& no_gpu() {
  static const std::string reason = [] {
    try {
      cuda::open();
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  }();
  return reason;
}

}  // namespace cbq::test

#define CBQ_SKIP_WITHOUT_GPU(device) \
  if ((device) == Device::cuda && !cbq::test::no_gpu().empty()) GTEST_SKIP() << cbq::test::no_gpu()
