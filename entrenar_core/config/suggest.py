"""What a person may have meant by an unknown key: a near name, a key of another section, a key of another tool.

The other tools are axolotl, LLaMA-Factory, PEFT, mergekit, Ludwig, mlx-lm and Hugging Face's TrainingArguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from entrenar_core.config.base import Path

NOT_YET = "is not available yet in this release"

RENAMED: Mapping[str, str] = {
    # model
    "base_model": "model.path",
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "model_path": "model.path",
    "base_model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "base_model_config": "model.path",
    "gguf": "output.gguf",
    "tokenizer_config": "model.tokenizer",
    "tokenizer_name": "model.tokenizer",
    "tokenizer_name_or_path": "model.tokenizer",
    "n_layers": "model.architecture.num_layers",
    "n_heads": "model.architecture.num_heads",
    "num_hidden_layers": "model.architecture.num_layers",
    "num_attention_heads": "model.architecture.num_heads",
    "num_key_value_heads": "model.architecture.num_kv_heads",
    "max_position_embeddings": "model.architecture.context_length",
    "rms_norm_eps": "model.architecture.norm_eps",
    "tie_word_embeddings": "model.architecture.tie_embeddings",
    "model_type": "model.architecture.type",
    # data
    "dataset": "data.train",
    "datasets": "data.train",
    "dataset_path": "data.train",
    "dataset_name": "data.train",
    "train_file": "data.train",
    "train_data": "data.train",
    "train_dataset": "data.train",
    "training_set": "data.train",
    "test_datasets": "data.val",
    "eval_dataset": "data.val",
    "eval_file": "data.val",
    "valid": "data.val",
    "validation": "data.val",
    "validation_file": "data.val",
    "validation_set": "data.val",
    "val_data": "data.val",
    "val_dataset": "data.val",
    "val_set_size": "data.val_fraction",
    "val_size": "data.val_fraction",
    "validation_split": "data.val_fraction",
    "test_size": "data.val_fraction",
    "text_column": "data.text",
    "text_field": "data.text",
    "dataset_text_field": "data.text",
    "field": "data.text",
    "prompt_column": "data.prompt",
    "field_instruction": "data.prompt",
    "response": "data.completion",
    "response_column": "data.completion",
    "field_output": "data.completion",
    "sequence_len": "data.seq_len",
    "sequence_length": "data.seq_len",
    "seq_length": "data.seq_len",
    "max_seq_len": "data.seq_len",
    "max_seq_length": "data.seq_len",
    "max_sequence_length": "data.seq_len",
    "max_length": "data.seq_len",
    "cutoff_len": "data.seq_len",
    "block_size": "data.seq_len",
    "model_max_length": "data.seq_len",
    "micro_batch_size": "data.batch_size",
    "per_device_train_batch_size": "data.batch_size",
    "per_device_batch_size": "data.batch_size",
    "train_batch_size": "data.batch_size",
    "batchsize": "data.batch_size",
    "bs": "data.batch_size",
    "sample_packing": "data.packing",
    "neat_packing": "data.packing",
    "pack": "data.packing",
    "excess_length_strategy": "data.overlong",
    "truncation": "data.overlong",
    "train_on_inputs": "data.train_on_prompt",
    "train_on_input": "data.train_on_prompt",
    "mask_prompt": "data.train_on_prompt",
    "add_bos_token": "data.add_bos",
    "add_eos_token": "data.add_eos",
    "shuffle_merged_datasets": "data.shuffle",
    # optimizer
    "learning_rate": "optimizer.lr",
    "base_learning_rate": "optimizer.lr",
    "optim": "optimizer.name",
    "optimizer_name": "optimizer.name",
    "optimizer_type": "optimizer.name",
    "decay": "optimizer.weight_decay",
    "wd": "optimizer.weight_decay",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "learning_rate_scheduler": "optimizer.schedule",
    "scheduler": "optimizer.schedule",
    "lr_schedule": "optimizer.schedule",
    "warmup_steps": "optimizer.warmup",
    "warmup_ratio": "optimizer.warmup",
    "warmup_fraction": "optimizer.warmup",
    "num_warmup_steps": "optimizer.warmup",
    "cosine_min_lr_ratio": "optimizer.min_lr_ratio",
    "min_lr": "optimizer.min_lr_ratio",
    "max_grad_norm": "optimizer.grad_clip",
    "gradient_clipping": "optimizer.grad_clip",
    "gradient_clip": "optimizer.grad_clip",
    "clip_grad_norm": "optimizer.grad_clip",
    "clip_norm": "optimizer.grad_clip",
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "beta1": "optimizer.betas",
    "beta2": "optimizer.betas",
    "adam_epsilon": "optimizer.eps",
    "epsilon": "optimizer.eps",
    # lora
    "lora_r": "lora.rank",
    "lora_rank": "lora.rank",
    "r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "target": "lora.target_modules",
    "targets": "lora.target_modules",
    "target_layers": "lora.target_modules",
    "lora_target_linear": "lora.target_modules",
    "peft_use_rslora": "lora.rslora",
    "use_rslora": "lora.rslora",
    "init_lora_weights": "lora.init",
    "peft_init_lora_weights": "lora.init",
    "peft": "lora",
    "peft_config": "lora",
    "lora_config": "lora",
    # training
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "n_epochs": "training.epochs",
    "iters": "training.max_steps",
    "steps": "training.max_steps",
    "max_iters": "training.max_steps",
    "train_steps": "training.max_steps",
    "gradient_accumulation_steps": "training.grad_accum",
    "gradient_accumulation": "training.grad_accum",
    "grad_accumulation_steps": "training.grad_accum",
    "grad_accum_steps": "training.grad_accum",
    "accumulate_grad_batches": "training.grad_accum",
    "random_seed": "training.seed",
    "data_seed": "training.seed",
    "dtype": "training.compute_dtype",
    "torch_dtype": "training.compute_dtype",
    "bf16": "training.compute_dtype",
    "fp16": "training.compute_dtype",
    "gradient_checkpointing": "training.activation_checkpointing",
    "grad_checkpoint": "training.activation_checkpointing",
    "evals_per_epoch": "training.eval_every",
    "eval_steps": "training.eval_every",
    "eval_strategy": "training.eval_every",
    "evaluation_strategy": "training.eval_every",
    "steps_per_eval": "training.eval_every",
    "save_steps": "training.save_every",
    "save_strategy": "training.save_every",
    "saves_per_epoch": "training.save_every",
    "checkpoint_every": "training.save_every",
    "steps_per_checkpoint": "training.save_every",
    "save_total_limit": "training.keep_last",
    "logging_steps": "training.log_every",
    "early_stop": "training.early_stopping",
    "early_stopping_patience": "training.early_stopping.patience",
    "early_stopping_threshold": "training.early_stopping.min_delta",
    "output_path": "training.output_dir",
    "out_dir": "training.output_dir",
    "save_dir": "training.output_dir",
    "adapter_path": "training.output_dir",
    "num_threads": "training.threads",
    "n_threads": "training.threads",
    "use_cpu": "training.device",
    "no_cuda": "training.device",
    "trainer": "training",
    # output
    "save_merged": "output.merge_adapter",
    "merge_lora": "output.merge_adapter",
    "out_dtype": "output.type",
    "out_type": "output.type",
    "outtype": "output.type",
}
"""Keys of other tools and the keys of ours that mean the same."""

EXPLAINED: Mapping[str, str] = {
    "finetuning_type": "add a lora section for LoRA, leave it out to train the whole model",
    "fine_tune_type": "add a lora section for LoRA, leave it out to train the whole model",
    "load_in_4bit": f"training on a quantized base {NOT_YET}",
    "load_in_8bit": f"training on a quantized base {NOT_YET}",
    "quantization_bit": f"training on a quantized base {NOT_YET}",
    "quantization": f"quantizing {NOT_YET}",
    "quantization_config": f"quantizing {NOT_YET}",
    "merge_method": f"merging models {NOT_YET}",
    "models": f"merging models {NOT_YET}",
    "slices": f"merging models {NOT_YET}",
    "teacher": f"distilling {NOT_YET}",
    "chat_template": f"chat data {NOT_YET}; name prompt and completion columns",
    "template": f"chat data {NOT_YET}; name prompt and completion columns",
    "messages": f"chat data {NOT_YET}; name prompt and completion columns",
    "conversations": f"chat data {NOT_YET}; name prompt and completion columns",
    "adapter": "add a lora section for LoRA; output.adapter is the format of its file",
    "input_features": f"training a classification or regression head {NOT_YET}",
    "output_features": f"training a classification or regression head {NOT_YET}",
    "wandb_project": "metrics go to metrics.jsonl in training.output_dir; nothing is sent anywhere",
    "report_to": "metrics go to metrics.jsonl in training.output_dir; nothing is sent anywhere",
    "deepspeed": "there is nothing to configure; remove it",
    "fsdp": "there is nothing to configure; remove it",
    "flash_attention": "there is nothing to configure; remove it",
    "flash_attn": "there is nothing to configure; remove it",
    "trust_remote_code": "no code of a model is ever run; remove it",
    "bias": "biases are frozen with lora; remove it",
    "task_type": "language models are the only task; remove it",
    "modules_to_save": f"training whole modules beside lora {NOT_YET}",
    "stage": "only supervised training is available; remove it",
    "do_train": "a config always trains; remove it",
    "<<": "YAML 1.2 has no merge keys; write the values out",
}
"""Keys of other tools that have no counterpart here, and what to do instead."""

SPECIAL_VALUES: Mapping[tuple[str, str], str] = {
    ("training.device", "cuda"): f"training on a GPU {NOT_YET}",
    ("training.device", "gpu"): f"training on a GPU {NOT_YET}",
    ("training.compute_dtype", "bfloat16"): f"bfloat16 {NOT_YET}",
    ("training.compute_dtype", "bf16"): f"bfloat16 {NOT_YET}",
    ("output.adapter", "peft"): f"PEFT's format {NOT_YET}",
    ("lora.target_modules", "all-linear"): "did you mean all?",
    ("optimizer.schedule", "cosine_with_restarts"): "did you mean cosine?",
    ("output.type", "float32"): "did you mean f32?",
    ("output.type", "float16"): "did you mean f16?",
    ("output.type", "bfloat16"): "did you mean bf16?",
}
"""Values that people try, and what to say about them."""


def hint_for_key(path: Path, known: Iterable[Path]) -> str:
    """What to do about the unknown key `path`; `known` are all keys of the schema."""
    known = list(known)
    section, name = path[:-1], path[-1].lower().replace("-", "_").strip()
    siblings = [key[-1] for key in known if key[:-1] == section]
    if name in siblings:
        return f"did you mean {_dotted(section, name)}?"
    if name in RENAMED and RENAMED[name] != _dotted(section):
        return f"use {RENAMED[name]}"
    if name in EXPLAINED:
        return EXPLAINED[name]
    elsewhere = [_dotted(key) for key in known if key[-1] == name]
    if elsewhere:
        return f"use {' or '.join(elsewhere[:3])}"
    return _closest(name, section, siblings, known)


def _closest(name: str, section: Path, siblings: Sequence[str], known: Sequence[Path]) -> str:
    near = get_close_matches(name, siblings, n=1, cutoff=0.7)
    if near:
        return f"did you mean {_dotted(section, near[0])}?"
    near = get_close_matches(name, [key[-1] for key in known], n=1, cutoff=0.75)
    if near:
        return f"did you mean {_dotted(next(key for key in known if key[-1] == near[0]))}?"
    near = get_close_matches(name, list(RENAMED), n=1, cutoff=0.8)
    if near:
        return f"use {RENAMED[near[0]]}"
    place = f"{_dotted(section)} has" if section else "there are"
    return f"{place} {', '.join(siblings)}"


def hint_for_value(path: Path, value: object, allowed: Sequence[str]) -> str | None:
    """What to do about a value that is none of `allowed` words, or has another type than it needs."""
    if not isinstance(value, str):
        return None
    word = value.strip().lower()
    special = SPECIAL_VALUES.get((_dotted(path), word))
    if special:
        return special
    if path == ("output", "type") and word.lstrip("i").startswith("q"):
        return f"quantizing {NOT_YET}"
    near = near_word(word, allowed)
    return f"did you mean {near}?" if near else None


def near_word(word: str, allowed: Sequence[str]) -> str | None:
    """The allowed word that is spelled like `word`, or is the longest one inside it (adamw in paged_adamw_8bit)."""
    near = get_close_matches(word, allowed, n=1, cutoff=0.6)
    near = near or [name for name in sorted(allowed, key=len, reverse=True) if name in word][:1]
    return near[0] if near else None


def _dotted(path: Sequence[str], *more: str) -> str:
    return ".".join((*path, *more))
