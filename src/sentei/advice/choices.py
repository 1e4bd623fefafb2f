"""The techniques as rows of data: what each gives, costs and needs, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass

HARDWARE = ("cpu", "gpu", "integer", "microcontroller")
# What a user has, each including what is before it.
HAVE = ("nothing", "samples", "training")


@dataclass(frozen=True)
class Choice:
    """One technique.

    Attributes:
        name: Its name; where it is a mode of `sentei.export(..., quantize=name)`, the mode's.
        cut: The share of the float file's bytes it saves, as a rule.
        risk: What it does to accuracy, as a rule.
        hardware: Where it runs as intended: names of `HARDWARE`.
        needs: What it takes: a name of `HAVE`.
        speed: What it does to latency, as a rule.
        code: How to do it.
        is_mode: Whether it can be measured without training.
    """

    name: str
    cut: float
    risk: str
    hardware: tuple[str, ...]
    needs: str
    speed: str
    code: str
    is_mode: bool = True


_EVERYWHERE = ("cpu", "integer", "microcontroller")

CHOICES: tuple[Choice, ...] = (
    Choice(
        "float16",
        0.50,
        "none to speak of",
        ("cpu", "gpu"),
        "nothing",
        "as float32 on a CPU, twice as fast on a GPU that computes in half precision",
        'sentei.export(model, "m.tflite", quantize="float16")',
    ),
    Choice(
        "weight-only-int8",
        0.75,
        "small",
        ("cpu",),
        "nothing",
        "about as float32; weights are widened as it runs",
        'sentei.export(model, "m.tflite", quantize="weight-only-int8")',
    ),
    Choice(
        "dynamic",
        0.75,
        "small",
        ("cpu",),
        "nothing",
        "faster where large matrices take the time",
        'sentei.export(model, "m.tflite", quantize="dynamic")',
    ),
    Choice(
        "int4",
        0.87,
        "visible, up to several points",
        ("cpu",),
        "nothing",
        "as dynamic",
        'sentei.export(model, "m.tflite", quantize="int4")',
    ),
    Choice(
        "int8",
        0.75,
        "small, mostly below a point",
        _EVERYWHERE,
        "samples",
        "the fastest on CPUs, the only one on integer-only accelerators",
        'sentei.export(model, "m.tflite", quantize="int8", calibration=x[:100])',
    ),
    Choice(
        "int16x8",
        0.75,
        "less than int8: activations keep 16 bits",
        ("cpu", "microcontroller"),
        "samples",
        "slower than int8; few operators have fast kernels",
        'sentei.export(model, "m.tflite", quantize="int16x8", calibration=x[:100])',
    ),
    Choice(
        "training int8",
        0.75,
        "least of all with integers: the weights adapt to the rounding",
        _EVERYWHERE,
        "training",
        "as int8",
        "qmodel = sentei.quantize(model, calibration=x[:100]); qmodel.compile(...); "
        'qmodel.fit(x, y); sentei.export(qmodel, "m.tflite")',
        is_mode=False,
    ),
    Choice(
        "pruning before",
        0.60,
        "small up to half of the weights, then it grows",
        HARDWARE,
        "training",
        "the same, unless sentei.diagnose says that XNNPACK runs it sparse (Arm, WebAssembly)",
        "sentei.prune(model, ConstantSparsity(0.8)); model.fit(x, y); sentei.preserve(qmodel)",
        is_mode=False,
    ),
    Choice(
        "clustering before",
        0.80,
        "small with 16 or more values per layer",
        HARDWARE,
        "training",
        "the same: it shortens the download (sentei.pack), not the run",
        "sentei.cluster(model, 16); model.fit(x, y); sentei.preserve(qmodel)",
        is_mode=False,
    ),
)


def fitting(hardware: str, have: str) -> tuple[list[Choice], dict[str, str]]:
    """The choices that are possible, and why the others are not.

    Args:
        hardware: A name of `HARDWARE`.
        have: A name of `HAVE`.

    Returns:
        The choices in the order of the table, and a reason by the name of each other one.
    """
    possible, others = [], {}
    for choice in CHOICES:
        if hardware not in choice.hardware:
            others[choice.name] = f"it does not run as intended on this hardware ({hardware})"
        elif HAVE.index(choice.needs) > HAVE.index(have):
            wanted = {
                "samples": "it needs samples of the inputs (some 100, without labels)",
                "training": "it needs labeled data and time to train",
            }
            others[choice.name] = wanted[choice.needs]
        else:
            possible.append(choice)
    return possible, others


def ranked(hardware: str, have: str) -> list[tuple[str, str]]:
    """Which choice to try first, second, ..., with reasons, before anything is measured.

    Args:
        hardware: A name of `HARDWARE`.
        have: A name of `HAVE`.
    """
    possible = {choice.name for choice in fitting(hardware, have)[0]}
    wanted = [
        ("float16", "a GPU computes in half precision: half the bytes at no risk", ("gpu",)),
        ("int8", "the fastest and a quarter of the bytes, calibrated on your samples", _EVERYWHERE),
        ("training int8", "if int8 loses too much, a few epochs win most of it back", _EVERYWHERE),
        ("int16x8", "if int8 loses too much and training is no option", ("cpu", "microcontroller")),
        ("dynamic", "a quarter of the bytes without any data", ("cpu",)),
        ("float16", "half the bytes at no risk, if integers lose too much", ("cpu",)),
        ("pruning before", "for a smaller download still; the zeros are kept", HARDWARE),
        ("clustering before", "for a smaller download still; 16 values per layer", HARDWARE),
    ]
    return [
        (name, reason) for name, reason, where in wanted if name in possible and hardware in where
    ]
