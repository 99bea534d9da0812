"""The entry point for lmms-eval, against its interface: registry, constructor, requests."""

import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from test_vlm import BLUE, RED, random_vlm

from vlmamba.checkpoints import save_model
from vlmamba.engine import Sampling


class HostModel:
    """What lmms-eval's `lmms` gives its subclasses."""

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}
        self.cache_dict: dict[str, Any] = defaultdict(dict)


@dataclass(frozen=True)
class HostManifest:
    """lmms-eval's `ModelManifest`."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Our module, imported where the names that it needs of lmms-eval exist."""
    for name, contents in (
        ("lmms_eval", {}),
        ("lmms_eval.api", {}),
        ("lmms_eval.api.model", {"lmms": HostModel}),
        ("lmms_eval.models", {}),
        ("lmms_eval.models.registry_v2", {"ModelManifest": HostManifest}),
    ):
        stub = ModuleType(name)
        vars(stub).update(contents)
        monkeypatch.setitem(sys.modules, name, stub)
    monkeypatch.delitem(sys.modules, "vlmamba.integrations.lmms_eval", raising=False)
    yield importlib.import_module("vlmamba.integrations.lmms_eval")
    sys.modules.pop("vlmamba.integrations.lmms_eval", None)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    vlm = random_vlm(dtype=torch.float32)
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, vlm.model, vlm.processor)
    return str(directory)


def test_the_manifest_names_a_class_that_the_registry_accepts(module: ModuleType) -> None:
    manifest = module.manifest
    assert manifest.model_id == "vlmamba"
    path, name = manifest.simple_class_path.rsplit(".", 1)
    found = getattr(importlib.import_module(path), name)
    assert issubclass(found, HostModel)
    assert found.is_simple


def test_requests_get_the_answers_of_the_model(module: ModuleType, directory: str) -> None:
    model = module.VLMamba(pretrained=directory, device="cpu", batch_size="3")
    docs: dict[int, list[Image.Image] | None] = {
        0: [RED],
        1: [BLUE, RED],
        2: None,
        3: [],
        4: [BLUE],
    }
    model.task_dict["pope"] = {"test": docs}
    kinds = [{"max_new_tokens": 5, "until": ["\n\n"], "do_sample": False}, {"max_new_tokens": 9}]
    requests = [
        SimpleNamespace(args=(f"What {n}?", kinds[n == 3], lambda doc: doc, n, "pope", "test"))
        for n in docs
    ]
    expected = [
        model.vlm.ask(
            docs[n], f"What {n}?", Sampling(max_new_tokens=9 if n == 3 else 5, stop=("\n\n",))
        )
        for n in docs
    ]
    assert model.generate_until(requests) == expected
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(NotImplementedError):
            method(requests)


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ({}, Sampling()),
        ({"temperature": 0, "top_p": None, "num_beams": 1, "until": "."}, Sampling(stop=(".",))),
        ({"temperature": 0.2}, Sampling(temperature=0.2)),
        ({"temperature": 0.2, "do_sample": False}, Sampling()),
        ({"until": ["", "\n"], "max_new_tokens": 16}, Sampling(max_new_tokens=16, stop=("\n",))),
    ],
)
def test_generation_settings(
    module: ModuleType, settings: dict[str, Any], sampling: Sampling
) -> None:
    assert module.as_sampling(settings) == sampling
