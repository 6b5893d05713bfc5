"""Dense exports in transformers: every weight bit for bit, perplexity within 0.1 %."""
from common import *  # first: it sets the environment that the libraries read

import transformers
from transformers import AutoModelForCausalLM

CLIENT = f"transformers {transformers.__version__}"
SCHEMES = {"W2A16 g64": {"wbits": 2, "group_size": 64}, "W4A16 sym": {"wbits": 4, "sym": True}}
MODEL, TEXT = source()


def check(scheme, settings, folder):
    quantised(folder, MODEL, ["dense"], **settings)
    written = dense_weights(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    equal = equal_tensors(model.state_dict(), written)
    compare(CLIENT, scheme, equal, len(written), perplexity(model.float(), tokens), cbq_perplexity(folder, TEXT))


tokens = windows(MODEL, TEXT)
check_all(CLIENT, SCHEMES, check)
