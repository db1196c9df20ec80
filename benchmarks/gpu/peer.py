"""The peer: the training step of torch + transformers + peft, eager and in bfloat16, on a random model of a shape.

Full training has parameters in float32 under autocast, as transformers' trainer does it; adapters are bfloat16, which
is the fastest that peft offers. A base of four bits is bitsandbytes' nf4.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.gpu.contestant import serve_contestant
from benchmarks.gpu.task import RANK, TARGETS, Task
from benchmarks.llama_config import llama_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def build_model(task: Task, attention: str) -> Any:
    """A llama with random weights, ready to train."""
    config = llama_config(task.sizes, task.length)
    dtype = torch.float32 if task.kind == "full" else torch.bfloat16
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if task.kind == "qlora":
        pack(model)
    if task.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if task.kind != "full":
        settings = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=list(TARGETS))
        model = get_peft_model(model, settings, autocast_adapter_dtype=False)
    return model.train()


def pack(model: Any) -> None:
    """Put the matrices of layers into bitsandbytes' nf4, one by one."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for layer in model.model.layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if type(child) is torch.nn.Linear:
                    packed = Linear4bit(
                        child.in_features,
                        child.out_features,
                        bias=False,
                        compute_dtype=torch.bfloat16,
                        quant_type="nf4",
                        device="meta",
                    )
                    weight = Params4bit(child.weight.data, requires_grad=False, quant_type="nf4", module=packed)
                    packed.weight = weight.to(DEVICE)
                    setattr(module, name, packed)
    model.is_loaded_in_4bit = True


class PeerTrainer:
    """Fulfils `Trainer`."""

    def __init__(self, task: Task, attention: str) -> None:
        torch.manual_seed(0)
        self._model = build_model(task, attention)
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-4, weight_decay=0.01, fused=True)
        tokens = np.random.default_rng(0).integers(0, task.sizes.vocab, (task.rows, task.length))
        self._tokens = torch.from_numpy(tokens).to(DEVICE)
        self._autocast = torch.autocast(DEVICE, torch.bfloat16) if task.kind == "full" else nullcontext()
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def step(self) -> Any:
        with self._autocast:
            loss = self._model(input_ids=self._tokens, labels=self._tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def loss_of(self, step: Any) -> float:
        return float(step)

    def synchronize(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def attention(self) -> str:
        return str(self._model.config._attn_implementation)

    def peak_bytes(self) -> int:
        return int(torch.cuda.max_memory_reserved()) if DEVICE == "cuda" else 0

    def give_back(self) -> None:
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--attention", default="sdpa")
    attention = parser.parse_args().attention
    serve_contestant(lambda task: PeerTrainer(task, attention))


if __name__ == "__main__":
    main()
