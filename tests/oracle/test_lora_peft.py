"""Fifty LoRA steps against torch + peft: the same start, data, AdamW, clipping and cosine schedule; the same losses."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra: oracle)")
peft = pytest.importorskip("peft", reason="peft is not installed (extra: oracle)")

from entrenar_core.autograd.tape import Tape  # noqa: E402
from entrenar_core.autograd.tensor import Tensor  # noqa: E402
from entrenar_core.backend.cpu import CpuBackend  # noqa: E402
from entrenar_core.data.batch import IGNORE, Batch  # noqa: E402
from entrenar_core.gguf.names import has_permuted_rows, to_hugging_face, unpermute_rope_rows  # noqa: E402
from entrenar_core.gguf.reader import GGUFFile  # noqa: E402
from entrenar_core.lora.inject import LoRASettings, inject_lora  # noqa: E402
from entrenar_core.model.decoder import LanguageModel  # noqa: E402
from entrenar_core.model.load import load_model  # noqa: E402
from entrenar_core.model.module import PassKey  # noqa: E402
from entrenar_core.optim.adam import AdamW  # noqa: E402
from entrenar_core.optim.clip import clip  # noqa: E402
from entrenar_core.optim.schedule import Schedule  # noqa: E402
from entrenar_core.tokenizer.build import tokenizer_from_metadata  # noqa: E402
from tests.model.tiny import pack, tokens_of  # noqa: E402
from tests.oracle.hugging_face import VOCAB_SIZE, make_pair, summed_loss  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft, about transformers

STEPS = 50
LR = 3e-3
WEIGHT_DECAY = 0.01
MAX_NORM = 1.0
TOLERANCE = 1e-3
ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Race:
    """Both sides at the same start, and the batches that both shall see in this order."""

    ours: LanguageModel
    theirs: Any
    batches: list[Batch]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Models this small are slower on several threads, and far slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    made = CpuBackend(threads=2)
    yield made
    made.close()


def prompted(tokens: np.ndarray, prompt: int) -> Batch:
    """Rows tokens [B, T + 1] of one document each, whose first `prompt` labels are masked."""
    batch = pack([[row] for row in tokens], tokens.shape[1] - 1)
    batch.labels[:, :prompt] = IGNORE
    return replace(batch, n_supervised=int((batch.labels >= 0).sum()))


def real_race(shared_data: Path, backend: Any) -> Race:
    """The real base model on real text."""
    with GGUFFile.open(shared_data / "models" / "base-7m-f16.gguf") as file:
        ours = load_model(file, backend)
        tokenizer = tokenizer_from_metadata(file.metadata, "base-7m")
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:60_000]
    ids = np.array(tokenizer.encode(text), np.int32)
    rows, width = 2, 41
    batches = [prompted(part.reshape(rows, width), 8) for part in np.split(ids[: STEPS * rows * width], STEPS)]
    folder = shared_data / "models" / "base-7m-hf"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Race(ours, theirs, batches)


def tiny_race(case: str, backend: Any) -> Race:
    """A tiny random model on a few random batches again and again, so that there is something to learn."""
    pair = make_pair(case, torch.float32)
    batches = [prompted(tokens_of(2, 25, vocab_size=VOCAB_SIZE, seed=step % 4), 4) for step in range(STEPS)]
    return Race(pair.ours(backend), pair.hf, batches)


def adapt_theirs(model: Any, settings: LoRASettings, start: dict[str, Tensor], ours: LanguageModel) -> Any:
    """The model with peft's adapters, which start where ours do."""
    logging.getLogger("peft").setLevel(logging.ERROR)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=list(ALL_TARGETS),
        use_rslora=settings.rslora,
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(model, config)
    state = {}
    for name, tensor in start.items():
        values = in_their_row_order(name, tensor.numpy(), ours)
        state[their_name(name, ours.spec.architecture)] = torch.from_numpy(values.copy())
    unknown = peft.set_peft_model_state_dict(adapted, state).unexpected_keys
    assert not unknown
    assert len(state) == len([p for p in adapted.parameters() if p.requires_grad])
    return adapted


def their_name(name: str, architecture: str) -> str:
    """``blk.0.attn_q.weight.lora_a`` to ``base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight``."""
    weight, part = name.rsplit(".", 1)
    module = to_hugging_face(weight, architecture)
    assert module is not None
    return f"base_model.model.{module.removesuffix('.weight')}.{part.replace('_a', '_A').replace('_b', '_B')}.weight"


def in_their_row_order(name: str, array: np.ndarray, ours: LanguageModel) -> np.ndarray:
    """B of q and k has its rows permuted where the weight has; the columns of A are the input's, which are not."""
    if name.endswith(".lora_a") or not has_permuted_rows(name, ours.spec.architecture):
        return array
    return unpermute_rope_rows(array, ours.spec.num_heads if ".attn_q." in name else ours.spec.num_kv_heads)


def train_ours(model: LanguageModel, batches: list[Batch]) -> list[float]:
    """The loss of each step before its update."""
    trainable = model.trainable()
    optimizer = AdamW(trainable, weight_decay=WEIGHT_DECAY)
    schedule = Schedule("cosine", LR, STEPS)
    losses = []
    for step, batch in enumerate(batches):
        with Tape() as tape:
            loss = model.loss(batch, 1 / batch.n_supervised, PassKey(seed=0, step=step, micro_batch=0))
        tape.backward(loss)
        optimizer.step(schedule.learning_rate(step), clip(trainable, MAX_NORM))
        optimizer.zero_grad()
        losses.append(float(loss.data))
    return losses


def train_theirs(model: Any, batches: list[Batch]) -> list[float]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 0, STEPS)
    losses = []
    for batch in batches:
        loss = summed_loss(model, batch.tokens, batch.labels) / batch.n_supervised
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def assert_same_losses(race: Race, settings: LoRASettings) -> str:
    """Run both; every loss within the tolerance, and the run must have learnt something."""
    start = inject_lora(race.ours, settings, seed=5)
    theirs = adapt_theirs(race.theirs, settings, start, race.ours)
    expected = np.array(train_theirs(theirs, race.batches))
    losses = np.array(train_ours(race.ours, race.batches))
    deviations = np.abs(losses - expected)
    summary = (
        f"largest deviation {deviations.max():.2e} in step {deviations.argmax()},"
        f" losses {expected[:4].mean():.3f} -> {expected[-4:].mean():.3f}"
    )
    assert deviations.max() <= TOLERANCE, summary
    assert expected[-4:].mean() < expected[:4].mean() - 0.1, summary
    return summary


@pytest.mark.slow
def test_the_real_base_model_learns_as_with_peft(shared_data: Path, backend: Any) -> None:
    settings = LoRASettings(rank=8, alpha=16.0, targets=ALL_TARGETS)
    print(assert_same_losses(real_race(shared_data, backend), settings))


@pytest.mark.parametrize(
    ("case", "rslora"), [("llama", True), ("llama tied", False), ("qwen2", False), ("qwen3", True)]
)
def test_a_tiny_model_learns_as_with_peft(case: str, rslora: bool, backend: Any) -> None:
    settings = LoRASettings(rank=4, alpha=8.0, targets="all", rslora=rslora)
    print(case, assert_same_losses(tiny_race(case, backend), settings))
