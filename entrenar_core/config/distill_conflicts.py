"""What the `distill` section and the other sections of a run exclude."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from entrenar_core.config.base import Conflict, given_keys
from entrenar_core.config.roles import LANGUAGE_TASKS, TASK_ROLES


def shapes_a_student(given: Mapping[str, Any]) -> bool:
    """Whether the model is made from a teacher, so that `model` names none."""
    return "student" in given_keys(given.get("distill"))


def distill_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """`given`: the set sections of a configuration, raw or built."""
    if "distill" not in given:
        return
    data = given_keys(given.get("data"))
    for key, task in _tasks(data):
        if task in TASK_ROLES and task not in LANGUAGE_TASKS:
            message = f"{task} trains a head of its own, and teachers predict tokens"
            yield Conflict(key, message, "remove the distill section, or set a task of language")
    if "cache" in given_keys(given["distill"]) and data.get("streaming") is True:
        message = "needs data that are read whole, and data.streaming is true"
        yield Conflict("distill.cache", message, "set data.streaming: false, or remove the cache")
    if shapes_a_student(given):
        yield from _student_conflicts(given)


def _tasks(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every task that is set, in lower case, with its key."""
    yield "data.task", str(data.get("task")).lower()
    for name in ("train", "val"):
        sources = data.get(name)
        for index, source in enumerate(sources if isinstance(sources, (list, tuple)) else ()):
            yield f"data.{name}.{index}.task", str(given_keys(source).get("task")).lower()


def _student_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    for key, why in _OF_MODEL.items():
        if key in given_keys(given.get("model")):
            yield Conflict(f"model.{key}", f"cannot go together with distill.student: {why}", "remove it")
    if "lora" in given:
        message = "adapts a frozen model, and distill.student makes a model and trains it in full"
        yield Conflict("lora", message, "remove lora, or name a model in model.path")
    if "merge" in given:
        yield Conflict("merge", "needs a base model in model.path, and distill.student makes a new one", "remove it")


_OF_MODEL: Mapping[str, str] = {
    "path": "the model is made from the teacher",
    "architecture": "the shape is the teacher's, but for what distill.student says",
    "tokenizer": "the tokenizer is the teacher's",
    "layers": "there is no adapter to place",
}
