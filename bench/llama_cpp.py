"""Whether llama.cpp computes from an exported GGUF file what this package computes from the model.

    npm install --prefix DIR node-llama-cpp@3.21.1       # llama.cpp, built, with a door for Node
    python bench/llama_cpp.py --node DIR --json results/llama_cpp.json

Exports the language model in three types; both sides tokenise the same texts and continue them greedily.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from record import circumstances

from vlmamba.checkpoints import load_model
from vlmamba.exchange.exporting import export_model
from vlmamba.vlm import embedded_model

TEXTS = (
    "User: What is this?\nAssistant:",
    "The 1234 cats sat on",
    "User: Is it a red circle? It's 27 px  wide.\nAssistant:",
    "Café ☃ snow",
    "a",
)
TOKENS = 32
SCRIPT = """
import {getLlama} from "node-llama-cpp";
const [file, texts, count] = [process.argv[2], JSON.parse(process.argv[3]), Number(process.argv[4])];
const llama = await getLlama({gpu: false, build: "never", logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 256, threads: 1});
const results = [];
for (const text of texts) {
  const sequence = context.getSequence();
  const ids = model.tokenize(text, false);
  const answer = [];
  for await (const token of sequence.evaluate(ids, {temperature: 0, yieldEogToken: true})) {
    answer.push(token);
    if (answer.length >= count) break;
  }
  results.push([[...ids], answer]);
  await sequence.dispose();
}
console.log(JSON.stringify(results));
process.exit(0);
"""


def theirs(node: Path, file: Path) -> list[tuple[list[int], list[int]]]:
    script = node / "continue.mjs"
    script.write_text(SCRIPT)
    command = ["node", script.name, str(file), json.dumps(TEXTS), str(TOKENS)]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, check=True)
    return [tuple(pair) for pair in json.loads(done.stdout.splitlines()[-1])]


@torch.no_grad()
def ours(directory: Path, dtype: torch.dtype) -> list[tuple[list[int], list[int]]]:
    """Weights rounded to `dtype`, computed in float32."""
    model, processor = load_model(directory, dtype=dtype)
    model.float()
    results = []
    for text in TEXTS:
        ids = processor.tokenizer.encode(text, add_special_tokens=False).ids
        answer: list[int] = []
        for _ in range(TOKENS):
            logits = model(torch.tensor([ids + answer]), logits_to_keep=1).logits
            answer.append(int(logits[0, -1].argmax()))
        results.append((ids, answer))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--node", type=Path, required=True, help="where node-llama-cpp is installed"
    )
    parser.add_argument(
        "--model", type=Path, help="a model directory; the embedded one if left out"
    )
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    directory = options.model or embedded_model()
    manifest = options.node / "node_modules" / "node-llama-cpp" / "package.json"
    record = circumstances("python bench/llama_cpp.py --node DIR")
    record["versions"]["node-llama-cpp"] = json.loads(manifest.read_text())["version"]
    record["results"] = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.gguf"
            export_model(str(directory), file, "gguf", dtype=dtype)
            pairs = list(zip(ours(directory, dtype), theirs(options.node, file), strict=True))
        same_ids = sum(a[0] == b[0] for a, b in pairs)
        same = sum(x == y for a, b in pairs for x, y in zip(a[1], b[1], strict=True))
        row = {
            "dtype": str(dtype).removeprefix("torch."),
            "texts": len(pairs),
            "texts_tokenised_alike": same_ids,
            "tokens": TOKENS * len(pairs),
            "tokens_alike": same,
        }
        record["results"].append(row)
        print(row)
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
