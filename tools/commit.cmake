# Writes HEADER with the commit of the repository in SOURCE, and leaves it untouched when that is what it says already.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty=+ --exclude=*
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#pragma once\nconstexpr const char* kCommit = \"${commit}\";\n")
