// @ts-check
/** The examples of the landing page, written for the server that the page came from. */

const TEXT = 'The midfielder scored twice in the final.';

/**
 * @param {string} origin  of this server, without a trailing slash
 * @returns {{id: string, title: string, text: string}[]}
 */
export const samples = origin => [
  {
    id: 'curl',
    title: 'curl',
    text: `curl ${origin}/v1/responses \\
  -H "x-api-key: $ZEROGPU_API_KEY" \\
  -H "content-type: application/json" \\
  -d '{"model": "zlm-v1-iab-classify-edge",
       "input": "${TEXT}"}'`,
  },
  {
    id: 'python',
    title: 'Python',
    text: `from openai import OpenAI  # reads OPENAI_API_KEY

client = OpenAI(base_url="${origin}/v1")
response = client.responses.create(
    model="zlm-v1-iab-classify-edge",
    input="${TEXT}",
)
print(response.output_text)`,
  },
  {
    id: 'embeddings',
    title: 'Embeddings',
    text: `from openai import OpenAI  # reads OPENAI_API_KEY

client = OpenAI(base_url="${origin}/v1")
vectors = client.embeddings.create(
    model="all-minilm-l6-v2",
    input=["a lent browser tab", "a spare processor"],
)
print(len(vectors.data[0].embedding))  # 384`,
  },
];
