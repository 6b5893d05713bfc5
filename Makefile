# Verbs only: CMakeLists.txt holds the sources. Every verb does its own set-up.
BUILD ?= build
JOBS ?= $(shell nproc)
CMAKE_ARGS ?=

.PHONY: all deps demo test golden interop gpu-checks bench asan fuzz format loc mutate ablation clean

all: deps
	cmake -S . -B $(BUILD) -G Ninja $(CMAKE_ARGS)
	cmake --build $(BUILD) -j $(JOBS)
	ln -sf $(BUILD)/cbq cbq

# Installs what is missing through apt, or prints the command and stops.
deps:
	@tools/deps.sh

# A trained model, quantised by cross-block reconstruction: perplexity before and after, and a checkpoint.
demo: all
	rm -rf examples/tiny-llama/quantised
	./cbq run examples/tiny-llama/config.json

test: all
	ctest --test-dir $(BUILD) --output-on-failure -j $(JOBS)

# Every golden perplexity, some minutes a model; needs the models of CBQ_TEST_DATA.
golden: all
	CBQ_GOLDEN=all ctest --test-dir $(BUILD) --output-on-failure -R '^(models|perplexity)$$'

# Checkpoints in the programs that people serve them with; downloads some gigabytes of Python packages on first use.
interop: all
	tests/interop/run.sh $(BUILD)

# Tests, sanitizers, golden perplexities and interrupted runs on a GPU; see tools/gpu_checks.sh.
gpu-checks: all
	tools/gpu_checks.sh $(BUILD)

# One table a program, and its numbers as JSON with the GPU, its driver and the commit; see bench/README.md. A build without
# CUDA has no ladder.
bench: all
	for name in ops ladder window; do \
	  [ -x $(BUILD)/bench/$$name ] || continue; \
	  $(BUILD)/bench/$$name --benchmark_out=$(BUILD)/$$name.json --benchmark_out_format=json \
	    --benchmark_context=commit=$$(git describe --always --dirty 2>/dev/null || echo unknown) || exit 1; done

# The suite under the address and undefined-behaviour sanitizers.
asan: deps
	cmake -S . -B build-asan -G Ninja -DCBQ_SANITIZE=ON -DCBQ_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo
	cmake --build build-asan -j $(JOBS)
	ctest --test-dir build-asan --output-on-failure -j $(JOBS)

# One minute of libFuzzer on each reader of foreign bytes; needs clang.
fuzz: deps
	cmake -S . -B build-fuzz -G Ninja -DCBQ_FUZZERS=ON -DCBQ_SANITIZE=ON -DCBQ_CUDA=OFF -DCMAKE_CXX_COMPILER=clang++
	cmake --build build-fuzz -j $(JOBS) --target fuzzers
	for f in build-fuzz/fuzz/*; do $$f -max_total_time=60 || exit 1; done

# Breaks kernels one after the other and demands that the suite notices.
mutate: all
	tools/mutate_kernels.py

# The table of docs/method.md.
ablation: all
	tools/ablation.py

format:
	git ls-files '*.h' '*.cpp' '*.cuh' '*.cu' | xargs clang-format -i

# Lines per folder.
loc:
	@for d in core cpu cuda autograd models quant tools tests bench; do \
	  printf '%-10s %6d\n' $$d $$(git ls-files $$d | grep -E '\.(h|cpp|cuh|cu|sh|py)$$' | xargs cat | wc -l); done

clean:
	rm -rf build build-asan build-fuzz cbq
