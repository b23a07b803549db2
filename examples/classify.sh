#!/bin/sh
# Classify a text with curl:  ZEROGPU_API_KEY=zgpu-api-… examples/classify.sh "A text of your own."
set -eu

url=${ZEROGPU_URL:-http://127.0.0.1:8000}
text=${1:-The goalkeeper saved two penalties and the city celebrated its first cup in thirty years.}

# JSON needs quotes and backslashes escaped, and no line breaks.
input=$(printf '%s' "$text" | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g')

curl --silent --show-error --fail-with-body --dump-header /dev/stderr "$url/v1/responses" \
  --header "x-api-key: ${ZEROGPU_API_KEY:?set it to a key: zerogpu keys create}" \
  --header "content-type: application/json" \
  --data "{\"model\": \"zlm-v1-iab-classify-edge\", \"input\": \"$input\"}"
