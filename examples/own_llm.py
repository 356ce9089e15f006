"""Bring your own LLM.  In reland.toml:  [rationales] engine = "own_llm:Phrasebook".

A server that speaks the OpenAI protocol (vLLM, TGI, llama.cpp) needs no class, see own_llm_server.toml.
"""

from reland_features.engines.base import Completion


class Phrasebook:
    source, batch_size, parameters = "examples/own_llm.py", 8, {}

    def __init__(self, model, **options):
        self.engine_id = f"phrasebook-{model}"

    def complete(self, requests, options):
        best = f"Categories: {options['categories'][0]}\nItems: {'; '.join(options['items'][:3])}"
        return [Completion(f"Step 1: You like what is popular.\nStep 2:\n{best}", 100, 20) for _ in requests]

    def count_tokens(self, requests):
        return [100 for _ in requests]

    def close(self): ...
