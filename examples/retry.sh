#!/bin/sh
# One request that is tried again while that may help:  ZEROGPU_API_KEY=zgpu-api-… examples/retry.sh
# curl's --retry covers 408, 429, 500, 502, 503 and 504 and waits as Retry-After says; what will
# not get better (400, 401, 403, 420) ends at once.
set -eu

curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused --max-time 30 \
  "${ZEROGPU_URL:-http://127.0.0.1:8000}/v1/responses" \
  --header "x-api-key: ${ZEROGPU_API_KEY:?set it to a key: zerogpu keys create}" \
  --header "content-type: application/json" \
  --data "{
    \"model\": \"${ZEROGPU_MODEL:-zlm-v1-summary-cloud}\",
    \"input\": \"The ferry leaves at noon. It was late all week. Nobody knows why.\"
  }"
