"""compressed-tensors exports in transformers: de-quantised weights bit for bit, perplexity within 0.1 %.

Asymmetric grids are loaded with dequantize=True: on the other way the library makes no room for packed zero points.

Quantised activations: the library computes them in the dtype of the model, so it is loaded in f32, with the weights
rounded to the checkpoint's dtype as everywhere else. Both programs then have the same formula, and in it the largest
value of a row that is negative lies on the tie between the last two codes: the last bit of a sum decides by a whole
step, in every row. With ranges off by a thousandth there is no tie, and the numbers are held against each other; those
with it are shown. The model is the small one of examples/, because deeper ones multiply what is left."""
from common import *  # first: it sets the environment that the libraries read

import compressed_tensors
import compressed_tensors.quantization.lifecycle.forward as lifecycle
import transformers
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

CLIENT = f"transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}"
WEIGHTS = {
    "W2A16 sym g64": {"wbits": 2, "sym": True, "group_size": 64},
    "W3A16 sym": {"wbits": 3, "sym": True},
    "W4A16 sym g128": {"wbits": 4, "sym": True, "group_size": 128},
    "W8A16 sym": {"wbits": 8, "sym": True},
    "W2A16 asym g64": {"wbits": 2, "sym": False, "group_size": 64},
    "W3A16 asym": {"wbits": 3, "sym": False},
    "W4A16 asym g128": {"wbits": 4, "sym": False, "group_size": 128},
    "W4A16 asym": {"wbits": 4, "sym": False},
    "W8A16 asym": {"wbits": 8, "sym": False},
}
ACTIVATIONS = {
    "W8A8": {"wbits": 8, "sym": True, "abits": 8},
    "W4A8 g128": {"wbits": 4, "sym": True, "abits": 8, "group_size": 128},
    "W4A4": {"wbits": 4, "sym": True, "abits": 4},
}
OFF_THE_TIE = 0.999
MODEL, TEXT = source()
SMALL, STORIES = example()

range_factor = 1.0
whole_range = lifecycle.compute_dynamic_scales_and_zp


def scaled_range(**arguments):
    scale, zero_point = whole_range(**arguments)
    return scale * range_factor, zero_point


lifecycle.compute_dynamic_scales_and_zp = scaled_range


def set_ranges(folder, layers, factor):
    """The factor on the range of every token, there and here."""
    global range_factor
    range_factor = factor
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["cbq"] = {"activation_factor": {name: factor for name in layers}}
    file.write_text(json.dumps(config))


def check_weights(scheme, settings, folder):
    quantised(folder, MODEL, ["compressed-tensors", "dense"], **settings)
    expected = dense_weights(folder / "dense")
    options = {} if settings["sym"] else {"quantization_config": CompressedTensorsConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    theirs = perplexity(model, tokens)  # the first forward de-quantises
    compare(CLIENT, scheme, equal_tensors(model.state_dict(), expected), len(expected), theirs,
            cbq_perplexity(folder, TEXT))


def check_activations(scheme, settings, folder):
    quantised(folder, SMALL, ["compressed-tensors", "dense"], **settings)
    expected = dense_weights(folder / "dense")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    perplexity(model, stories[:1])  # de-quantises
    equal = equal_tensors(model.state_dict(), expected)
    for name, parameter in model.named_parameters():
        if name in expected:
            parameter.data = expected[name].float()
    layers = [name.removesuffix(".weight") for name in expected if name.endswith("_proj.weight")]
    for factor, note, limit in ((1, "with ties", 1e-2), (OFF_THE_TIE, "without", 1e-3)):
        set_ranges(folder, layers, factor)
        compare(CLIENT, f"{scheme} {note}", equal, len(expected), perplexity(model, stories),
                cbq_perplexity(folder, STORIES), limit)


def check(scheme, settings, folder):
    (check_activations if "abits" in settings else check_weights)(scheme, settings, folder)


tokens, stories = windows(MODEL, TEXT), windows(SMALL, STORIES)
check_all(CLIENT, WEIGHTS | ACTIVATIONS, check)
