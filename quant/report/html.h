// Text and numbers as HTML. What is written is well-formed XML too: every element closed, every attribute quoted.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cbq {

// Text of any origin as content or as the value of an attribute: & < > " ' become entities, control characters but tab
// and newline, and bytes that are no UTF-8, become U+FFFD.
std::string escaped(std::string_view text);

// How a number is written for people. plain: `digits` significant digits; ratio: a share as per cent.
enum class Unit { plain, ratio, bytes, seconds, count };
// "0.0612", "6.1 %", "29.1 MB", "3 min 20 s", "128"; "–" for NaN.
std::string number_text(double value, Unit unit, int digits = 4);
// The same inside <data value="...">, whose attribute gives the number back bit for bit.
std::string number_html(double value, Unit unit, int digits = 4);

// <name attributes>content</name>; attributes as they stand, such as `class="note"`.
std::string element(std::string_view name, std::string_view content, std::string_view attributes = {});

// A table of cells that are HTML already. Of a head cell that starts with '#' the column holds numbers, which are set
// flush right.
std::string table_html(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows);

}  // namespace cbq
