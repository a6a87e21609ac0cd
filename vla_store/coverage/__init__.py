"""Which steps samplers reach: those of RDT, of a LIBERO port of it in its versions, and full enumeration.

    from vla_store.coverage import demos_of_store, measure, report_text
    print(report_text(measure(demos_of_store("libero.vla"))))

demos.py what is drawn from; samplers.py the rules; formulas.py what follows from them exactly; simulation.py the same by drawing;
report.py both side by side, and what was said about them elsewhere; plot.py a picture; weights.py what weights do to an epoch.
"""

from __future__ import annotations

from vla_store.coverage.demos import Demos, demos_of_lengths, demos_of_store, read_lengths
from vla_store.coverage.plot import plot_report
from vla_store.coverage.quoted import judge, judged_text
from vla_store.coverage.report import measure, report_text
from vla_store.coverage.weights import measure_weights, weights_text

__all__ = [
    "Demos",
    "demos_of_lengths",
    "demos_of_store",
    "judge",
    "judged_text",
    "measure",
    "measure_weights",
    "plot_report",
    "read_lengths",
    "report_text",
    "weights_text",
]
