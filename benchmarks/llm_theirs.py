"""Write as many tokens after the same prompts with llama.cpp and say what it took: the other side of `benchmarks.llm`.

Runs in an environment of its own. Reads one JSON request from stdin and prints one JSON line. Greedy, without a
grammar, and on past the end of an answer: what is compared is the work, not the words.
"""

import json
import sys
import time
from itertools import islice

from llama_cpp import Llama


def main():
    request = json.load(sys.stdin)
    prompts, lengths, threads = request["prompts"], request["lengths"], request["threads"]
    longest = max(len(prompt) + length for prompt, length in zip(prompts, lengths, strict=True))
    llama = Llama(request["gguf"], n_ctx=longest + 8, n_threads=threads, n_threads_batch=threads, verbose=False)
    write(llama, prompts[0], 1)
    llama.reset()
    wall, cpu = time.perf_counter(), time.process_time()
    written = [write(llama, prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    seconds = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**seconds, "lengths": written}))


def write(llama, prompt, length):
    """Return the number of tokens written; the beginning that a prompt shares with the one before is kept."""
    return sum(1 for _ in islice(llama.generate(prompt, temp=0.0), length))


if __name__ == "__main__":
    main()
