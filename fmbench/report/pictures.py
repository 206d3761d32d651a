"""Pictures of flows and samples: trajectories and point clouds as small SVG, images as one PNG mosaic a cell."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from PIL import Image

from ..results import Picture

SIDE = 150  # pixels of a panel
INK = ["#c9d7ea", "#a9c3e3", "#86acd9", "#6292cb", "#4478b9", "#2f5f9f", "#214883", "#163264"]  # t = 0 … 1
POINTS = 600  # drawn in a panel at most; more is only ink
LINES = 60


@dataclass(frozen=True)
class Wall:
    """Panels in rows and columns: `cells[row][column]`, None where there is no picture."""

    title: str
    columns: list[str]
    rows: list[str]
    cells: list[list[Markup | None]]


def trajectories(pictures: Sequence[Picture]) -> list[tuple[str, Markup]]:
    """A panel for each flow and data set in the plane: its lines from light (t = 0) to dark (t = 1), data in grey behind."""
    drawn = [p for p in pictures if p.kind == "trajectory" and p.array.ndim == 3 and p.array.shape[-1] == 2]
    several = len({picture.data for picture in drawn}) > 1
    flows: dict[str, Picture] = {}
    for picture in drawn:
        name = " · ".join(filter(None, [picture.method or "flow", picture.data if several else None]))
        flows.setdefault(name, picture)
    if not flows:
        return []
    # One scale for all, but for a flow that starts much farther out (VE): beside it the others would shrink to dots.
    extents = {method: float(np.abs(flow.array[[0, -1]]).max()) for method, flow in flows.items()}
    ordinary = [flow.array[[0, -1]] for method, flow in flows.items() if extents[method] <= 4 * min(extents.values())]
    panels = []
    for method, flow in flows.items():
        alone = extents[method] > 4 * min(extents.values())
        window = _window([flow.array[[0, -1]]] if alone else ordinary, 0.12)
        real = _data_for(flow, pictures)
        behind = _dots(real.array, window, "#e0e0e0", 2.0) if real is not None else ""
        panels.append((method, _svg(behind + _lines(flow, window), f"trajectories of {method}")))
    return panels


def sample_walls(pictures: Sequence[Picture]) -> list[Wall]:
    """For each data set and solver a wall: flows down, network calls across, real data in the last column."""
    walls = []
    samples = [picture for picture in pictures if picture.kind == "samples" and _drawable(picture.array)]
    several = len({picture.data for picture in samples}) > 1
    for data, solver in dict.fromkeys((picture.data, picture.solver) for picture in samples):
        here = [picture for picture in samples if (picture.data, picture.solver) == (data, solver)]
        methods = list(dict.fromkeys(picture.method or "flow" for picture in here))
        budgets = sorted({picture.nfe for picture in here if picture.nfe is not None})
        real = _data_for(here[0], pictures)
        window = _window([real.array] if real is not None and real.array.ndim == 2 else [p.array for p in here], 0.25)
        first = {(picture.method or "flow", picture.nfe): picture for picture in reversed(here)}
        cells = [[_panel(first.get((method, nfe)), window) for nfe in budgets] for method in methods]
        columns = [f"{nfe:g}" for nfe in budgets]
        if real is not None and _drawable(real.array):
            cells = [[*row, _panel(real, window) if place == 0 else None] for place, row in enumerate(cells)]
            columns.append("data")
        title = " · ".join(filter(None, [solver, data if several else None])) or "samples"
        walls.append(Wall(title, columns, methods, cells))
    return walls


def _panel(picture: Picture | None, window: np.ndarray) -> Markup | None:
    if picture is None:
        return None
    name = (
        "real data" if picture.kind == "data" else f"samples of {picture.method}, {picture.solver}, {picture.nfe} calls"
    )
    if picture.array.ndim == 2:
        return _svg(_dots(picture.array, window, "#666" if picture.kind == "data" else INK[5], 2.2), name)
    return Markup('<img class="mosaic" alt="{}" src="{}">').format(name, mosaic(picture.array))


def mosaic(images: np.ndarray, columns: int = 5) -> str:
    """Images `(m, 1 or 3, H, W)` in [-1, 1] as one PNG data URI, at most columns² of them; a NaN pixel is red."""
    images = images[: columns * columns]
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        rgb = np.repeat(image, 3, 0) if channels == 1 else image
        broken = ~np.isfinite(rgb).all(0)
        bytes_ = np.floor(np.clip(np.nan_to_num(rgb) * 127.5 + 128, 0, 255)).astype(np.uint8).transpose(1, 2, 0)
        bytes_[broken] = (200, 30, 30)
        sheet[top : top + height, left : left + width] = bytes_
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _drawable(array: np.ndarray) -> bool:
    return (array.ndim == 2 and array.shape[1] == 2) or (array.ndim == 4 and array.shape[1] in (1, 3))


def _data_for(picture: Picture, pictures: Sequence[Picture]) -> Picture | None:
    return next((other for other in pictures if other.kind == "data" and other.data == picture.data), None)


def _window(arrays: Sequence[np.ndarray], margin: float = 0.05) -> np.ndarray:
    """Corner and side of the square that holds nearly all points: `(left, bottom, side)`."""
    flat = [array.reshape(-1, array.shape[-1]) for array in arrays if array.shape[-1] == 2]
    points = np.concatenate(flat) if flat else np.zeros((1, 2))
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        points = np.zeros((1, 2))
    low, high = np.quantile(points, [0.01, 0.99], axis=0)
    side = float((high - low).max()) * (1 + 2 * margin) or 1.0
    left, bottom = (low + high) / 2 - side / 2
    return np.array([left, bottom, side])


def _pixels(points: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Points `(…, 2)` as pixels, y downward, kept within a few panels: an exploding flow stays small to write."""
    scaled = (points - window[:2]) / window[2]
    scaled[..., 1] = 1 - scaled[..., 1]
    return np.clip(scaled, -3, 4) * SIDE


