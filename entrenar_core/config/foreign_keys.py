"""The vocabulary of other tools: their keys, and what each is called here or what to do instead.

From axolotl, LLaMA-Factory, PEFT, mergekit, Ludwig, mlx-lm, torchtune, TRL and Hugging Face's TrainingArguments.
"""

from __future__ import annotations

from collections.abc import Mapping

NOT_YET = "is not available yet in this release"

OTHER_NAMES: Mapping[str, str] = {
    "model.path": "base_model model_name_or_path model_name model_path model_id base_model_name_or_path"
    " pretrained_model_name_or_path base_model_config pretrained_model checkpointer",
    "model.tokenizer": "tokenizer_config tokenizer_name tokenizer_name_or_path tokenizer_source",
    "model.architecture": "model_config train_from_scratch overrides_of_model_config",
    "model.architecture.type": "model_type architectures arch",
    "model.architecture.hidden_size": "d_model n_embd embedding_length dim",
    "model.architecture.num_layers": "n_layers n_layer num_hidden_layers block_count",
    "model.architecture.num_heads": "n_heads n_head num_attention_heads head_count",
    "model.architecture.num_kv_heads": "num_key_value_heads n_kv_heads head_count_kv",
    "model.architecture.intermediate_size": "ffn_dim feed_forward_length",
    "model.architecture.context_length": "max_position_embeddings n_ctx",
    "model.architecture.norm_eps": "rms_norm_eps layer_norm_eps",
    "model.architecture.tie_embeddings": "tie_word_embeddings",
    "data.train": "dataset datasets dataset_path dataset_name dataset_dir train_file train_data train_dataset"
    " training_set train_path data_path data_files pretraining_dataset",
    "data.val": "test_datasets eval_dataset eval_datasets eval_file valid validation validation_file validation_set"
    " val_data val_dataset val_file dev test_dataset",
    "data.val_fraction": "val_set_size val_size validation_split test_size val_split",
    "data.train.weight": "interleave_probs mix_strategy sampling_weight dataset_weights",
    "data.task": "problem_type",
    "data.columns": "column_mapping column_map dataset_columns message_property_mappings",
    "data.text": "text_column text_field dataset_text_field field",
    "data.prompt": "prompt_column prompt_field field_prompt",
    "data.completion": "response response_column response_field field_completion completion_column",
    "data.separator": "prompt_separator response_template",
    "data.seq_len": "sequence_len sequence_length seq_length max_seq_len max_seq_length max_sequence_length max_length"
    " cutoff_len block_size model_max_length max_tokens_per_example global_max_sequence_length max_prompt_length",
    "data.batch_size": "micro_batch_size per_device_train_batch_size per_device_batch_size train_batch_size batchsize"
    " bs minibatch_size",
    "data.packing": "sample_packing neat_packing pack packed pretraining_sample_concatenation batch_flattening",
    "data.overlong": "excess_length_strategy truncation truncation_side filter_too_long",
    "data.train_on_prompt": "train_on_inputs train_on_input mask_prompt completion_only_loss",
    "data.train_turns": "mask_history roles_to_train assistant_only_loss train_on_last_turn_only",
    "data.chat_template": "template chat_template_jinja chat_template_path prompt_template conversation_template",
    "data.add_bos": "add_bos_token",
    "data.add_eos": "add_eos_token train_on_eos train_on_eot",
    "data.shuffle": "shuffle_merged_datasets should_shuffle shuffle_data",
    "data.streaming": "stream",
    "data.cache": "overwrite_cache use_dataset_cache",
    "data.cache_dir": "dataset_prepared_path tokenized_path cache_path",
    "optimizer.name": "optim optimizer_name optimizer_type",
    "optimizer.lr": "learning_rate base_learning_rate peak_lr max_lr",
    "optimizer.weight_decay": "decay wd regularization_lambda",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type learning_rate_scheduler scheduler lr_schedule",
    "optimizer.warmup": "warmup_steps warmup_ratio warmup_fraction num_warmup_steps warmup_evaluations",
    "optimizer.min_lr_ratio": "cosine_min_lr_ratio min_lr lr_scheduler_kwargs eta_min",
    "optimizer.grad_clip": "max_grad_norm gradient_clipping gradient_clip clip_grad_norm clip_norm"
    " gradient_clip_val clipglobalnorm",
    "optimizer.betas": "adam_beta1 adam_beta2 beta1 beta2",
    "optimizer.eps": "adam_epsilon epsilon",
    "lora": "peft peft_config lora_config lora_parameters",
    "lora.rank": "lora_r lora_rank r",
    "lora.alpha": "lora_alpha scale",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "lora_target lora_target_modules lora_target_linear target targets target_layers"
    " lora_attn_modules apply_lora_to_mlp lora_modules",
    "lora.rslora": "use_rslora peft_use_rslora",
    "lora.init": "init_lora_weights peft_init_lora_weights",
    "quantize": "quantization quantization_config bnb_config_kwargs",
    "quantize.bits": "load_in_4bit load_in_8bit quantization_bit quantization_bits export_quantization_bit qbits w_bit",
    "quantize.type": "quantization_type bnb_4bit_quant_type quant_type qtype ftype",
    "quantize.symmetric": "sym asymmetric zero_point",
    "quantize.granularity": "group_size q_group_size per_tensor",
    "quantize.calibration": "export_quantization_dataset calibration_data calibration_dataset imatrix",
    "merge": "mergekit merge_config",
    "merge.method": "merge_method",
    "merge.models": "models slices",
    "merge.flatten": "nuslerp_flatten",
    "merge.row_wise": "nuslerp_row_wise",
    "distill": "distillation kd knowledge_distillation distillation_config kd_config gkd",
    "distill.teacher": "teacher_model teacher_model_name_or_path teacher_model_path teacher_name_or_path teacher_path"
    " teacher_name teacher_dir kd_trainer teacher_checkpointer",
    "distill.teachers": "teacher_models",
    "distill.loss": "kd_loss kd_loss_type distill_loss distillation_loss divergence loss_functions",
    "distill.beta": "kd_beta gkd_beta jsd_beta",
    "distill.temperature": "kd_temperature distill_temperature logit_kl_temperature gkd_temperature",
    "distill.alpha": "kd_alpha kd_ratio kd_weight kd_loss_scale",
    "distill.layers": "layer_mapping intermediate_layer_pairs layers_to_match",
    "distill.hidden.weight": "hidden_kd_weight",
    "distill.cache": "teacher_logits logits_cache offline_logits pre_compute_teacher",
    "distill.cache.top_k": "kd_top_k logprobs_topk gkd_logits_topk",
    "distill.on_policy.fraction": "lmbda student_data_fraction",
    "distill.on_policy.max_tokens": "max_new_tokens max_completion_length",
    "distill.student": "student_model student_model_name_or_path student_config",
    "distill.student.layers": "student_layers n_student_layers",
    "training": "trainer training_args training_arguments",
    "training.epochs": "num_epochs num_train_epochs n_epochs",
    "training.max_steps": "iters steps max_iters train_steps num_steps total_steps max_steps_per_epoch",
    "training.grad_accum": "gradient_accumulation_steps gradient_accumulation grad_accumulation_steps grad_accum_steps"
    " accumulate_grad_batches",
    "training.seed": "random_seed data_seed random_state",
    "training.compute_dtype": "dtype torch_dtype bf16 fp16 bfloat16 pure_bf16 mixed_precision precision",
    "training.activation_checkpointing": "gradient_checkpointing grad_checkpoint use_gradient_checkpointing"
    " enable_activation_checkpointing gradient_checkpointing_kwargs activation_offloading",
    "training.eval_every": "evals_per_epoch eval_steps eval_strategy evaluation_strategy steps_per_eval do_eval"
    " eval_interval",
    "training.save_every": "save_steps save_strategy saves_per_epoch checkpoint_every steps_per_checkpoint"
    " checkpoints_per_epoch save_interval",
    "training.keep_last": "save_total_limit",
    "training.log_every": "logging_steps steps_per_report log_every_n_steps logging_strategy",
    "training.early_stopping": "early_stop",
    "training.early_stopping.patience": "early_stopping_patience",
    "training.early_stopping.min_delta": "early_stopping_threshold",
    "training.output_dir": "output_path out_dir save_dir adapter_path output_directory export_dir",
    "training.threads": "num_threads n_threads preprocessing_num_workers dataset_processes dataset_num_proc"
    " dataloader_num_workers num_workers",
    "training.device": "use_cpu no_cuda device_map backend accelerator local_rank",
    "training.deterministic": "full_determinism use_deterministic_algorithms cudnn_deterministic",
    "output.gguf": "gguf save_gguf export_gguf save_safetensors",
    "output.merge_adapter": "save_merged merge_lora merge_and_unload fuse",
    "output.type": "out_dtype out_type outtype export_type",
}
"""Our key -> the names that it has elsewhere."""

