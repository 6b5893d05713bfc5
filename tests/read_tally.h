// What a reader does with damaged files, counted.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"

namespace cbq::test {

struct ReadTally {
  int opened = 0, refused = 0;

  // Case i: anything but success and an Error{bad_input} of one line fails.
  template <class Read>
  void attempt(int i, const Read& read) {
    try {
      read();
      ++opened;
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << "case " << i << ": " << error.what();
      EXPECT_EQ(std::strchr(error.what(), '\n'), nullptr) << "case " << i << ": " << error.what();
      EXPECT_LT(std::strlen(error.what()), 1000u) << "case " << i;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "case " << i << ": " << error.what();
    }
  }
};

}  // namespace cbq::test