def _dots(points: np.ndarray, window: np.ndarray, colour: str, size: float) -> str:
    points = points[:POINTS]
    pixels = _pixels(points[np.isfinite(points).all(1)], window)
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in pixels)
    return f'<path d="{path}" stroke="{colour}" stroke-width="{size}" stroke-linecap="round" opacity=".75"/>'


def _lines(flow: Picture, window: np.ndarray) -> str:
    """Lines `(T, m, 2)` in len(INK) pieces of equal time, each one path; a ring at the start, a dot at the end."""
    lines = flow.array[:, :LINES]
    lines = lines[:, np.isfinite(lines).all((0, 2))]
    steps = len(lines)
    times = flow.times if flow.times is not None and len(flow.times) == steps else np.linspace(0, 1, steps)
    span = float(times[-1] - times[0]) or 1.0
    piece = np.minimum(((times - times[0]) / span * len(INK)).astype(int), len(INK) - 1)
    pixels = _pixels(lines.astype(np.float64), window)
    parts = []
    for place, colour in enumerate(INK):
        inside = np.flatnonzero(piece[:-1] == place)
        if len(inside):
            cut = pixels[inside[0] : inside[-1] + 2]
            path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in cut[:, line]) for line in range(cut.shape[1]))
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="0.9" opacity=".9"/>')
    start, end = (
        "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>' for x, y in pixels[index])
        for index, radius in ((0, 1.3), (-1, 1.5))
    )
    return "".join(parts) + f'<g fill="#fff" stroke="#777" stroke-width=".6">{start}</g><g fill="{INK[-1]}">{end}</g>'


def _svg(content: str, name: str) -> Markup:
    """`content` is ours, made of numbers alone; the name is escaped."""
    head = Markup('<svg viewBox="0 0 {0} {0}" role="img" aria-label="{1}">').format(SIDE, name)
    return head + Markup(content) + Markup("</svg>")