RENAMED: Mapping[str, str] = {name: ours for ours, names in OTHER_NAMES.items() for name in names.split()}

NAMES_IN_A_MERGE: Mapping[str, str] = {
    "base_model": "merge.base",
    "model": "merge.models.path",
    "lora": "merge.models.adapter",
    "layer_range": "merge.slices.sources.layers",
    "tokenizer_source": "merge.tokenizer",
    "nuslerp_flatten": "merge.flatten",
    "nuslerp_row_wise": "merge.row_wise",
    "normalize_weights": "merge.normalize",
    "random_seed": "merge.seed",
    "dtype": "output.type",
    "out_dtype": "output.type",
}
"""What mergekit's keys are called in a file of `entrenar merge`, where they come before the other names."""

COLUMN_ROLES: Mapping[str, str] = {
    **dict.fromkeys(("messages", "conversations", "conversation", "field_messages", "messages_column"), "messages"),
    **dict.fromkeys(("instruction", "field_instruction", "instruction_column"), "instruction"),
    **dict.fromkeys(("input", "field_input", "input_column", "query"), "input"),
    **dict.fromkeys(("output", "field_output", "output_column"), "output"),
    **dict.fromkeys(("tools", "field_tools"), "tools"),
    **dict.fromkeys(("label", "labels", "label_column", "label_field", "class_column"), "label"),
    **dict.fromkeys(("target", "target_column", "score_column"), "target"),
}
"""Keys that name a column -> the role that they stand for."""

