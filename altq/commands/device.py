"""The flag that names the device of a command; it is read before the command's module, and with it torch, is imported."""

import argparse

from altq.runtime.gpu import AUTO, checked_device


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device and --gpu-memory, as `altq.runtime.gpu.open_device` takes them."""
    parser.add_argument(
        "--device",
        type=_parse,
        default=AUTO,
        metavar="DEVICE",
        help="cpu, cuda (any GPU that is free) or cuda:N; auto: a GPU where there is one (auto)",
    )

    parser.add_argument(
        "--gpu-memory", type=_parse_memory, metavar="GB", help="memory of the GPU to take at most (all that it has)"
    )


def _parse_memory(text: str) -> float:
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of memory; give gigabytes, such as 24")
    return gigabytes


def _parse(text: str) -> str:
    try:
        return checked_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
