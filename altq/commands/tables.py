"""Commands that write the tables: perplexities, accuracies, selections, kernels, cost."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from altq.commands.command import add_output
from altq.experiment.methods import METHODS, REFINED
from altq.experiment.policies import Grid
from altq.report.cost import write_cost
from altq.report.perplexity import context_notes
from altq.report.presentation import Presentation, write_presented
from altq.report.table1 import write_table1
from altq.report.table2 import write_table2
from altq.report.table3 import write_table3
from altq.report.table4 import write_table4
from altq.report.table5 import write_table5
from altq.report.table6 import write_table6
from altq.report.table7 import write_table7
from altq.report.table_files import TABLE_FILES
from altq.runtime.consistency import require_consistency
from altq.runtime.flags import add_options, read_options
from altq.runtime.lineage import result_lineage
from altq.runtime.provenance import provenance, read_record


def _add_table(parser: argparse.ArgumentParser) -> None:
    """Add --results, --output and the presentation."""
    parser.add_argument("--results", type=Path, nargs="+", required=True, metavar="FILE", help="results to show")
    add_output(parser, ".csv file", beside=TABLE_FILES)
    add_options(parser, Presentation)


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--zero-shot", type=Path, nargs="*", default=[], metavar="FILE", help="zero-shot results of the same"
    )


def _add_selections(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selections", type=Path, nargs="+", required=True, metavar="FILE", help="their selections")


def _write(
    command: str,
    arguments: argparse.Namespace,
    write: Callable[[Presentation], None],
    *,
    inputs: Sequence[Path] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Let `write` write the table, and beside it a .json with its presentation and provenance.

    inputs: the files that are read besides --results. options: the command's own, besides the presentation.
    """
    presentation = read_options(arguments, Presentation)
    paths = [*arguments.results, *inputs]
    require_consistency({path: result_lineage(path) for path in paths})
    notes = context_notes(arguments.results)
    presentation = presentation.model_copy(update={"protocol": (*presentation.protocol, *notes)})
    write(presentation)
    write_presented(arguments.output, presentation, provenance(command, options or {}, paths))


def table1_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    _add_zero_shot(parser)


def table1(arguments: argparse.Namespace) -> None:
    """Write Table 1: one kind everywhere against random selections.

    Reads the files that `altq perplexity` and, for its average, `altq zero-shot` wrote. Writes the tidy table as CSV, a
    row for every selection and text, and, beside it, the paper's summary as .md, .tex and .png, the protocol behind it,
    and a .json with provenance.

      altq table1 --results results/perplexity/smollm2/{full,affine,rotation,random*}/*/*/seed0/*.json \\
          --output results/table1.csv
    """

    def write(presentation: Presentation) -> None:
        write_table1(arguments.results, arguments.zero_shot, csv=arguments.output, presentation=presentation)

    _write("table1", arguments, write, inputs=arguments.zero_shot)


def table2_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)


def table2(arguments: argparse.Namespace) -> None:
    """Write Table 2: perplexity of every method at every setting.

    Reads the files that `altq perplexity` wrote. Writes the tidy table as CSV and, beside it, the paper's wide layout
    as .md, .tex and .png, the protocol behind it, and a .json with provenance, from which `altq show` prints the table
    again.

      altq table2 --results results/perplexity/smollm2/*/*/*/*/*.json --output results/table2.csv
    """

    def write(presentation: Presentation) -> None:
        write_table2(arguments.results, arguments.output, presentation)

    _write("table2", arguments, write)


def table3_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    methods = [*METHODS, *(f"{method}{REFINED}" for method in METHODS)]
    parser.add_argument(
        "--reference", choices=methods, required=True, metavar="METHOD", help="with which others are compared"
    )


def table3(arguments: argparse.Namespace) -> None:
    """Write Table 3: zero-shot accuracy of every method.

    Reads the files that `altq zero-shot` wrote. Writes the tidy table as CSV, with paired differences to the method
    --reference, and, beside it, the paper's wide layout as .md, .tex and .png, the protocol behind it, and a .json with
    provenance.

      altq table3 --results results/zero_shot/smollm2/*/*/*/*/*.json --reference flatquant --output results/table3.csv
    """

    def write(presentation: Presentation) -> None:
        write_table3(arguments.results, arguments.output, reference=arguments.reference, presentation=presentation)

    _write("table3", arguments, write, options={"reference": arguments.reference})


def table4_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    _add_zero_shot(parser)
    _add_selections(parser)


