// The report as one HTML file that needs no other: a pure function of what runs have saved.
#pragma once

#include <span>
#include <string>

#include "quant/report/record.h"

namespace cbq {

// One run: its result, the loss, the layers, what it cost, where it comes from.
std::string run_page(const RunRecord& run);
// Several runs side by side: the same numbers in one table and one chart each, and the config keys in which they
// differ.
std::string comparison_page(std::span<const RunRecord> runs);

}  // namespace cbq
