"""gptq exports in GPTQModel: its own reader and its own unpacking give the weights bit for bit; perplexity within 0.1 %.

Loaded in the dtype of the checkpoint, f16; on a CPU GPTQModel would take bf16 and round the step sizes to it."""
from common import *  # first: it sets the environment that the libraries read

import gptqmodel
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


MODEL, TEXT = source()


def check(scheme, settings, folder):
    quantised(folder, MODEL, ["gptq", "dense"], **settings)
    expected = {name: tensor for name, tensor in dense_weights(folder / "dense").items() if "_proj.weight" in name}
    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    unpacked = {f"{name}.weight": module.dequantize_weight().T for name, module in model.named_modules()
                if isinstance(module, TorchLinear)}
    compare(CLIENT, scheme, equal_tensors(unpacked, expected), len(expected), perplexity(model, tokens),
            cbq_perplexity(folder, TEXT))


tokens = windows(MODEL, TEXT)
check_all(CLIENT, SCHEMES, check)
