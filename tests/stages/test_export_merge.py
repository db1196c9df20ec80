"""The trained model and others joined over the base: which tensors change, by what, and which models are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.config.merge import Merge
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.events import Notice
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.load import load_model
from entrenar_core.stages.changes import Changes
from entrenar_core.stages.merge_result import MergePlan, merged_values, open_merge
from tests.merge.merging import changes_merged, merged
from tests.model.tiny import lively, lively_weights
from tests.stages.tiny_base import base_spec, layers_as, write_base
from tests.train.tiny_model import Listener

Q, K, NORM = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "output_norm.weight"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[GGUFFile]:
    with GGUFFile.open(write_base(tmp_path / "base.gguf")) as file:
        yield file


def plan_of(base: GGUFFile, **keys: Any) -> MergePlan:
    return open_merge(Merge.model_validate({"method": "ties", **keys}), base, Listener())


def trained(base: GGUFFile, pack_as: str | None = None) -> Changes:
    """A LoRA run on q_proj."""
    model = load_model(base, ReferenceBackend(np.float32), held_as=layers_as(base, pack_as))
    for name, tensor in inject_lora(model, LoRASettings(4, 8.0, targets=("q_proj",)), seed=1).items():
        tensor.assign(lively(name, tensor.shape))
    return Changes.of(model, base)


def other(folder: Path, changed: Mapping[str, np.ndarray], name: str = "other.gguf", **options: Any) -> Path:
    """A model that differs from the base by `changed`."""
    weights = lively_weights(base_spec())
    replaced = {tensor: weights[tensor] + delta for tensor, delta in changed.items()}
    return write_base(folder / name, replaced=replaced, **options)


def test_ties_of_the_trained_model_alone_trims_what_training_added(base: GGUFFile) -> None:
    changes = trained(base)
    values = merged_values(changes, plan_of(base, method="TIES", density=0.2))
    assert values.keys() == changes.adapters.keys()
    added = values[Q]() - base.load(Q)
    delta = changes.adapters[Q].delta()
    kept = np.abs(added) > 1e-6
    assert kept.sum() == int(0.2 * delta.size)
    np.testing.assert_allclose(added[kept], delta[kept], atol=1e-6)


@pytest.mark.parametrize("pack_as", [None, "Q4_0"])
@pytest.mark.parametrize("method", ["ties", "task_arithmetic"])
def test_with_everything_kept_the_result_is_the_trained_model(base: GGUFFile, method: str, pack_as: str | None) -> None:
    changes = trained(base, pack_as)
    merged, plain = merged_values(changes, plan_of(base, method=method)), changes.values()
    assert merged.keys() == plain.keys()
    for name in plain:
        np.testing.assert_array_equal(merged[name](), plain[name](), err_msg=name)


def test_other_models_count_with_what_they_changed_against_the_base(base: GGUFFile, tmp_path: Path) -> None:
    theirs = {Q: lively("theirs", (32, 32)), NORM: lively("theirs.norm", (32,))}
    path = other(tmp_path, theirs)
    changes = trained(base)
    plan = plan_of(
        base, density=0.5, weight=2.0, **{"lambda": 0.5}, models=[{"path": str(path), "weight": 3.0, "density": 0.75}]
    )
    values = merged_values(changes, plan)
    assert values.keys() == {*changes.adapters, Q, NORM}
    difference = np.float32(lively_weights(base_spec())[Q] + theirs[Q]) - base.load(Q)
    deltas = [changes.adapters[Q].delta(), difference]
    options = {"weight": [2.0, 3.0], "density": [0.5, 0.75], "lambda_": 0.5, "normalize": True}
    expected = base.load(Q) + changes_merged("ties", deltas, **options)
    np.testing.assert_array_equal(values[Q](), expected)
    norms = [np.zeros(32, np.float32), (lively_weights(base_spec())[NORM] + theirs[NORM]) - base.load(NORM)]
    expected = base.load(NORM) + changes_merged("ties", norms, **options)
    np.testing.assert_array_equal(values[NORM](), expected)


def test_a_models_density_is_that_of_the_section_unless_it_has_its_own(base: GGUFFile, tmp_path: Path) -> None:
    path = str(other(tmp_path, {}))
    plan = plan_of(base, density=0.3, models=[path, {"path": path, "density": 0.6}])
    assert plan.parameters.weight == (1.0, 1.0, 1.0)
    assert plan.parameters.density == (0.3, 0.3, 0.6), "the first model is the trained one"
    plan.close()


def test_a_model_that_equals_the_base_changes_nothing_more(base: GGUFFile, tmp_path: Path) -> None:
    changes = trained(base)
    assert merged_values(changes, plan_of(base, models=[str(other(tmp_path, {}))])).keys() == changes.adapters.keys()


def test_a_model_in_another_number_type_is_decoded(base: GGUFFile, tmp_path: Path) -> None:
    path = other(tmp_path, {}, type_name="Q8_0")
    plan = plan_of(base, method="task_arithmetic", models=[str(path)])
    values = merged_values(trained(base), plan)
    np.testing.assert_allclose(values[K](), plan.others[0].file.load(K), atol=1e-6)
    assert np.abs(values[K]() - base.load(K)).max() > 1e-3
    assert NORM not in values, "vectors are F32 in both"


def test_over_a_packed_base_the_changes_are_added_to_what_was_trained_on(base: GGUFFile, tmp_path: Path) -> None:
    theirs = {K: lively("theirs", (16, 32))}
    changes = trained(base, "Q4_0")
    values = merged_values(changes, plan_of(base, models=[str(other(tmp_path, theirs))]))
    difference = (lively_weights(base_spec())[K] + theirs[K]) - base.load(K)
    np.testing.assert_allclose(values[K](), changes.start(K) + difference, atol=1e-6)
    np.testing.assert_array_equal(values["blk.1.ffn_up.weight"](), changes.start("blk.1.ffn_up.weight"))


@pytest.mark.parametrize("pack_as", [None, "Q4_0"])
def test_a_method_without_a_base_joins_the_models_the_trained_one_first(
    base: GGUFFile, tmp_path: Path, pack_as: str | None
) -> None:
    path = str(other(tmp_path, {Q: lively("theirs", (32, 32))}))
    changes = trained(base, pack_as)
    plan = plan_of(base, method="slerp", t=0.25, models=[path])
    values = merged_values(changes, plan)
    assert values.keys() == {*changes.held_values(), *changes.adapters}
    ours = changes.start(Q) + changes.adapters[Q].delta()
    np.testing.assert_array_equal(values[Q](), merged("slerp", [ours, plan.others[0].file.load(Q)], t=0.25))


def test_models_that_are_added_up_touch_every_tensor(base: GGUFFile, tmp_path: Path) -> None:
    plan = plan_of(base, method="linear", normalize=False, weight=0.25, models=[str(other(tmp_path, {}))])
    values = merged_values(trained(base), plan)
    assert values.keys() == set(base.tensors)
    np.testing.assert_allclose(values[NORM](), 1.25 * base.load(NORM), rtol=1e-6)
    mean = plan_of(base, method="linear", models=[str(other(tmp_path, {}))])
    assert merged_values(trained(base), mean).keys() == {Q, Q.replace("blk.0", "blk.1")}


def test_random_masks_come_from_the_seed_of_the_section(base: GGUFFile) -> None:
    changes = trained(base)
    delta = changes.adapters[Q].delta()
    for rescale in ("density", None):
        plan = plan_of(base, method="dare_linear", density=0.5, seed=3, rescale=rescale)
        expected = changes_merged("dare_linear", [delta], Q, density=[0.5], seed=3, rescale=rescale or "l1")
        np.testing.assert_array_equal(merged_values(changes, plan)[Q](), base.load(Q) + expected)


def test_what_the_section_does_not_say_is_what_the_methods_take_by_default(base: GGUFFile) -> None:
    plan = plan_of(base, method="della", density=0.5)
    assert (plan.parameters.epsilon, plan.parameters.gamma) == ((0.15,), (0.01,))
    assert (plan.parameters.rescale, plan.parameters.normalize, plan.parameters.t) == ("l1", True, 0.5)
    plan = plan_of(base, method="breadcrumbs", density=0.5, gamma=0.2, rescale="none")
    assert (plan.parameters.rescale, plan.parameters.gamma) == (None, (0.2,))


def refusal(base: GGUFFile, path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        plan_of(base, models=[str(path)])
    assert caught.value.where == str(path)
    return caught.value


def test_a_model_of_another_shape_is_refused_with_the_tensor(base: GGUFFile, tmp_path: Path) -> None:
    path = write_base(tmp_path / "wide.gguf", base_spec(intermediate_size=96))
    error = refusal(base, path)
    assert error.message == f"the tensor blk.0.ffn_gate.weight has shape [96, 32], in {base.paths[0]} [64, 32]"
    assert error.hint == f"only models of the shape of {base.paths[0]} can be merged with it"


def test_a_model_with_more_or_fewer_tensors_is_refused_with_the_first(base: GGUFFile, tmp_path: Path) -> None:
    deep = write_base(tmp_path / "deep.gguf", base_spec(num_layers=3))
    assert refusal(base, deep).message == f"{base.paths[0]} has no tensor blk.2.attn_norm.weight"
    flat = write_base(tmp_path / "flat.gguf", base_spec(num_layers=1))
    assert refusal(base, flat).message == f"the tensor blk.1.attn_norm.weight is missing, which {base.paths[0]} has"
    tied = write_base(tmp_path / "tied.gguf", base_spec(tie_embeddings=True))
    assert refusal(base, tied).message == f"the tensor output.weight is missing, which {base.paths[0]} has"


def test_a_model_that_turns_by_other_angles_is_refused(base: GGUFFile, tmp_path: Path) -> None:
    path = write_base(tmp_path / "long.gguf", base_spec(rope_theta=5e5))
    assert refusal(base, path).message == f"llama.rope.freq_base is 500000.0, in {base.paths[0]} 100.0"


def test_a_file_that_is_no_model_is_said_to_be_none(base: GGUFFile, tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("hello")
    with pytest.raises(FormatError):
        plan_of(base, models=[str(path)])
    with pytest.raises(FormatError, match="no such file"):
        plan_of(base, models=[str(tmp_path / "missing.gguf")])


def test_another_vocabulary_is_said(base: GGUFFile, tmp_path: Path) -> None:
    tokens = [f"t{index}" for index in range(base_spec().vocab_size)]
    renamed = MetadataValue.array(ValueType.STRING, tokens)
    path = other(tmp_path, {}, extra=[("tokenizer.ggml.tokens", renamed)])
    listener = Listener()
    open_merge(Merge.model_validate({"method": "ties", "models": [str(path)]}), base, listener).close()
    (notice,) = listener.of(Notice)
    assert notice.level == "warning"
    assert "another vocabulary than the base" in notice.message


def test_a_model_with_nan_is_refused_by_name(base: GGUFFile, tmp_path: Path) -> None:
    damage = np.zeros((32, 32), np.float32)
    damage[3, 4] = np.nan
    path = other(tmp_path, {Q: damage})
    values = merged_values(trained(base), plan_of(base, models=[str(path)]))
    with pytest.raises(ModelError, match="not finite") as error:
        values[Q]()
    assert error.value.where == f"{path}: tensor {Q}"
