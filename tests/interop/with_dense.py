"""Dense exports in transformers: every weight bit for bit, perplexity within 0.1 %."""
import tempfile

import transformers
from common import *
from transformers import AutoModelForCausalLM

CLIENT = f"transformers {transformers.__version__}"

with tempfile.TemporaryDirectory() as temp:
    tokens = windows()
    for scheme, settings in {"W2A16 g64": {"wbits": 2, "group_size": 64}, "W4A16 sym": {"wbits": 4, "sym": True}}.items():
        folder = quantised(f"{temp}/{scheme.replace(' ', '-')}", ["dense"], **settings)
        written = dense_weights(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        loaded = model.state_dict()
        equal = sum(same_bits(loaded[name], tensor) for name, tensor in written.items())
        ours, theirs = cbq_perplexity(folder), perplexity(model.float(), tokens)
        report(CLIENT, scheme, f"{equal} of {len(written)} tensors equal, perplexity {theirs:.4f}, here {ours:.4f}",
               equal == len(written) and abs(theirs / ours - 1) < 1e-3)
finish()
