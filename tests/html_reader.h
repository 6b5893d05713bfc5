// Reads a page of the report the strict way: every element closed in order, every attribute quoted, every < and & an
// element or an entity. Anything else is a failure of the test.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

struct HtmlElement {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;  // of this element and all below it, entities decoded
  std::vector<HtmlElement> children;
};

class HtmlReader {
 public:
  explicit HtmlReader(std::string_view page) : rest_(page) {}

  // The element around everything, after the doctype.
  HtmlElement read() {
    EXPECT_TRUE(take("<!DOCTYPE html>\n")) << "no doctype";
    HtmlElement root = element();
    EXPECT_EQ(rest_, "\n") << "something follows the page";
    return root;
  }

 private:
  HtmlElement element() {
    HtmlElement result;
    if (!take("<")) return fail("an element was expected");
    result.name = word();
    while (take(" ")) {
      const std::string name = word();
      if (!take("=\"")) return fail("an attribute without a quoted value: " + name);
      EXPECT_TRUE(result.attributes.emplace(name, decoded(until("\""))).second) << name << " twice";
      take("\"");
    }
    if (take("/>")) return result;
    if (!take(">")) return fail("a tag that does not end");
    if (result.name == "style") {  // raw text
      result.text = until("</style>");
      take("</style>");
      return result;
    }
    while (!rest_.empty() && !rest_.starts_with("</")) {
      if (rest_.starts_with("<")) {
        result.children.push_back(element());
        result.text += result.children.back().text;
      } else {
        result.text += decoded(until("<"));
      }
    }
    if (!take("</" + result.name + ">")) return fail("<" + result.name + "> is not closed");
    return result;
  }

  std::string decoded(std::string_view text) {
    static const std::map<std::string, std::string, std::less<>> kEntities = {
        {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&#39;", "'"}};
    EXPECT_EQ(text.find_first_of("<>\""), std::string_view::npos) << "raw: " << text.substr(0, 80);
    std::string result;
    while (!text.empty()) {
      if (text[0] != '&') {
        const std::string_view plain = text.substr(0, text.find('&'));
        result += plain;
        text.remove_prefix(plain.size());
        continue;
      }
      const auto entity = kEntities.find(text.substr(0, text.find(';') + 1));
      if (entity == kEntities.end()) {
        ADD_FAILURE() << "no entity: " << text.substr(0, 40);
        return result;
      }
      result += entity->second;
      text.remove_prefix(entity->first.size());
    }
    return result;
  }

  HtmlElement fail(const std::string& what) {
    ADD_FAILURE() << what << " at: " << rest_.substr(0, 80);
    rest_ = {};
    return {};
  }
  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  std::string_view until(std::string_view end) {
    const std::string_view part = rest_.substr(0, rest_.find(end));
    rest_.remove_prefix(part.size());
    return part;
  }
  std::string word() {
    const std::string_view part = rest_.substr(0, rest_.find_first_of(" =>/\"<"));
    rest_.remove_prefix(part.size());
    return std::string(part);
  }

  std::string_view rest_;
};

// All elements of a name below `root`, in the order of the page.
inline void find_all(const HtmlElement& root, std::string_view name, std::vector<const HtmlElement*>& found) {
  for (const HtmlElement& child : root.children) {
    if (child.name == name) found.push_back(&child);
    find_all(child, name, found);
  }
}
inline std::vector<const HtmlElement*> all_of(const HtmlElement& root, std::string_view name) {
  std::vector<const HtmlElement*> found;
  find_all(root, name, found);
  return found;
}

// The row of any table whose first cell reads `name`, and the numbers of its cells, exact, in their order.
inline std::vector<double> row_numbers(const HtmlElement& page, const std::string& name) {
  for (const HtmlElement* row : all_of(page, "tr")) {
    if (row->children.empty() || row->children[0].text != name) continue;
    std::vector<double> numbers;
    for (const HtmlElement* data : all_of(*row, "data"))
      numbers.push_back(std::strtod(data->attributes.at("value").c_str(), nullptr));
    return numbers;
  }
  ADD_FAILURE() << "no row " << name;
  return {};
}

}  // namespace cbq