_NOTHING_IS_SENT = "metrics go to metrics.jsonl in training.output_dir; nothing is sent anywhere; remove it"
_NOTHING_TO_SET = "there is nothing to configure; remove it"
_ONLY_SUPERVISED = f"preference and reward training {NOT_YET}; remove it"
_COMPOSING = "base: FILE and include: FILE stand at the top of a YAML file, and name what it builds on"

EXPLANATIONS: Mapping[str, str] = {
    "add a lora section for LoRA, leave it out to train the whole model": "finetuning_type fine_tune_type"
    " peft_type fine_tuning_type",
    "add a lora section for LoRA; output.adapter is the format of its file": "adapter adapter_type",
    "entrenar goes on from a checkpoint with `train --resume`; remove it": "resume_from_checkpoint resume"
    " auto_resume_from_checkpoints resume_adapter_file lora_model_dir adapter_name_or_path",
    _NOTHING_IS_SENT: "report_to wandb_project wandb_entity wandb_name wandb_run_id wandb_watch wandb_log_model"
    " use_wandb mlflow_tracking_uri mlflow_experiment_name comet_project_name use_comet use_swanlab swanlab_project"
    " run_name logging_dir tensorboard metric_logger project_name plot_loss",
    "nothing is uploaded; remove it": "push_to_hub hub_model_id hub_strategy hub_token hf_hub_token hf_use_auth_token"
    " push_dataset_to_hub export_hub_model_id",
    "no code of a model is ever run; remove it": "trust_remote_code",
    _NOTHING_TO_SET: "deepspeed fsdp fsdp_config ddp_timeout ddp_backend ddp_find_unused_parameters flash_attention"
    " flash_attn sdp_attention xformers_attention attn_implementation liger_kernel enable_liger_kernel use_unsloth"
    " use_unsloth_gc torch_compile compile tf32 low_cpu_mem_usage pad_to_sequence_len pad_to_max_length group_by_length"
    " eval_batch_size per_device_eval_batch_size tokenizer_type use_fast_tokenizer tokenizer_use_fast plugins"
    " cut_cross_entropy combiner ludwig_version remove_unused_columns overwrite_output_dir do_train do_predict strict"
    " ddp gpu_memory_limit max_memory dataloader_pin_memory double_quantization bnb_4bit_compute_dtype"
    " bnb_4bit_use_double_quant inference_mode fan_in_fan_out lora_fan_in_fan_out",
    "biases are frozen with lora; remove it": "bias",
    f"training whole modules beside lora {NOT_YET}; remove it": "modules_to_save lora_modules_to_save"
    " additional_target",
    f"this kind of adapter {NOT_YET}; remove it": "use_dora peft_use_dora use_qalora pissa_init loftq_config eva_config"
    " loraplus_lr_ratio relora_steps use_galore use_apollo use_badam neftune_noise_alpha lora_bias",
    f"one rank for all modules is what there is; ranks by layer or module: {NOT_YET}": "rank_pattern alpha_pattern"
    " layers_to_transform layers_pattern peft_layers_to_transform layer_replication exclude_modules target_parameters"
    " trainable_token_indices freeze_trainable_layers unfrozen_parameters freeze_extra_modules",
    "the task is found from the columns, or set by data.task; remove it": "task_type",
    "only supervised training is available; remove it": "stage",
    _ONLY_SUPERVISED: "rl dpo_beta rl_beta pref_beta pref_loss ref_model reward_model kto_chosen_weight ppo_epochs"
    " simpo_gamma orpo_alpha",
    f"sequence-level distillation: {NOT_YET}; write texts with `entrenar generate`, train on them": "seq_kd",
    "the data's loss has the share 1 - distill.alpha; remove it": "kd_ce_alpha ce_weight skip_lm_loss",
    "logits are compared at distill.temperature, the softmax comes first; remove it": "kd_zscore_base_temp"
    " kd_top_k_before_softmax kd_normalize_topk",
    "teachers are read in this process, where they lie in memory; remove it": "kd_online_server kd_online_topk"
    " kd_online_server_base_url kd_online_timeout teacher_model_server teacher_model_init_kwargs teacher_dtype"
    " teacher_kwargs teacher_deepspeed offload_teacher_model",
    f"changing the vocabulary {NOT_YET}; remove it": "special_tokens tokens add_tokens new_special_tokens resize_vocab"
    " added_tokens_overrides resize_token_embeddings_to_32x",
    f"a system message of the configuration {NOT_YET}; put it into the data": "default_system default_system_message"
    " system_prompt field_system",
    f"taking only some examples {NOT_YET}; use training.max_steps": "max_samples sample_ratio max_train_samples",
    "a file tells its format by its name; columns are named in data.columns": "ds_type"
    " format dataset_type file_type formatting tags",
    "masks take no memory worth saving; remove it": "int8_mask",
    "after training whole models are merged; `entrenar merge` takes layers and names apart": "layer_range parameters",
    f"searching for settings {NOT_YET}; use --set in a loop": "hyperopt",
    "name the columns in data.columns, and lengths in data.seq_len": "preprocessing",
    _COMPOSING: "include base extends inherit defaults",
    "YAML 1.2 has no merge keys; write the values out, or share files with include": "<<",
}
"""What to do -> keys of other tools that have no counterpart here."""

