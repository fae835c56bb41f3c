"""Grown models of Hugging Face's transformers: saved as usual, taken up whole, and never halved in silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import esper
from esper.errors import EsperError
from esper.integrations.transformers import from_pretrained
from tests.support.runs.growing import grow

SITES = ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj")
TOKENS = torch.arange(10)[None]


class Growing(LlamaForCausalLM):
    """A user's class that is growable from the start."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        esper.growable(self)


def llama(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_class", [LlamaForCausalLM, AutoModelForCausalLM, Growing])
def test_a_grown_model_is_taken_up_whole(tmp_path: Path, model_class: Any, dtype: torch.dtype) -> None:
    model = grow(llama(dtype), *SITES).eval()
    model.save_pretrained(tmp_path)
    other = from_pretrained(model_class, tmp_path)
    assert other.dtype == dtype
    assert not other.training
    assert other.lm_head.weight is other.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(other(TOKENS).logits, model(TOKENS).logits)


def test_a_model_in_several_files_is_taken_up_whole(tmp_path: Path) -> None:
    model = grow(llama(), *SITES).eval()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    with torch.no_grad():
        assert torch.equal(from_pretrained(LlamaForCausalLM, tmp_path)(TOKENS).logits, model(TOKENS).logits)


def test_the_librarys_own_way_names_the_seeds_that_it_leaves_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(llama(), *SITES).save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    Growing.from_pretrained(tmp_path)
    assert "esper_seed_1._extra_state" in caplog.text
    assert "UNEXPECTED" in caplog.text


def test_a_folder_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    grow(llama(), *SITES).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"hidden_size": 16', '"hidden_size": 32')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(EsperError, match=r"the weights are not of this model: .* is \[") as caught:
        from_pretrained(LlamaForCausalLM, tmp_path)
    assert "\n" not in str(caught.value)
