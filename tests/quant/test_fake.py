"""Weights of a model that are rounded while it trains: what forward sees, whom the gradient reaches, how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, matmul, reduce
from entrenar_core.autograd.ops.quant import RoundedWeight, fake_quantized, fake_quantized_lora
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs.registry import codec_for
from entrenar_core.codecs.round_trip import in_range
from entrenar_core.data.batch import Batch
from entrenar_core.errors import AutogradError, FormatError, ModelError
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.layers import Linear
from entrenar_core.quant.encoding import Encoding, TensorEncoding, plain_encodings
from entrenar_core.quant.fake import FakeQuantizer, Switch, fake_quantize_weights
from entrenar_core.threads import Threads
from tests.model.tiny import build, lively_weights, tiny_spec

SPEC = tiny_spec("llama", hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=64, vocab_size=40)


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> Any:
    made = ReferenceBackend(np.float32) if request.param == "reference" else CpuBackend(2, debug_pool=True)
    yield made
    made.close()


def held(type_name: str, values: np.ndarray) -> np.ndarray:
    codec = codec_for(type_name)
    return codec.decode(codec.encode(np.ascontiguousarray(values, np.float32)))


def rounded_of(backend: Backend, values: np.ndarray, type_name: str, *, clipped: bool) -> RoundedWeight:
    inside = np.zeros(values.shape, np.bool_) if clipped else None
    found = backend.fake_quantize(backend.asarray(values), codec_for(type_name), inside=inside)
    return RoundedWeight(found, backend.prepare_weight(found), inside)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "F16"])
def test_forward_sees_the_codec_bit_for_bit_and_the_gradient_passes_straight(
    backend: Any, type_name: str, rng: np.random.Generator
) -> None:
    values, upstream = normal(rng, 6, 64), normal(rng, 6, 64)
    weight = Tensor(backend.asarray(values.copy()), backend, requires_grad=True, name="w")
    with Tape() as tape:
        seen = fake_quantized(weight, rounded_of(backend, values, type_name, clipped=False))
        scalar = reduce.sum_(multiply(seen, upstream))
    tape.backward(scalar)
    np.testing.assert_array_equal(seen.numpy(), held(type_name, values))
    np.testing.assert_array_equal(weight.grad, upstream)
    np.testing.assert_array_equal(weight.numpy(), values)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0"])
def test_a_clipped_gradient_is_the_upstream_one_inside_the_range(
    backend: Any, type_name: str, rng: np.random.Generator
) -> None:
    values, upstream = normal(rng, 40, 64), normal(rng, 40, 64)
    codec = codec_for(type_name)
    inside = in_range(codec, codec.encode(values), values)
    weight = Tensor(backend.asarray(values), backend, requires_grad=True, name="w")
    for _ in range(2):  # it accumulates like any other
        with Tape() as tape:
            seen = fake_quantized(weight, rounded_of(backend, values, type_name, clipped=True))
            scalar = reduce.sum_(multiply(seen, upstream))
        tape.backward(scalar)
    np.testing.assert_array_equal(weight.grad, np.where(inside, 2 * upstream, 0))
    assert inside.all() == (type_name == "Q8_0"), "Q4_0 lacks a code for one end of some blocks"


def multiply(tensor: Tensor, factor: np.ndarray) -> Tensor:
    return elementwise.multiply(tensor, Tensor(tensor.backend.asarray(factor), tensor.backend))


def test_a_frozen_weight_is_rounded_and_stays_frozen(backend: Any, rng: np.random.Generator) -> None:
    values = normal(rng, 4, 32)
    seen = fake_quantized(Tensor(backend.asarray(values), backend), rounded_of(backend, values, "Q4_0", clipped=True))
    assert not seen.requires_grad
    np.testing.assert_array_equal(seen.numpy(), held("Q4_0", values))


def test_values_of_another_shape_are_refused(backend: Any, rng: np.random.Generator) -> None:
    weight = Tensor(backend.asarray(normal(rng, 4, 32)), backend)
    with pytest.raises(AutogradError, match=r"rounded values \(5, 32\)"):
        fake_quantized(weight, rounded_of(backend, normal(rng, 5, 32), "Q4_0", clipped=False))


def test_a_master_that_changes_before_backward_is_an_error(backend: Any, rng: np.random.Generator) -> None:
    values = normal(rng, 4, 32)
    weight = Tensor(backend.asarray(values.copy()), backend, requires_grad=True, name="w")
    with Tape() as tape:
        seen = fake_quantized(weight, rounded_of(backend, values, "Q4_0", clipped=False))
        scalar = reduce.sum_(matmul.linear(Tensor(backend.asarray(values), backend), seen))
    weight.assign(values * 2)
    with pytest.raises(AutogradError, match="changed in place"):
        tape.backward(scalar)


@pytest.mark.parametrize("clipped", [False, True])
def test_an_adapter_gets_what_is_left_of_the_gradient_of_the_folded_weight(
    backend: Any, clipped: bool, rng: np.random.Generator
) -> None:
    """Against the formulas written out: G = dyᵀ x, masked; dB = s·G Aᵀ, dA = s·Bᵀ G, dx = dy W̃."""
    x, w, a, b, bias, dy = (normal(rng, *size) for size in ((9, 32), (40, 32), (3, 32), (40, 3), (40,), (9, 40)))
    scale = 0.7
    folded = (w + np.float32(scale) * (b @ a)).astype(np.float32)
    rounded = rounded_of(backend, folded, "Q4_0", clipped=clipped)
    tensors = [Tensor(backend.asarray(each), backend, requires_grad=True) for each in (x, a, b, bias)]
    for _ in range(2):
        with Tape() as tape:
            y = fake_quantized_lora(tensors[0], rounded, *tensors[1:], scale=scale)
        tape.backward(y, backend.asarray(dy))
    kept = in_range(codec_for("Q4_0"), codec_for("Q4_0").encode(folded), folded) if clipped else True
    assert np.all(kept) != clipped, "some values are beyond the range of their block"
    dweight = np.where(kept, dy.T @ x, 0)
    expected = [dy @ held("Q4_0", folded), scale * b.T @ dweight, scale * dweight @ a.T, dy.sum(axis=0)]
    np.testing.assert_allclose(y.numpy(), x @ held("Q4_0", folded).T + bias, rtol=1e-4, atol=1e-4)
    for tensor, each in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.grad, 2 * each, rtol=2e-4, atol=2e-4)


def test_an_adapter_that_does_not_fit_is_refused(backend: Any, rng: np.random.Generator) -> None:
    rounded = rounded_of(backend, normal(rng, 4, 32), "Q4_0", clipped=False)
    x, a, b = (Tensor(backend.asarray(normal(rng, *size)), backend) for size in ((2, 32), (3, 32), (5, 3)))
    with pytest.raises(AutogradError, match=r"weight \(4, 32\), A \(3, 32\), B \(5, 3\) do not fit"):
        fake_quantized_lora(x, rounded, a, b, None, 1.0)


@pytest.mark.parametrize("trained", ["x", "lora_a", "lora_b"])
@pytest.mark.parametrize("clipped", [False, True])
def test_what_is_frozen_gets_no_gradient(backend: Any, trained: str, clipped: bool, rng: np.random.Generator) -> None:
    x, w, a, b, dy = (normal(rng, *size) for size in ((9, 32), (40, 32), (3, 32), (40, 3), (9, 40)))
    rounded = rounded_of(backend, w, "Q4_0", clipped=clipped)
    names = ("x", "lora_a", "lora_b")
    tensors = [
        Tensor(backend.asarray(values), backend, requires_grad=name == trained)
        for name, values in zip(names, (x, a, b), strict=True)
    ]
    bias = Tensor(backend.asarray(np.zeros(40, np.float32)), backend)
    with Tape() as tape:
        y = fake_quantized_lora(tensors[0], rounded, tensors[1], tensors[2], bias, scale=0.5)
    tape.backward(y, backend.asarray(dy))
    for name, tensor in zip(names, tensors, strict=True):
        assert (tensor.slot.grad is not None) == (name == trained)
    assert bias.slot.grad is None


@pytest.mark.parametrize("sizes", [((2, 31), (3, 32), (4, 3)), ((2, 32), (3, 31), (4, 3)), ((2, 32), (3, 32), (4, 2))])
def test_each_of_the_shapes_is_looked_at(
    backend: Any, sizes: tuple[tuple[int, int], ...], rng: np.random.Generator
) -> None:
    rounded = rounded_of(backend, normal(rng, 4, 32), "Q4_0", clipped=False)
    tensors = [Tensor(backend.asarray(normal(rng, *size)), backend) for size in sizes]
    with pytest.raises(AutogradError, match="do not fit"):
        fake_quantized_lora(tensors[0], rounded, tensors[1], tensors[2], None, 1.0)


def test_a_bias_of_another_size_is_refused(backend: Any, rng: np.random.Generator) -> None:
    rounded = rounded_of(backend, normal(rng, 4, 32), "Q4_0", clipped=False)
    x, a, b, bias = (Tensor(backend.asarray(normal(rng, *size)), backend) for size in ((2, 32), (3, 32), (4, 3), (5,)))
    with pytest.raises(AutogradError, match=r"^fake_quantized_lora: "):
        fake_quantized_lora(x, rounded, a, b, bias, 1.0)


# one weight


def quantizer_of(backend: Backend, encoding: Encoding, **options: bool) -> FakeQuantizer:
    return FakeQuantizer("w", encoding, backend, Switch(), **options)


def test_an_importance_is_used_as_in_the_export(backend: Any, rng: np.random.Generator) -> None:
    values, importance = normal(rng, 8, 64), np.abs(normal(rng, 64)) ** 3
    found = quantizer_of(backend, Encoding("Q4_0", importance)).rounded((1,), lambda: backend.asarray(values))
    codec = codec_for("Q4_0")
    expected = codec.decode(codec.encode(values, importance))
    np.testing.assert_array_equal(backend.to_host(found.values), expected)
    assert not np.array_equal(expected, held("Q4_0", values))


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("percentile", [None, 98.0])
def test_shared_scales_are_those_of_the_export(
    backend: Any, granularity: str, percentile: float | None, rng: np.random.Generator
) -> None:
    values = normal(rng, 12, 96) * np.linspace(0.1, 2, 12, dtype=np.float32)[:, None]
    how = Encoding("Q8_0", granularity=granularity, percentile=percentile)
    found = quantizer_of(backend, how).rounded((1,), lambda: backend.asarray(values))
    threads = Threads(2)
    packed = np.concatenate(
        [part.copy() for part in TensorEncoding((12, 96), lambda r: values[r], how).pieces(threads)]
    )
    threads.close()
    np.testing.assert_array_equal(backend.to_host(found.values), codec_for("Q8_0").decode(packed))


@pytest.mark.parametrize("clipped", [False, True])
def test_arrays_are_used_again_after_a_change(backend: Any, clipped: bool, rng: np.random.Generator) -> None:
    first, second = normal(rng, 40, 64), normal(rng, 40, 64)
    quantizer = quantizer_of(backend, Encoding("Q4_0"), clipped=clipped)
    before = quantizer.rounded((1,), lambda: backend.asarray(first))
    assert quantizer.rounded((1,), lambda: backend.asarray(second)) is before, "the versions are the same"
    after = quantizer.rounded((2,), lambda: backend.asarray(second))
    assert after.values is before.values
    assert after.inside is before.inside
    np.testing.assert_array_equal(backend.to_host(after.values), held("Q4_0", second))
    if clipped:
        inside = in_range(codec_for("Q4_0"), codec_for("Q4_0").encode(second), second)
        np.testing.assert_array_equal(backend.to_host(after.inside), inside)
        assert not inside.all()
    else:
        assert after.inside is None


def test_forgotten_values_are_computed_again(backend: Any, rng: np.random.Generator) -> None:
    values = normal(rng, 2, 32)
    quantizer = quantizer_of(backend, Encoding("Q4_0"))
    before = quantizer.rounded((1,), lambda: backend.asarray(values))
    quantizer.forget()
    after = quantizer.rounded((1,), lambda: backend.asarray(values))
    assert after is not before
    assert after.inside is None


def test_a_switch_is_off_until_it_is_turned(backend: Any) -> None:
    quantizer = quantizer_of(backend, Encoding("Q4_0"))
    assert quantizer.is_on is False
    quantizer.switch.is_on = True
    assert quantizer.is_on is True


# a whole model


def batch() -> Batch:
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12) % SPEC.vocab_size
    positions = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    return Batch(tokens, np.roll(tokens, -1, axis=1), positions, np.zeros_like(tokens), 24, 24)


def all_types(model: LanguageModel, type_name: str) -> dict[str, str]:
    matrices = [name for name, tensor in model.parameters().items() if len(tensor.shape) == 2]
    return {name: type_name for name in matrices if "lora" not in name}


def step(model: LanguageModel) -> tuple[float, dict[str, np.ndarray]]:
    with Tape() as tape:
        loss = model.loss(batch(), 1 / 24, None)
    tape.backward(loss)
    grads = {name: np.array(tensor.grad) for name, tensor in model.trainable().items()}
    for tensor in model.trainable().values():
        tensor.zero_grad()
    return float(loss.data), grads


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_computes_with_rounded_weights_and_its_masters_get_their_gradient(
    backend: Any, tied: bool, checkpointing: bool
) -> None:
    spec = tiny_spec(
        "llama", hidden_size=32, num_heads=4, num_kv_heads=2, intermediate_size=64, vocab_size=40, tie_embeddings=tied
    )
    weights = lively_weights(spec)
    types = {name: "Q8_0" if "token_embd" in name else "Q4_0" for name, w in weights.items() if w.ndim == 2}
    rounded = {name: held(types[name], w) if name in types else w for name, w in weights.items()}
    model = build(spec, weights, backend, trainable=True, checkpoint_activations=checkpointing)
    plain = step(model)
    quantization = fake_quantize_weights(model, plain_encodings(types))
    assert step(model)[0] == plain[0], "nothing is rounded before the switch is turned"
    quantization.switch.is_on = True
    loss, grads = step(model)
    expected_loss, expected = step(build(spec, rounded, backend, trainable=True))
    assert loss == expected_loss
    for name, grad in expected.items():
        np.testing.assert_array_equal(grads[name], grad, err_msg=name)
    for name, master in quantization.masters().items():
        np.testing.assert_array_equal(master(), weights[name])


@pytest.mark.parametrize("clipped", [False, True])
def test_weights_are_rounded_once_for_each_change(monkeypatch: pytest.MonkeyPatch, clipped: bool) -> None:
    backend = CpuBackend(1)
    model = build(SPEC, lively_weights(SPEC), backend, trainable=True, checkpoint_activations=True)
    types = all_types(model, "Q4_0")
    calls: list[tuple[int, ...]] = []
    real = backend.fake_quantize
    monkeypatch.setattr(backend, "fake_quantize", lambda v, *a, **k: calls.append(v.shape) or real(v, *a, **k))
    quantization = fake_quantize_weights(model, plain_encodings(types), clipped=clipped)
    quantization.switch.is_on = True
    for _ in range(3):
        step(model)
    assert len(calls) == len(types)
    name = "blk.0.attn_q.weight"
    model.parameters()[name].assign(2 * model.parameters()[name].numpy())
    step(model)
    assert len(calls) == len(types) + 1
    backend.close()


def test_all_weights_can_be_rounded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend(1)
    model = build(SPEC, lively_weights(SPEC), backend, trainable=True)
    quantization = fake_quantize_weights(model, plain_encodings(all_types(model, "Q4_0")))
    quantization.switch.is_on = True
    first = step(model)
    calls: list[int] = []
    real = backend.fake_quantize
    monkeypatch.setattr(backend, "fake_quantize", lambda v, *a, **k: calls.append(v.size) or real(v, *a, **k))
    quantization.round_all()
    assert len(calls) == len(quantization.encodings)
    assert quantization.matrices == {"Q4_0": len(calls)}
    assert step(model)[0] == first[0]
    backend.close()


def test_an_adapter_is_rounded_together_with_its_weight(backend: Any, rng: np.random.Generator) -> None:
    weights = lively_weights(SPEC)
    model = build(SPEC, weights, backend, trainable=True)
    inject_lora(model, LoRASettings(4, 8.0, targets=["q_proj", "down_proj"], rslora=True), seed=1)
    for name, tensor in model.trainable().items():
        if name.endswith("lora_b"):
            tensor.assign(0.1 * normal(rng, *tensor.shape))
    types = all_types(model, "Q4_0")
    quantization = fake_quantize_weights(model, plain_encodings(types))
    quantization.switch.is_on = True
    folded = {name: master() for name, master in quantization.masters().items()}
    name = "blk.1.ffn_down.weight"
    pair = [model.trainable()[f"{name}.lora_{part}"].numpy() for part in "ba"]
    np.testing.assert_allclose(folded[name], weights[name] + 4.0 * (pair[0] @ pair[1]), rtol=1e-5, atol=1e-6)
    expected = build(SPEC, {**weights, **{n: held("Q4_0", w) for n, w in folded.items()}}, backend, trainable=False)
    assert float(model.loss(batch(), 1.0, None).data) == float(expected.loss(batch(), 1.0, None).data)


def test_weights_beyond_their_range_get_no_gradient_from_a_model(backend: Any) -> None:
    weights, name = lively_weights(SPEC), "blk.0.ffn_up.weight"
    found = {}
    for clipped in (False, True):
        model = build(SPEC, weights, backend, trainable=True)
        fake_quantize_weights(model, {name: Encoding("Q4_0")}, clipped=clipped).switch.is_on = True
        found[clipped] = step(model)
    codec = codec_for("Q4_0")
    inside = in_range(codec, codec.encode(weights[name]), weights[name])
    assert found[True][0] == found[False][0]
    np.testing.assert_array_equal(found[True][1][name], np.where(inside, found[False][1][name], 0))
    assert not inside.all()


def test_only_named_weights_are_rounded(backend: Any) -> None:
    weights = lively_weights(SPEC)
    model = build(SPEC, weights, backend, trainable=False)
    name = "blk.0.ffn_up.weight"
    fake_quantize_weights(model, {name: Encoding("Q4_0")}).switch.is_on = True
    expected = build(SPEC, {**weights, name: held("Q4_0", weights[name])}, backend, trainable=False)
    assert float(model.loss(batch(), 1.0, None).data) == float(expected.loss(batch(), 1.0, None).data)


def test_a_weight_that_the_model_does_not_have_is_refused(backend: Any) -> None:
    with pytest.raises(ModelError, match=r"no matrix blk\.9\.attn_q\.weight"):
        fake_quantize_weights(build(SPEC, lively_weights(SPEC), backend), {"blk.9.attn_q.weight": Encoding("Q4_0")})


def test_a_weight_that_blew_up_is_named(backend: Any) -> None:
    weight = Tensor(backend.asarray(np.full((2, 32), np.inf, np.float32)), backend, name="blk.0.attn_q.weight")
    layer = Linear("blk.0.attn_q", weight)
    quantizer = FakeQuantizer(weight.name, Encoding("Q4_0"), backend, Switch())
    with pytest.raises(FormatError, match=r"tensor blk\.0\.attn_q\.weight.*does not fit") as caught:
        quantizer.rounded(layer.versions(), layer.effective_weight)
    assert caught.value.hint is not None
    assert "optimizer.lr" in caught.value.hint
