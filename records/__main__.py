"""python -m records new runs/ID [runs/ID2 ...]: the record folder of finished runs that differ in their seed."""

from pathlib import Path

import tyro

from records.new import new_record
from runtime.command import exit_with


def new(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    destination: Path = Path("records"),
) -> None:
    """Writes a record folder from run folders of one recipe with different seeds, and prints where it lies.

    Args:
        runs: the run folders, runs/ID; the first one's model.bin goes into the record.
        destination: the folder that holds the tracks.
    """
    print(new_record(list(runs), destination))


if __name__ == "__main__":
    exit_with(lambda: tyro.extras.subcommand_cli_from_dict({"new": new}, prog="python -m records", description=__doc__))