def table4(arguments: argparse.Namespace) -> None:
    """Write Table 4: the learned selection against the heuristic.

    Reads the perplexities of the methods `learned` and `adaptive` and their selections; and, for its average, what
    `altq zero-shot` wrote of them. Writes the tidy table as CSV and, beside it, one to read as .md, .tex and .png, the
    protocol behind it, and a .json with provenance.

      altq table4 --results results/perplexity/smollm2/{learned,adaptive}/W3A3K3V3/gptq/seed0/*.json \\
          --selections results/selections/smollm2/heuristic.json \\
          results/selections/smollm2/W3A3K3V3/seed0/learned.json --output results/table4.csv
    """

    def write(presentation: Presentation) -> None:
        write_table4(
            arguments.results,
            arguments.zero_shot,
            selection_files=arguments.selections,
            csv=arguments.output,
            presentation=presentation,
        )

    _write("table4", arguments, write, inputs=[*arguments.zero_shot, *arguments.selections])


def table5_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)


def table5(arguments: argparse.Namespace) -> None:
    """Write Table 5: how fast the kernels are.

    Reads the measurements that `altq benchmark` wrote, on a CPU and perhaps on a GPU. Writes the tidy table as CSV and,
    beside it, one to read as .md, .tex and .png, the protocol behind it, and a .json with provenance.

      altq table5 --results results/kernels/cpu.csv --output results/table5.csv
    """

    def write(presentation: Presentation) -> None:
        write_table5(arguments.results, arguments.output, presentation)

    _write("table5", arguments, write)


def table6_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    _add_selections(parser)
    parser.add_argument(
        "--distinct", type=Path, nargs="+", required=True, metavar="FILE", help="which selections are the same"
    )
    add_options(parser, Grid)


def table6(arguments: argparse.Namespace) -> None:
    """Write Table 6: the heuristic at other values of beta and L.

    Reads the perplexities of the learned selection and of every distinct selection of the grid, these selections, and
    what `altq distinct` wrote (its folder is named after the model). Writes the tidy table as CSV and, beside it, one
    to read as .md, .tex and .png, the protocol behind it, and a .json with provenance.

      altq table6 --results results/perplexity/smollm2/{learned,adaptive,grid*}/W3A3K3V3/gptq/seed0/*.json \\
          --selections results/selections/smollm2/grid*.json results/selections/smollm2/W3A3K3V3/seed0/learned.json \\
          --distinct results/selections/smollm2/distinct.json --points "$(cat grid.json)" --output results/table6.csv
    """
    grid = read_options(arguments, Grid)

    def write(presentation: Presentation) -> None:
        write_table6(
            arguments.results,
            arguments.selections,
            distinct=arguments.distinct,
            grid=grid,
            csv=arguments.output,
            presentation=presentation,
        )

    inputs = [*arguments.selections, *arguments.distinct]
    _write("table6", arguments, write, inputs=inputs, options=grid.model_dump())


def table7_flags(parser: argparse.ArgumentParser) -> None:
    _add_table(parser)
    _add_zero_shot(parser)


def table7(arguments: argparse.Namespace) -> None:
    """Write Table 7: every policy on every setting, over calibration seeds, with paired differences to affine.

    Reads the files that `altq perplexity` and, for its average, `altq zero-shot` wrote, of three calibration seeds or
    more. Writes the tidy table as CSV and, beside it, one to read as .md, .tex and .png, the protocol behind it, and a
    .json with provenance.

      altq table7 --results results/perplexity/smollm2/{affine,rotation,adaptive,oracle}/*/gptq/seed*/*.json \\
          --output results/table7.csv
    """

    def write(presentation: Presentation) -> None:
        write_table7(arguments.results, arguments.zero_shot, csv=arguments.output, presentation=presentation)

    _write("table7", arguments, write, inputs=arguments.zero_shot)


def cost_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints", type=Path, nargs="+", required=True, metavar="FOLDER",
        help="checkpoint folders: checkpoints/<model>/<method>/<setting>/<weights>/seed<k>",
    )  # fmt: skip
    add_output(parser, ".csv file", beside=TABLE_FILES)
    add_options(parser, Presentation)


def cost(arguments: argparse.Namespace) -> None:
    """Write the cost of each checkpoint: seconds, processor seconds and peak memory of its stages.

    Reads the history (provenance.json) of checkpoint folders. Writes the tidy table as CSV and, beside it, one to read
    as .md, .tex and .png, the protocol behind it, and a .json with provenance. A row has three columns (seconds,
    processor seconds, MB of main memory) for each stage: calibration of the banks that the method reads (0 where it
    reads none), the states, which all methods share, and assembly. A job that was stopped and went on counts its last
    process only.

      altq cost --checkpoints results/checkpoints/smollm2/*/*/*/seed* --output results/cost.csv
    """
    presentation = read_options(arguments, Presentation)
    require_consistency({folder: result_lineage(folder) for folder in arguments.checkpoints})
    write_cost({folder: read_record(folder) for folder in arguments.checkpoints}, arguments.output, presentation)
    write_presented(arguments.output, presentation, provenance("cost", {}, arguments.checkpoints))
