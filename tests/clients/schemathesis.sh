#!/bin/sh
# Sends a running server whatever its own OpenAPI document allows, and what it does not, and looks
# for answers that the document does not promise: a 5xx first of all.
#
#     sh schemathesis.sh http://127.0.0.1:8000 [EXAMPLES [SEED [PHASES]]]
#
# Needs schemathesis (requirements.txt) on the path. Adapters are left out: loading one names a
# folder of the server's machine. That everything the document allows is taken is not checked:
# fields that exclude each other, and regular expressions that are none, are beyond its words.
set -eu
base=${1:?give the address of a running server}
cd "$(mktemp -d)"
exec schemathesis run "${base%/}/openapi.json" \
    --exclude-checks positive_data_acceptance \
    --exclude-path-regex lora_adapter \
    --max-examples "${2:-50}" \
    --seed "${3:-1}" \
    --phases "${4:-examples,coverage,fuzzing,stateful}" \
    --request-timeout 120 \
    --continue-on-failure
