#!/bin/sh
# Fails when a file includes a header of a layer that it may not know:
#
#   tools -> quant -> models -> autograd -> core <- cpu, cuda
#
# A layer may include itself and every layer to its right; cpu and cuda are named only by tools, tests and bench.
# Usage: tools/layers.sh [folder of the repository]
set -eu
cd "${1:-$(dirname "$0")/..}"

allowed() {
  case $1 in
    core) echo core ;;
    cpu | cuda) echo core "$1" ;;
    autograd) echo core autograd ;;
    models) echo core autograd models ;;
    quant) echo core autograd models quant ;;
    tools) echo core autograd models quant tools cpu cuda ;;
  esac
}

wrong=0
checked=0
for layer in core cpu cuda autograd models quant tools; do
  [ -d "$layer" ] || continue
  may=$(allowed "$layer" | tr ' ' '|')
  includes=$(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' "$layer" \
    --include='*.h' --include='*.cpp' --include='*.cuh' --include='*.cu' || true)
  [ -n "$includes" ] || continue
  checked=$((checked + $(printf '%s\n' "$includes" | wc -l)))
  found=$(printf '%s\n' "$includes" | grep -vE "include[[:space:]]*\"($may)/" || true)
  if [ -n "$found" ]; then
    printf '%s may include only %s, but:\n%s\n' "$layer" "$may" "$found" >&2
    wrong=1
  fi
done
[ "$checked" -gt 0 ] || { echo "layers: no include was found under $(pwd)" >&2; exit 1; }
[ "$wrong" = 0 ] && echo "layers: $checked includes follow the rule"
exit "$wrong"
