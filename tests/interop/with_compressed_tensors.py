"""compressed-tensors exports in transformers: de-quantised weights bit for bit, perplexity within 0.1 %.

Asymmetric grids are loaded with dequantize=True: on the other way the library makes no room for packed zero points.
Activation ranges are not learned here, because the format has no place for a factor on them. Where
activations are quantised the model is loaded in f32: in f16 the library also computes the quantiser itself in f16."""
import tempfile

import compressed_tensors
import transformers
from common import *
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

CLIENT = f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}"
SCHEMES = {
    "W2A16 sym g64": {"wbits": 2, "sym": True, "group_size": 64},
    "W3A16 sym": {"wbits": 3, "sym": True},
    "W4A16 sym g128": {"wbits": 4, "sym": True, "group_size": 128},
    "W8A16 sym": {"wbits": 8, "sym": True},
    "W2A16 asym g64": {"wbits": 2, "sym": False, "group_size": 64},
    "W3A16 asym": {"wbits": 3, "sym": False},
    "W4A16 asym g128": {"wbits": 4, "sym": False, "group_size": 128},
    "W4A16 asym": {"wbits": 4, "sym": False},
    "W8A16 asym": {"wbits": 8, "sym": False},
    "W8A8": {"wbits": 8, "sym": True, "abits": 8},
    "W4A8 g128": {"wbits": 4, "sym": True, "abits": 8, "group_size": 128},
    "W4A4": {"wbits": 4, "sym": True, "abits": 4},
}


def check(scheme, settings, temp, tokens):
    folder = quantised(f"{temp}/{scheme.replace(' ', '-')}", ["compressed-tensors", "dense"], **settings)
    expected = dense_weights(folder / "dense")
    options = {} if settings["sym"] else {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    dtype = torch.float32 if "abits" in settings else "auto"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    theirs = perplexity(model, tokens)  # the first forward de-quantises
    loaded = model.state_dict()
    equal = sum(name in loaded and same_bits(loaded[name].to(tensor.dtype), tensor) for name, tensor in expected.items())
    ours = cbq_perplexity(folder)
    report(CLIENT, scheme, f"{equal} of {len(expected)} tensors equal, perplexity {theirs:.4f}, here {ours:.4f}",
           equal == len(expected) and abs(theirs / ours - 1) < 1e-3)


with tempfile.TemporaryDirectory() as temp:
    tokens = windows()
    for scheme, settings in SCHEMES.items():
        try:
            check(scheme, settings, temp, tokens)
        except (RuntimeError, ValueError, KeyError) as error:
            report(CLIENT, scheme, str(error).splitlines()[-1].strip(), False)
finish()
