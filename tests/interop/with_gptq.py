"""gptq exports in GPTQModel: its own reader and its own unpacking give the weights bit for bit; perplexity within 0.1 %.

Loaded in the dtype of the checkpoint, f16; on a CPU GPTQModel would take bf16 and round the step sizes to it."""
import tempfile

import gptqmodel
from common import *
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.nn_modules.qlinear.torch import TorchLinear

CLIENT = f"GPTQModel {gptqmodel.__version__}"
SCHEMES = {
    "W4A16 sym g128": {"wbits": 4, "sym": True, "group_size": 128},
    "W4A16 sym": {"wbits": 4, "sym": True},
    "W8A16 sym": {"wbits": 8, "sym": True},
    "W2A16 sym g64": {"wbits": 2, "sym": True, "group_size": 64},
    "W3A16 sym g128": {"wbits": 3, "sym": True, "group_size": 128},
    "W2A16 asym g64": {"wbits": 2, "sym": False, "group_size": 64},
    "W3A16 asym": {"wbits": 3, "sym": False},
    "W4A16 asym g128": {"wbits": 4, "sym": False, "group_size": 128},
    "W8A16 asym": {"wbits": 8, "sym": False},
    "W4A16, down W8": {"wbits": 4, "sym": True, "overrides": [{"match": "*down_proj", "wbits": 8}]},
}


def check(scheme, settings, temp, tokens):
    name = "".join(c for c in scheme if c.isalnum())
    folder = quantised(f"{temp}/{name}", ["gptq", "dense"], **settings)
    expected = dense_weights(folder / "dense")
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    equal = layers = 0
    for name, module in model.named_modules():
        if not isinstance(module, TorchLinear):
            continue
        layers += 1
        equal += same_bits(module.dequantize_weight().T, expected[f"{name}.weight"])
    ours, theirs = cbq_perplexity(folder), perplexity(model, tokens)
    quantised_layers = sum(n.endswith("_proj.weight") for n in expected)
    report(CLIENT, scheme, f"{equal} of {layers} layers equal, perplexity {theirs:.4f}, here {ours:.4f}",
           equal == layers == quantised_layers and abs(theirs / ours - 1) < 1e-3)


with tempfile.TemporaryDirectory() as temp:
    tokens = windows()
    for scheme, settings in SCHEMES.items():
        try:
            check(scheme, settings, temp, tokens)
        except (RuntimeError, ValueError, KeyError) as error:
            report(CLIENT, scheme, str(error).splitlines()[-1].strip(), False)
finish()
