"""The metadata of a merge: of the base, with what it was made from, and another tokenizer where that is asked for."""

from __future__ import annotations

import entrenar_core
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.merge.plan import plan_merge
from tests.merge.memory_models import memory_model, merge_of


def test_the_keys_of_the_base_stay_but_for_what_a_merge_makes_untrue() -> None:
    more = [
        ("llama.context_length", MetadataValue.uint32(64)),
        ("entrenar.config_sha256", MetadataValue.string("of a training run")),
        ("quantize.imatrix.file", MetadataValue.string("i.gguf")),
    ]
    config = merge_of("ties", ["a.gguf"], base="base.gguf", output={"path": "o/both.gguf"})
    found = plan_merge(config, [memory_model("base.gguf", more=more), memory_model("a.gguf")]).metadata
    assert [key for key, _ in found if not key.startswith("entrenar")] == [
        "general.architecture", "general.name", "llama.block_count", "tokenizer.ggml.tokens", "llama.context_length",
    ]  # fmt: skip
    assert dict(found)["general.name"].value == "both"
    assert "entrenar.config_sha256" not in dict(found)


def test_the_file_says_what_it_was_made_from() -> None:
    config = merge_of("dare_ties", [{"path": "m/a.gguf", "adapter": "runs/lora"}], base="m/base.gguf", density=0.5)
    models = [memory_model("base.gguf"), memory_model("a.gguf")]
    found = {key: value.value for key, value in plan_merge(config, models).metadata}
    assert found["entrenar.merge.version"] == entrenar_core.__version__
    assert found["entrenar.merge.method"] == "dare_ties"
    assert found["entrenar.merge.models"] == ["base.gguf", "a.gguf+lora"]
    assert found["entrenar.merge.base"] == "base.gguf"
    assert "entrenar.merge.task_vector" not in found


def test_equal_settings_have_equal_hashes_and_others_do_not() -> None:
    def settings_hash(**more: object) -> str:
        config = merge_of("dare_ties", ["a.gguf"], base="base.gguf", **more)
        plan = plan_merge(config, [memory_model("base.gguf"), memory_model("a.gguf")])
        return str(dict(plan.metadata)["entrenar.merge.settings_sha256"].value)

    assert settings_hash(density=0.5) == settings_hash(density=0.5)
    assert len({settings_hash(), settings_hash(density=0.5), settings_hash(seed=1)}) == 3


def test_a_task_vector_is_marked() -> None:
    config = merge_of("ties", ["a.gguf"], base="base.gguf", output={"task_vector": True})
    found = dict(plan_merge(config, [memory_model("base.gguf"), memory_model("a.gguf")]).metadata)
    assert found["entrenar.merge.task_vector"].value is True


def test_another_tokenizer_takes_the_place_of_all_its_keys() -> None:
    more = [("tokenizer.ggml.bos_token_id", MetadataValue.uint32(1)), ("llama.vocab_size", MetadataValue.uint32(6))]
    config = merge_of("linear", ["a.gguf", "b.gguf"], tokenizer="union")
    tokenizer = [
        ("tokenizer.ggml.tokens", MetadataValue.array(ValueType.STRING, list("abcdefghi"))),
        ("tokenizer.ggml.eos_token_id", MetadataValue.uint32(2)),
    ]
    models = [memory_model("a.gguf", more=more), memory_model("b.gguf")]
    found = dict(plan_merge(config, models, tokenizer=tokenizer).metadata)
    assert [key for key in found if key.startswith("tokenizer")] == [
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.eos_token_id",
    ]
    assert found["llama.vocab_size"].value == 9
    assert "llama.vocab_size" not in dict(plan_merge(config, [models[1], models[0]], tokenizer=tokenizer).metadata)
