"""The flag that names the device of a command; it is read before the command's module, and with it torch, is imported."""

import argparse

from altq.runtime.gpu import AUTO, checked_device


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device, a text as `altq.runtime.gpu.open_device` takes it."""
    parser.add_argument(
        "--device",
        type=_parse,
        default=AUTO,
        metavar="DEVICE",
        help="cpu, cuda (any GPU that is free) or cuda:N; auto: a GPU where there is one (auto)",
    )


def _parse(text: str) -> str:
    try:
        return checked_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
