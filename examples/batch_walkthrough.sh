#!/bin/sh
# A batch from beginning to end with curl and jq:  ZEROGPU_API_KEY=zgpu-api-… examples/batch_walkthrough.sh
# Leaves input.jsonl, output.jsonl and errors.jsonl in the folder that it is started in.
set -eu

url=${ZEROGPU_URL:-http://127.0.0.1:8000}
model=${ZEROGPU_MODEL:-zlm-v1-summary-cloud}
pause_s=${POLL_S:-5}
key="x-api-key: ${ZEROGPU_API_KEY:?set it to a key: zerogpu keys create}"

# Every call of the API: the answer on stdout, or the server's words on stderr and an end.
ask() {
  curl --silent --show-error --fail-with-body --header "$key" "$@" || {
    echo "batch_walkthrough.sh: the request was refused" >&2
    exit 1
  }
}

# 1. One line a request. `custom_id` finds its answer again: they come in this order, but in two files.
line() {
  jq --null-input --compact-output --arg id "$1" --arg model "$model" --arg text "$2" \
    '{custom_id: $id, method: "POST", url: "/v1/chat/completions",
      body: {model: $model, messages: [{role: "user", content: $text}]}}'
}
{
  line ferry "The ferry leaves at noon. It was late all week, because the harbour is being dredged."
  line cup "The goalkeeper saved two penalties. The city celebrated its first cup in thirty years."
  line storm "Gusts reach the coast tonight. Fishermen were told to stay in port until Thursday."
} >input.jsonl

# 2. Upload it.
file_id=$(ask "$url/v1/files" --form purpose=batch --form file=@input.jsonl | jq --raw-output .id)
echo "Uploaded $file_id"

# 3. Make a batch of it. A file that is not valid is refused here, with the line.
batch_id=$(
  jq --null-input --arg file "$file_id" \
    '{input_file_id: $file, endpoint: "/v1/chat/completions", completion_window: "24h",
      metadata: {job: "walkthrough"}}' |
    ask "$url/v1/batches" --header "content-type: application/json" --data @- | jq --raw-output .id
)
echo "Created $batch_id"

# 4. Ask until it has ended, whichever way.
while :; do
  batch=$(ask "$url/v1/batches/$batch_id")
  echo "$batch" | jq --compact-output '{status, request_counts}'
  case $(echo "$batch" | jq --raw-output .status) in
  completed | failed | expired | cancelled) break ;;
  esac
  sleep "$pause_s"
done

echo "$batch" | jq --raw-output '.errors.data[]? | "Refused: \(.message)"'

# 5. Download what came of it: answers and errors, each line of the input in one of them.
fetch() {
  id=$(echo "$batch" | jq --raw-output ".$1 // empty")
  [ -z "$id" ] || ask "$url/v1/files/$id/content" --output "$2"
}
fetch output_file_id output.jsonl
fetch error_file_id errors.jsonl

[ ! -s output.jsonl ] || jq --raw-output '"\(.custom_id): \(.response.body.choices[0].message.content)"' output.jsonl
[ ! -s errors.jsonl ] || jq --raw-output '"\(.custom_id) failed: \(.error.message)"' errors.jsonl
