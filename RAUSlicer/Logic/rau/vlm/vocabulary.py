"""The words of the small model: special tokens as Qwen2.5-VL has them, names of structures, and its own tokenizer.

A byte-level BPE, so that every name can be written; digits stand alone, so that coordinates are numbers of digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SEG, DET, LOOK = "<Seg>", "<Det>", "<Look>"
LAYOUT = ("<think>", "</think>", "<answer>", "</answer>")
END, PAD, START, UNKNOWN = "<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|endoftext|>"
VISION = {
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "vision": "<|vision_pad|>",
    "image": "<|image_pad|>",
    "video": "<|video_pad|>",
}
SIZE = 1024  # tokens, the special ones among them

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 90, 240),
    "yellow": (240, 220, 40),
    "magenta": (230, 50, 220),
    "cyan": (40, 220, 230),
    "orange": (250, 140, 20),
    "purple": (130, 50, 190),
    "lime": (160, 250, 60),
    "brown": (150, 90, 40),
    "pink": (255, 160, 180),
    "teal": (20, 130, 130),
}

SIDED = """
kidney, lung, adrenal gland, upper lobe, lower lobe, hip, femur, humerus, scapula, clavicle, cerebral cortex,
cerebral white matter, lateral ventricle, thalamus, caudate, putamen, pallidum, hippocampus, amygdala,
cerebellar cortex, cerebellar white matter, atrium, ventricle, iliac artery, iliac vein, gluteus maximus,
autochthon, iliopsoas, rib, ovary
"""
PLAIN = """
liver, spleen, gallbladder, pancreas, stomach, duodenum, small bowel, colon, rectum, urinary bladder, prostate,
uterus, oesophagus, trachea, heart, myocardium, left ventricle cavity, left ventricle myocardium, aorta,
inferior vena cava, portal vein, pulmonary artery, pulmonary vein, brain, brainstem, corpus callosum,
cerebrospinal fluid, third ventricle, fourth ventricle, anterior hippocampus, posterior hippocampus, grey
matter, white matter, spinal cord, spinal cord grey matter, vertebra L1, vertebra T12, sacrum, sternum, skull,
mandible, face, fetal head, placenta, peripheral zone, transition zone, tumour, oedema, necrosis, lesion,
nodule, cyst, nucleus, cytoplasm, cell, gland, retinal vessels, optic disc, optic cup, lens, retina, choroid,
polyp, skin, bone, muscle, fat, body, vessel, infection, right middle lobe, thyroid, larynx, parotid, eye, optic
nerve, chiasm, cochlea, tongue, tooth, meniscus, cartilage, tibia, patella, ligament, costal cartilages, kidney,
lung, ventricle, atrium
"""


def listed(text: str) -> list[str]:
    """Names with commas between them."""
    return [" ".join(name.split()) for name in text.split(",")]


NAMES: tuple[str, ...] = (
    *(f"{side} {part}" for side in ("left", "right") for part in listed(SIDED)),
    *listed(PLAIN),
)


def special_tokens() -> list[str]:
    """All of them, the padding first."""
    return [PAD, START, END, *VISION.values(), *LAYOUT, SEG, DET, LOOK]


def corpus() -> Iterator[str]:
    """Sentences of the dialogue over all names, for the tokenizer alone."""
    from rau.vlm import prompts

    names = list(dict.fromkeys(NAMES))
    for i, name in enumerate(names):
        some = [name, names[(i * 7 + 3) % len(names)], f"region {chr(65 + i % 26)}"]
        boxes = dict.fromkeys(some, ((i % 10) / 12, 0.1, 0.95, 0.9))
        for task in prompts.TASKS:
            yield prompts.legend(some)
            yield prompts.question(task, boxes, prompts.GRID)
        yield "".join(f'{{"label": "{n}", "bbox_2d": [1, 22, 33, 44]}}, ' for n in some)
        yield f"{some[0]}<Seg>, {some[1]} absent, {some[2]}<Seg>"
    yield "user assistant system"


def train_tokenizer() -> Any:
    """The small model's tokenizer, a `PreTrainedTokenizerFast`; the same every time."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=special_tokens(),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(corpus(), trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[AddedToken(token, normalized=False) for token in special_tokens()[1:]],
        model_max_length=4096,
        padding_side="right",
    )
    return made
