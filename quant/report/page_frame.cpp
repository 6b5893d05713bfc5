#include "quant/report/page_frame.h"

#include "quant/report/html.h"
#include "quant/report/style.h"

namespace cbq {

// The policy lets a reader's browser load and run nothing, whatever the names in the page say.
std::string page_frame(const std::string& title, const std::string& subtitle, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n" +
         element("title", escaped(title)) + "\n" + element("style", report_style()) + "\n</head>\n<body>\n" +
         element("header", element("h1", escaped(title)) + element("p", escaped(subtitle), "class=\"sub\"")) + "\n" +
         body + "\n</body>\n</html>\n";
}

}  // namespace cbq