EXPLAINED: Mapping[str, str] = {name: text for text, names in EXPLANATIONS.items() for name in names.split()}

SPECIAL_VALUES: Mapping[tuple[str, str], str] = {
    ("training.device", "gpu"): "did you mean cuda?",
    ("training.device", "cuda:0"): "write cuda; the environment variable CUDA_VISIBLE_DEVICES chooses among several",
    (
        "training.device",
        "cuda:1",
    ): "write cuda, and choose the GPU with the environment variable CUDA_VISIBLE_DEVICES=1",
    ("training.compute_dtype", "bf16"): "did you mean bfloat16?",
    ("training.compute_dtype", "float16"): f"float16 {NOT_YET}; bfloat16 takes as little room",
    ("training.compute_dtype", "fp16"): f"float16 {NOT_YET}; bfloat16 takes as little room",
    ("output.adapter", "peft"): f"PEFT's format {NOT_YET}",
    ("lora.target_modules", "all-linear"): "did you mean all?",
    ("lora.init", "pissa"): f"PiSSA {NOT_YET}",
    ("lora.init", "gaussian"): f"another start {NOT_YET}",
    ("optimizer.schedule", "cosine_with_restarts"): "did you mean cosine?",
    ("optimizer.schedule", "constant_with_warmup"): "did you mean constant? it has a warm-up when warmup is set",
    ("output.type", "float32"): "did you mean f32?",
    ("output.type", "float16"): "did you mean f16?",
    ("output.type", "bfloat16"): "did you mean bf16?",
    ("data.streaming", "auto"): "write null, which decides by size, or leave it out",
    ("data.overlong", "raise"): "did you mean drop? dropped examples are counted and reported",
    ("data.task", "sft"): "did you mean prompt_completion, instruction or chat?",
    ("data.task", "alpaca"): "did you mean instruction?",
    ("data.task", "sharegpt"): "did you mean chat?",
    ("data.task", "conversation"): "did you mean chat?",
    ("data.task", "completion"): "did you mean text, or prompt_completion?",
    ("data.task", "pretrain"): "did you mean text?",
    ("data.task", "causal_lm"): "did you mean text?",
    ("data.task", "seq_cls"): "did you mean classification?",
    ("data.task", "sequence_classification"): "did you mean classification?",
    ("quantize.type", "nf4"): "did you mean q4_0? GGUF has no nf4",
    ("quantize.type", "fp4"): "did you mean q4_0? GGUF has no fp4",
    ("quantize.type", "int4"): "did you mean q4_0?",
    ("quantize.type", "int8"): "did you mean q8_0?",
    ("quantize.granularity", "per_group"): "did you mean block?",
    ("quantize.granularity", "group"): "did you mean block?",
    ("distill.loss", "kl"): "did you mean forward_kl?",
    ("distill.loss", "kl_div"): "did you mean forward_kl?",
    ("distill.loss", "kld"): "did you mean forward_kl?",
    ("distill.loss", "rkl"): "did you mean reverse_kl?",
    ("distill.loss", "jsd"): "did you mean jensen_shannon?",
    ("distill.loss", "js"): "did you mean jensen_shannon?",
    ("distill.loss", "gkd"): "did you mean jensen_shannon? its beta is distill.beta",
    ("distill.loss", "mse"): "did you mean logit_mse? hidden states are matched by distill.layers",
    ("distill.loss", "hidden"): "hidden states are matched by distill.layers, beside this loss",
    ("distill.loss", "cosine"): "it is one of distill.hidden.loss, for hidden states",
    ("distill.layers", "all"): "did you mean even?",
    ("distill.combine", "average"): "did you mean mean?",
    ("distill.combine", "weighted"): "did you mean mean? weights stand in distill.teachers",
    ("distill.combine", "uniform"): "did you mean mean?",
    ("distill.student.init", "teacher"): "did you mean from_teacher?",
    ("merge.method", "dare"): "did you mean dare_ties or dare_linear?",
    ("merge.method", "task"): "did you mean task_arithmetic?",
    ("merge.method", "average"): "did you mean linear?",
}
"""Values that people try, and what to say about them."""
