"""Circuits as matrices of edges: which node tells which, and whether a few edges do what all do."""

from lens_audio.analysis.circuits.edges import METHODS, edges
from lens_audio.analysis.circuits.graph import Graph, Nodes, Receiver

__all__ = ["METHODS", "Graph", "Nodes", "Receiver", "edges"]
