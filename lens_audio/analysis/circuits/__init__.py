"""Circuits as matrices of edges: which node tells which, and whether a few edges do what all do."""

from lens_audio.analysis.circuits.edges import METHODS, edges
from lens_audio.analysis.circuits.faithfulness import (
    RESTS,
    CircuitResult,
    FaithfulnessCurve,
    circuit_metric,
    faithfulness_curve,
)
from lens_audio.analysis.circuits.graph import Graph
from lens_audio.analysis.circuits.nodes import Nodes, Receiver
from lens_audio.analysis.circuits.pairs import pairs_of_items

__all__ = [
    "METHODS",
    "RESTS",
    "CircuitResult",
    "FaithfulnessCurve",
    "Graph",
    "Nodes",
    "Receiver",
    "circuit_metric",
    "edges",
    "faithfulness_curve",
    "pairs_of_items",
]
