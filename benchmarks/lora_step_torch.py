"""Worker: one LoRA training step of torch + transformers + peft on random data, in fp32 or bf16."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from benchmarks.interleave import serve
from benchmarks.llama_config import llama_config
from benchmarks.shapes import BY_NAME


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="s134")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = BY_NAME[options.shape]
    model = LlamaForCausalLM(llama_config(shape, 2048)).to(getattr(torch, options.dtype))
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules=targets))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    tokens = torch.randint(0, shape.vocab, (options.rows, options.length))

    def step() -> dict[str, Any]:
        started = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"seconds": time.perf_counter() - started, "loss": float(loss)}

    serve(step)


if __name__ == "__main__":
    main()
