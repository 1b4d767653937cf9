"""Zero-shot scoring here against lm-evaluation-harness's own HFLM: the same answers, and the time of both.

Both are given the same items of the same model, chunk by chunk in turn, each chunk first to the one and then to the
other. Processor seconds are summed. The answers are compared item by item.

  altq fetch-task --task piqa --source '{path: ../shared/data/zero_shot}' --output /tmp/items/piqa
  python benchmarks/zero_shot.py --model results/models/smollm2 --task piqa --items /tmp/items/piqa --batch-size 16
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from altq.checkpoint.quantized_model import load_model
from altq.evaluation.harness import HarnessModel, load_task
from altq.evaluation.requests import read_parts
from altq.runtime.cores import bounded_threads

ITEMS_OF_CHUNK = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model or of a checkpoint")
    parser.add_argument("--task", required=True)
    parser.add_argument("--items", type=Path, required=True, help="folder that `altq fetch-task` wrote")
    parser.add_argument("--limit", type=int, help="the first items alone")
    parser.add_argument("--batch-size", type=int, default=16, help="of HFLM")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(bounded_threads(arguments.threads))

    rows = range(len(read_parts(arguments.items, None)))[: arguments.limit]
    task = load_task(arguments.task, arguments.items, rows)
    task.build_all_requests()
    model = load_model(arguments.model)
    ours = HarnessModel(model, arguments.model)
    theirs = HFLM(model, tokenizer=str(arguments.model), batch_size=arguments.batch_size)
    seconds = {ours: 0.0, theirs: 0.0}
    right: dict[HFLM, list[dict]] = {ours: [], theirs: []}
    largest = 0.0
    for number, (docs, instances) in enumerate(chunks(task.eval_docs, task.instances)):
        answers = {}
        for contestant in (ours, theirs) if number % 2 else (theirs, ours):
            began = time.process_time()
            answers[contestant] = contestant.loglikelihood(instances, disable_tqdm=True)
            seconds[contestant] += time.process_time() - began
            right[contestant] += judged(task, docs, instances, answers[contestant])
        pairs = zip(answers[ours], answers[theirs], strict=True)
        largest = max(largest, *(abs(mine[0] - other[0]) for mine, other in pairs))
    metrics = [metric for metric in ("acc", "acc_norm") if metric in right[ours][0]]
    for name, contestant in (("altq", ours), (f"HFLM, batch size {arguments.batch_size}", theirs)):
        accuracies = ", ".join(
            f"{metric} {sum(item[metric] for item in right[contestant]) / len(rows):.4f}" for metric in metrics
        )
        rate = len(rows) / seconds[contestant]
        print(f"{name}: {accuracies}; {seconds[contestant]:.0f} processor seconds, {rate:.2f} items a second")
    differ = sum(
        any(mine[metric] != other[metric] for metric in metrics)
        for mine, other in zip(right[ours], right[theirs], strict=True)
    )
    print(f"{arguments.task}, {len(rows)} items: {differ} judged otherwise; log-likelihoods differ by {largest:.1e}")
    print(f"{seconds[theirs] / seconds[ours]:.2f} times as fast")


def chunks(docs, instances: Sequence[Instance]):
    """Items with their instances, ITEMS_OF_CHUNK items at a time."""
    for start in range(0, len(docs), ITEMS_OF_CHUNK):
        ids = range(start, min(start + ITEMS_OF_CHUNK, len(docs)))
        yield [docs[i] for i in ids], [instance for instance in instances if instance.doc_id in ids]


def judged(task, docs, instances: Sequence[Instance], answers) -> list[dict]:
    """What the harness says of each item."""
    of_item: dict[int, list] = {}
    for instance, answer in zip(instances, answers, strict=True):
        of_item.setdefault(instance.doc_id, []).append(answer)
    return [task.process_results(doc, found) for doc, found in zip(docs, of_item.values(), strict=True)]


if __name__ == "__main__":
    main()
