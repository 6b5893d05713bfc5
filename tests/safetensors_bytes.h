// The bytes of safetensors files for tests, valid ones and ones that no writer would make.
#pragma once

#include <cstdint>
#include <string>

namespace cbq {

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

// Every dtype, ranks 0 to 4, an empty tensor, metadata; listed in another order than the data lies.
inline std::string valid_safetensors() {
  return safetensors_bytes(R"({"__metadata__":{"format":"pt","step":"12"},)"
                           R"("wide":{"dtype":"F64","shape":[1,2,1,1],"data_offsets":[0,16]},)"
                           R"("ids":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},)"
                           R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[32,36]},)"
                           R"("half":{"dtype":"F16","shape":[2,3],"data_offsets":[40,52]},)"
                           R"("packed":{"dtype":"I32","shape":[1],"data_offsets":[36,40]},)"
                           R"("brain":{"dtype":"BF16","shape":[1,1,3],"data_offsets":[52,58]},)"
                           R"("none":{"dtype":"F32","shape":[0,7],"data_offsets":[58,58]},)"
                           R"("codes":{"dtype":"I8","shape":[3],"data_offsets":[58,61]},)"
                           R"("mask":{"dtype":"BOOL","shape":[2],"data_offsets":[61,63]},)"
                           R"("bytes":{"dtype":"U8","shape":[1],"data_offsets":[63,64]}}  )",
                           "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-");
}

}  // namespace cbq
