"""Items of random words for each zero-shot task, with which the workflow can be tried without any data."""

from typing import Any

import numpy as np

WORDS = "a and call class for function in is list module name object of or return set string the to value with".split()
NUM_CHOICES = 4


def make_items(name: str, num_items: int) -> list[dict[str, Any]]:
    """Items in the form that the harness's task of this name reads; the same for the same arguments."""
    rng = np.random.Generator(np.random.PCG64(num_items))
    return [_make_item(name, row, rng) for row in range(num_items)]


def _make_item(name: str, row: int, rng: np.random.Generator) -> dict[str, Any]:
    def phrase(longest: int) -> str:
        return " ".join(rng.choice(WORDS, size=rng.integers(2, longest + 1)))

    choices = [phrase(6) for _ in range(NUM_CHOICES)]
    right = int(rng.integers(NUM_CHOICES))
    match name:
        case "arc_challenge" | "arc_easy":
            labels = list("ABCD")
            answers = {"text": choices, "label": labels}
            return {"id": str(row), "question": phrase(12), "choices": answers, "answerKey": labels[right]}
        case "hellaswag":
            source = f"{('activitynet', 'wikihow')[row % 2]}~{row}"
            context = {"activity_label": phrase(3), "ctx_a": phrase(12), "ctx_b": phrase(3)}
            return {"ind": row, **context, "endings": choices, "source_id": source, "label": str(right)}
        case "lambada_openai":
            return {"text": phrase(20)}
        case "piqa":
            return {"goal": phrase(8), "sol1": choices[0], "sol2": choices[1], "label": right % 2}
        case "winogrande":
            sentence = f"{phrase(8)} _ {phrase(8)}"
            return {"sentence": sentence, "option1": choices[0], "option2": choices[1], "answer": str(1 + right % 2)}
        case _:
            raise ValueError(f"there are no made items of {name}")
