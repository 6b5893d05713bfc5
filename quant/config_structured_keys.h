// The keys of the run configuration whose values are more than one number, name or path.
#pragma once

#include "quant/config_keys.h"

namespace cbq {

ConfigKey schedule_key();   // a name, or null for a default that depends on another key
ConfigKey overrides_key();  // a list of objects
ConfigKey exports_key();    // a format or a list of them

}  // namespace cbq
